// The little that all pieces need of Node-API. The addon uses the plain C interface: it throws no C++
// exceptions, and a call costs what the interface itself costs.
#pragma once

#include <node_api.h>

namespace subito {

// Throws a JavaScript Error and returns null, for `return Fail(env, ...)`.
inline napi_value Fail(napi_env env, const char* message) {
  napi_throw_error(env, nullptr, message);
  return nullptr;
}

// Adds a function to `exports`.
inline napi_status Export(napi_env env, napi_value exports, const char* name, napi_callback callback) {
  napi_value function;
  const napi_status status = napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function);
  if (status != napi_ok) return status;
  return napi_set_named_property(env, exports, name, function);
}

}  // namespace subito
