// Any bits in the output tensors and in the row table, in the encoder of the worker.
#include "../src/encode-batch.h"
#include "plans.h"

using fuzz::kArenaBytes;
using fuzz::kRows;
using subito::Dtype;

namespace {

struct Model {
  std::vector<fuzz::Tensor> outputs;
  uint32_t slab_bytes;
  subito::BatchEncoder encoder;

  explicit Model(std::vector<fuzz::Tensor> given) : outputs(std::move(given)) {
    const std::vector<uint8_t> plan = fuzz::EncoderPlan(outputs);
    slab_bytes = fuzz::SlabBytes(outputs);
    MUST(encoder.Read(plan.data(), plan.size()));
  }
};

std::vector<std::unique_ptr<Model>> Models() {
  std::vector<std::unique_ptr<Model>> models;
  const auto add = [&models](std::vector<fuzz::Tensor> outputs) {
    models.push_back(std::make_unique<Model>(std::move(outputs)));
  };
  add({{Dtype::kFloat32, {8}}});
  add({{Dtype::kFloat64, {4}}, {Dtype::kFloat16, {2, 2}}});
  add({{Dtype::kFloat32, {3}, false, 0, 1}, {Dtype::kInt64, {3}, false, 0, 2}, {Dtype::kUint64, {}}});
  add({{Dtype::kInt8, {2, 1, 2}}, {Dtype::kUint16, {2}}, {Dtype::kInt16, {}, false, 0, 2}});
  add({{Dtype::kBool, {3}}, {Dtype::kInt32, {2}}, {Dtype::kUint8, {2}}, {Dtype::kUint32, {2}}});
  // Does not fit the arena once for each row.
  add({{Dtype::kFloat64, {150}}});
  return models;
}

// A float in the JSON of the first model must be that float again.
void MustRead(const uint8_t* json, int32_t length, const uint8_t* row) {
  const std::string text(reinterpret_cast<const char*>(json), static_cast<size_t>(length));
  size_t at = text.find('[') + 1;
  for (uint32_t i = 0; i < 8; i++) {
    const float value = subito::FloatOf(subito::Load<uint32_t>(row + i * 4));
    const size_t end = text.find_first_of(",]", at);
    const std::string item = text.substr(at, end - at);
    if (std::isfinite(value)) {
      MUST(static_cast<float>(std::strtod(item.c_str(), nullptr)) == value);
    } else {
      MUST(item == "null");
    }
    at = end + 1;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<std::unique_ptr<Model>> models = Models();
  fuzz::Input input(data, size);
  const size_t chosen = input.Byte() % models.size();
  Model& model = *models[chosen];
  uint32_t used = input.Byte() * 16u;
  const std::unique_ptr<uint8_t[]> slab(new uint8_t[model.slab_bytes]());
  input.Take(slab.get(), fuzz::kTableBytes);
  // Mostly rows that are ok.
  for (uint32_t row = 0; row < kRows; row++) {
    if (slab[row * 32] % 4 != 0) subito::Store<int32_t>(slab.get() + row * 32 + 16, subito::kResultOk);
    slab[row * 32 + 12] &= 1;
    if (slab[row * 32] % 4 != 0) std::memset(slab.get() + row * 32 + 13, 0, 3);
  }
  input.Take(slab.get() + fuzz::kTableBytes, model.slab_bytes - fuzz::kTableBytes - kArenaBytes);
  const uint8_t* const arena = slab.get() + model.slab_bytes - kArenaBytes;
  const int64_t end = model.encoder.Encode(slab.get(), model.slab_bytes, 0, kRows, used);
  MUST(end >= used && end <= kArenaBytes);
  for (uint32_t row = 0; row < kRows; row++) {
    const uint8_t* const entry = slab.get() + row * 32;
    if (subito::Load<int32_t>(entry + 16) != subito::kResultOk) continue;
    const int32_t offset = subito::Load<int32_t>(entry + 20);
    const int32_t length = subito::Load<int32_t>(entry + 24);
    if (length == subito::kLeft) continue;
    MUST(offset == static_cast<int32_t>(used) && length > 0);
    used += static_cast<uint32_t>(length);
    const bool json = subito::Load<int32_t>(entry + 12) == subito::kEncodingJson;
    MUST(arena[offset] == (json ? '{' : 0x80 + model.outputs.size()));
    if (json && chosen == 0) MustRead(arena + offset, length, slab.get() + fuzz::kTableBytes + row * 32);
  }
  MUST(static_cast<int64_t>(used) == end);
  return 0;
}
