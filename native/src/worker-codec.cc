// What TypeScript sees of the worker's codec (its types stand in src/native.ts):
//
//   createDecoder(plan: Uint8Array): ((slab: Uint8Array, first: number, rows: number) => number) | null
//   createEncoder(plan: Uint8Array): ((slab: Uint8Array, first, rows, used: number) => number) | null
//
// Null: the twin does it. A function keeps its codec alive; it belongs to the thread that made it.
#include "worker-codec.h"

#include "decode-batch.h"
#include "encode-batch.h"
#include "napi.h"

namespace subito {
namespace {

// The memory of a Uint8Array, shared or not. False: it is none, and an error is pending or returned.
bool BytesOfArray(napi_env env, napi_value value, uint8_t** bytes, size_t* length) {
  napi_typedarray_type type;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, value, &type, length, &data, nullptr, nullptr) != napi_ok) return false;
  *bytes = static_cast<uint8_t*>(data);
  return type == napi_uint8_array;
}

// A function that calls `callback` with `codec` as its data, and takes it along when it goes.
template <typename Codec>
napi_value FunctionOf(napi_env env, napi_callback callback, std::unique_ptr<Codec> codec) {
  napi_value function;
  if (napi_create_function(env, nullptr, 0, callback, codec.get(), &function) != napi_ok) return nullptr;
  const napi_finalize drop = [](napi_env, void* data, void*) { delete static_cast<Codec*>(data); };
  if (napi_add_finalizer(env, function, codec.get(), drop, nullptr, nullptr) != napi_ok) return nullptr;
  codec.release();
  return function;
}

template <typename Codec>
napi_value Create(napi_env env, napi_callback_info info, napi_callback callback) {
  size_t count = 1;
  napi_value plan;
  if (napi_get_cb_info(env, info, &count, &plan, nullptr, nullptr) != napi_ok) return nullptr;
  uint8_t* bytes = nullptr;
  size_t length = 0;
  if (count < 1 || !BytesOfArray(env, plan, &bytes, &length)) return Fail(env, "a plan must be a Uint8Array");
  auto codec = std::make_unique<Codec>();
  if (codec->Read(bytes, length)) return FunctionOf(env, callback, std::move(codec));
  napi_value null;
  return napi_get_null(env, &null) == napi_ok ? null : nullptr;
}

// The arguments of a codec's function: the slab, and `kNumbers` numbers.
template <size_t kNumbers>
struct Arguments {
  void* codec = nullptr;
  uint8_t* slab = nullptr;
  size_t slab_bytes = 0;
  uint32_t numbers[kNumbers] = {};

  bool Read(napi_env env, napi_callback_info info) {
    size_t count = kNumbers + 1;
    napi_value given[kNumbers + 1];
    if (napi_get_cb_info(env, info, &count, given, nullptr, &codec) != napi_ok) return false;
    if (count < kNumbers + 1 || !BytesOfArray(env, given[0], &slab, &slab_bytes)) return false;
    for (size_t i = 0; i < kNumbers; i++) {
      if (napi_get_value_uint32(env, given[i + 1], &numbers[i]) != napi_ok) return false;
    }
    return true;
  }
};

napi_value Answer(napi_env env, int64_t number) {
  if (number < 0) return Fail(env, "slab and rows are not those of the plan");
  napi_value answer;
  return napi_create_uint32(env, static_cast<uint32_t>(number), &answer) == napi_ok ? answer : nullptr;
}

napi_value Decode(napi_env env, napi_callback_info info) {
  Arguments<2> given;
  if (!given.Read(env, info)) return Fail(env, "decode takes a slab, a first row and a number of rows");
  const auto [first, rows] = given.numbers;
  auto* const decoder = static_cast<BatchDecoder*>(given.codec);
  return Answer(env, decoder->Decode(given.slab, given.slab_bytes, first, rows));
}

napi_value Encode(napi_env env, napi_callback_info info) {
  Arguments<3> given;
  if (!given.Read(env, info)) return Fail(env, "encode takes a slab, a first row, rows and the bytes used");
  const auto [first, rows, used] = given.numbers;
  auto* const encoder = static_cast<BatchEncoder*>(given.codec);
  return Answer(env, encoder->Encode(given.slab, given.slab_bytes, first, rows, used));
}

napi_value CreateDecoder(napi_env env, napi_callback_info info) {
  return Create<BatchDecoder>(env, info, Decode);
}

napi_value CreateEncoder(napi_env env, napi_callback_info info) {
  return Create<BatchEncoder>(env, info, Encode);
}

}  // namespace

napi_status RegisterWorkerCodec(napi_env env, napi_value exports) {
  const napi_status status = Export(env, exports, "createDecoder", CreateDecoder);
  return status == napi_ok ? Export(env, exports, "createEncoder", CreateEncoder) : status;
}

}  // namespace subito
