// How the addon is found, chosen and refused. What its pieces do is tested beside their twins.
import { execFile, execFileSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { afterAll, expect, test } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { loadNative, NATIVE_ABI, nativePaths, nativeText } from '../src/native.ts';
import { fixture } from './support/models.ts';

const run = promisify(execFile);
const dir = mkdtempSync(join(tmpdir(), 'subito-native-'));
afterAll(() => rmSync(dir, { recursive: true }));

function has(program: string): boolean {
  try {
    execFileSync(program, ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
/** Without the addon, and with what it needs to start a pool. */
function copyWithoutAddon(): string {
  const copy = join(dir, 'copy');
  cpSync('src', join(copy, 'src'), { recursive: true });
  copyFileSync('package.json', join(copy, 'package.json'));
  symlinkSync(join(process.cwd(), 'node_modules'), join(copy, 'node_modules'));
  return copy;
}

const canBuild = has('g++') && has('make') && has('python3');
const built = nativePaths(process.platform, process.arch);

test.runIf(canBuild)('where there is a compiler, the addon is there and of this version', () => {
  const { native, why } = loadNative('auto');
  expect(native?.abi, why).toBe(NATIVE_ABI);
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  expect(why).toMatch(new RegExp(`^native/(build|prebuilds)/.*subito\\.node, version ${version}$`));
});

test('off: the twins, whatever is there', () => {
  const choice = loadNative('off', built);
  expect(choice).toEqual({ native: null, why: 'native is off' });
  expect(nativeText(choice)).toBe('no native addon, TypeScript does its work: native is off');
});

test('no addon: the twins, or no start', () => {
  const nowhere = [join(dir, 'nowhere.node')];
  expect(loadNative('auto', nowhere)).toEqual({
    native: null,
    why: 'it has not been built; deploy/setup.sh says why',
  });
  expect(() => loadNative('on', nowhere)).toThrow(
    expect.objectContaining({
      code: 'NATIVE_UNAVAILABLE',
      message: expect.stringContaining('not been built'),
    }),
  );
});

test('an addon that cannot be loaded is passed over, with the reason', () => {
  const broken = join(dir, 'broken.node');
  writeFileSync(broken, 'not a library');
  const { native, why } = loadNative('auto', [broken]);
  expect(native).toBe(null);
  expect(why).toContain(`${broken} cannot be loaded: `);
  expect(() => loadNative('on', [broken])).toThrow(expect.objectContaining({ code: 'NATIVE_UNAVAILABLE' }));
});

test.runIf(canBuild)(
  'an addon of another version is refused, and one that fits behind it taken',
  async () => {
    const other = join(dir, 'other');
    mkdirSync(other);
    const headers = ['-I', `node_modules/node-${process.platform}-${process.arch}/include/node`];
    writeFileSync(
      join(other, 'other.cc'),
      `#include <node_api.h>
     NAPI_MODULE_INIT() {
       napi_value abi;
       napi_create_int32(env, ${NATIVE_ABI + 1}, &abi);
       napi_set_named_property(env, exports, "abi", abi);
       return exports;
     }`,
    );
    const path = join(other, 'subito.node');
    const shared = process.platform === 'darwin' ? ['-undefined', 'dynamic_lookup'] : [];
    await run('g++', ['-shared', '-fPIC', ...shared, ...headers, '-o', path, join(other, 'other.cc')]);
    const refused = loadNative('auto', [path]);
    expect(refused.native).toBe(null);
    expect(refused.why).toContain(`was built for interface ${NATIVE_ABI + 1}, not ${NATIVE_ABI}`);
    expect(loadNative('auto', [path, ...built]).native?.abi).toBe(NATIVE_ABI);
  },
);

test.runIf(canBuild)('several threads have it at the same time, and go again', async () => {
  const code = `
    import { parentPort, workerData } from 'node:worker_threads';
    const { loadNative } = await import(workerData);
    parentPort.postMessage(loadNative('on').native.abi);
  `;
  const workerData = new URL('../src/native.ts', import.meta.url).href;
  const answer = async () => {
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), { workerData });
    const abi = await new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject));
    await worker.terminate();
    return abi;
  };
  loadNative('on');
  for (let round = 0; round < 3; round++) {
    expect(await Promise.all([answer(), answer(), answer()])).toEqual([NATIVE_ABI, NATIVE_ABI, NATIVE_ABI]);
  }
});

test('the configuration says which', () => {
  expect(loadConfig({ env: {} }).native).toBe('auto');
  expect(loadConfig({ env: { SUBITO_NATIVE: 'off' } }).native).toBe('off');
  expect(loadConfig({ env: {}, overrides: { native: 'on' } }).native).toBe('on');
  expect(() => loadConfig({ env: { SUBITO_NATIVE: 'maybe' } })).toThrow(/native = "maybe" \(SUBITO_NATIVE\)/);
});

test('workers that cannot load the addon although they should say so, once for all of them', async () => {
  const copy = copyWithoutAddon();
  const spec = JSON.stringify(fixture('same_float32'));
  const script = `
    import { channels } from './src/observe/channels.ts';
    import { startPool } from './src/infer/pool.ts';
    channels.notice.subscribe(({ level, code, message }) => console.log(level, code, message));
    const options = { specs: [${spec}], providers: ['cpu'], threads: 2, slabArenaBytes: 4096, native: true };
    const pool = await startPool(options);
    await pool.stop();
  `;
  writeFileSync(join(copy, 'start.ts'), script);
  const { stdout } = await run(process.execPath, ['start.ts'], { cwd: copy });
  expect(stdout).toMatch(
    /^warn NATIVE a worker has no native addon, TypeScript .*: it has not been built.*\n$/,
  );
}, 20_000);
