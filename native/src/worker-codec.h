// The codec of the worker: createDecoder and createEncoder.
#pragma once

#include <node_api.h>

namespace subito {

napi_status RegisterWorkerCodec(napi_env env, napi_value exports);

}  // namespace subito
