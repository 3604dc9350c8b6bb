// Events that mean harm, in the decoder of the worker. The first byte chooses the model, the second how the
// event is placed: at the end of the arena, or where a row table of the fuzzer's own says.
#include "../src/decode-batch.h"
#include "plans.h"

using fuzz::kArenaBytes;
using fuzz::kRows;
using subito::Dtype;

namespace {

struct Model {
  std::vector<fuzz::Tensor> inputs;
  uint32_t slab_bytes;
  subito::BatchDecoder decoder;

  explicit Model(std::vector<fuzz::Tensor> given) : inputs(std::move(given)) {
    const std::vector<uint8_t> plan = fuzz::DecoderPlan(inputs);
    slab_bytes = fuzz::SlabBytes(inputs);
    MUST(decoder.Read(plan.data(), plan.size()));
  }
};

std::vector<std::unique_ptr<Model>> Models() {
  std::vector<std::unique_ptr<Model>> models;
  const auto add = [&models](std::vector<fuzz::Tensor> inputs) {
    models.push_back(std::make_unique<Model>(std::move(inputs)));
  };
  add({{Dtype::kFloat32, {6}, true, 1}});
  add({{Dtype::kFloat32, {2, 2}}, {Dtype::kInt64, {3}}});
  add({{Dtype::kFloat16, {3}, true, 1}, {Dtype::kBool, {2}, true, 2}, {Dtype::kFloat64, {}}});
  add({{Dtype::kInt8, {2, 1, 2}}, {Dtype::kUint16, {2}, true}, {Dtype::kUint64, {1}}});
  add({{Dtype::kInt16, {}}, {Dtype::kInt32, {4}, true}, {Dtype::kUint8, {3}}, {Dtype::kUint32, {1, 2}}});
  add({{Dtype::kFloat64, {5}, false, 1}, {Dtype::kBool, {3}, false, 2}});
  return models;
}

// Nothing but the row's own elements and the results of the rows may change.
void MustBeWithin(const Model& model, const uint8_t* before, const uint8_t* after, uint32_t row) {
  for (uint32_t i = 0; i < fuzz::kTableBytes; i++) {
    const bool result = i % 32 >= 16 && i % 32 < 20;
    MUST(result || before[i] == after[i]);
  }
  uint32_t offset = fuzz::kTableBytes;
  for (const fuzz::Tensor& input : model.inputs) {
    const uint32_t row_bytes = input.Elements() * subito::BytesOf(input.dtype);
    const uint32_t from = offset + row * row_bytes;
    for (uint32_t i = offset; i < offset + input.RegionBytes(); i++) {
      MUST((i >= from && i < from + row_bytes) || before[i] == after[i]);
    }
    offset += input.RegionBytes();
  }
  MUST(std::memcmp(before + offset, after + offset, kArenaBytes) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<std::unique_ptr<Model>> models = Models();
  fuzz::Input input(data, size);
  Model& model = *models[input.Byte() % models.size()];
  const uint8_t way = input.Byte();
  // Of this very size, so that a byte too many is one outside.
  const std::unique_ptr<uint8_t[]> slab(new uint8_t[model.slab_bytes]());
  uint8_t* const arena = slab.get() + model.slab_bytes - kArenaBytes;
  if (way % 4 == 0) {
    input.Take(slab.get(), fuzz::kTableBytes);
    input.Take(arena, kArenaBytes);
    const int32_t left = model.decoder.Decode(slab.get(), model.slab_bytes, 0, kRows);
    MUST(left >= 0 && left <= static_cast<int32_t>(kRows));
    return 0;
  }
  const uint32_t row = way / 4 % kRows;
  // A table that says more than there is.
  const uint32_t more = way / 16 < 8 ? 0 : way / 16 - 7u;
  const uint32_t length = static_cast<uint32_t>(input.size() < kArenaBytes ? input.size() : kArenaBytes);
  input.Take(arena + kArenaBytes - length, length);
  const int32_t entry[8] = {subito::kFormData, static_cast<int32_t>(kArenaBytes - length),
                            static_cast<int32_t>(length + more), 0, 0, 0, 0, 0};
  std::memcpy(slab.get() + row * 32, entry, sizeof entry);
  const std::unique_ptr<uint8_t[]> before(new uint8_t[model.slab_bytes]);
  std::memcpy(before.get(), slab.get(), model.slab_bytes);
  const int32_t left = model.decoder.Decode(slab.get(), model.slab_bytes, row, 1);
  const int32_t result = subito::Load<int32_t>(slab.get() + row * 32 + 16);
  MUST(more == 0 || left == 1);
  MUST(left == (result == subito::kLeft ? 1 : 0));
  MUST(result == subito::kLeft || result == subito::kResultOk);
  MustBeWithin(model, before.get(), slab.get(), row);
  return 0;
}
