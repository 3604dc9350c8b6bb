# Built by deploy/setup.sh: node-gyp configure build --directory native --nodedir <the npm package that brings
# Node, which has the headers>. Nothing is downloaded.
{
  'targets': [
    {
      'target_name': 'subito',
      'sources': [
        'src/addon.cc',
        'src/worker-codec.cc',
        'src/batch.cc',
        'src/thread-clock.cc',
      ],
      'defines': [
        # Node 22 and everything after it has this version of Node-API.
        'NAPI_VERSION=9',
        'SUBITO_VERSION="<!(node -p "require(\'../package.json\').version")"',
      ],
      # No fused multiply-add: numbers are rounded where JavaScript rounds them.
      'cflags_cc': [ '-std=c++17', '-fvisibility=hidden', '-ffp-contract=off', '-Wall', '-Wextra' ],
      'xcode_settings': {
        'CLANG_CXX_LANGUAGE_STANDARD': 'c++17',
        'GCC_SYMBOLS_PRIVATE_EXTERN': 'YES',
        'MACOSX_DEPLOYMENT_TARGET': '13.3',
        'OTHER_CPLUSPLUSFLAGS': [ '-ffp-contract=off', '-Wall', '-Wextra' ],
      },
    },
  ],
}
