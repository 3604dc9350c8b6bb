// The addon: registers the pieces, each of which lives in files of its own and has a `Register...` function.
//
// Several threads load it, each with an environment of its own, so no piece keeps anything that changes in
// variables of the process: what outlives a call hangs on the objects that the piece hands out.
#include "abi.h"
#include "napi.h"
#include "worker-codec.h"

namespace subito {

napi_status RegisterBatch(napi_env env, napi_value exports);
napi_status RegisterThreadClock(napi_env env, napi_value exports);

namespace {

napi_status RegisterAbout(napi_env env, napi_value exports) {
  napi_value abi;
  napi_value version;
  napi_status status = napi_create_int32(env, kAbi, &abi);
  if (status == napi_ok) status = napi_set_named_property(env, exports, "abi", abi);
  if (status == napi_ok) status = napi_create_string_utf8(env, SUBITO_VERSION, NAPI_AUTO_LENGTH, &version);
  if (status == napi_ok) status = napi_set_named_property(env, exports, "version", version);
  return status;
}

using Register = napi_status (*)(napi_env, napi_value);

// A new piece gets a row here, and its .cc a row in binding.gyp.
constexpr Register kPieces[] = {
    RegisterAbout,
    RegisterWorkerCodec,
    RegisterBatch,
    RegisterThreadClock,
};

}  // namespace
}  // namespace subito

// Makes it a module that several environments may load.
NAPI_MODULE_INIT() {
  for (const subito::Register piece : subito::kPieces) {
    if (piece(env, exports) == napi_ok) continue;
    return subito::Fail(env, "a piece of the addon could not be registered");
  }
  return exports;
}
