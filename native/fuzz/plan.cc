// Plans of which some bytes are others; where such a plan is good, a batch with it. The first byte chooses
// the plan, the next three times six are a place and what stands there from now on.
#include "../src/decode-batch.h"
#include "../src/encode-batch.h"
#include "plans.h"

using subito::Dtype;

namespace {

std::vector<std::vector<uint8_t>> Plans() {
  return {
      fuzz::DecoderPlan({{Dtype::kFloat32, {6}, true, 1}}),
      fuzz::DecoderPlan({{Dtype::kInt64, {2, 2}}, {Dtype::kBool, {3}, true, 2}}),
      fuzz::EncoderPlan({{Dtype::kFloat32, {3}, false, 0, 1}}),
      fuzz::EncoderPlan({{Dtype::kInt8, {2}, false, 0, 2}, {Dtype::kFloat64, {2, 2}}}),
  };
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<std::vector<uint8_t>> plans = Plans();
  fuzz::Input input(data, size);
  std::vector<uint8_t> plan = plans[input.Byte() % plans.size()];
  for (int i = 0; i < 3; i++) {
    const uint32_t place = input.Byte() + 256u * (input.Byte() % 2);
    uint32_t value = 0;
    if (input.Take(reinterpret_cast<uint8_t*>(&value), 4) < 4 || place + 4 > plan.size()) break;
    subito::Store(plan.data() + place, value);
  }
  const uint32_t rows = subito::Load<uint32_t>(plan.data());
  const uint32_t slab_bytes = subito::Load<uint32_t>(plan.data() + 4);
  // Large ones are as good as small ones, and take long.
  if (slab_bytes > 1 << 16) return 0;
  const std::unique_ptr<uint8_t[]> slab(new uint8_t[slab_bytes]());
  input.Take(slab.get(), slab_bytes);
  subito::BatchDecoder decoder;
  const bool decodes = decoder.Read(plan.data(), plan.size());
  if (decodes) MUST(decoder.Decode(slab.get(), slab_bytes, 0, rows) >= 0);
  for (uint32_t row = 0; decodes && row < rows; row++) {
    // Whatever the table says, one event that is good for the plans as they were.
    const int32_t entry[3] = {subito::kFormData, 0, 4};
    std::memcpy(slab.get() + row * 32, entry, sizeof entry);
    const uint32_t arena = subito::Load<uint32_t>(plan.data() + 8);
    if (arena + 4 <= slab_bytes) std::memcpy(slab.get() + arena, "\x81\xa1" "a\x01", 4);
    decoder.Decode(slab.get(), slab_bytes, row, 1);
  }
  subito::BatchEncoder encoder;
  if (encoder.Read(plan.data(), plan.size())) MUST(encoder.Encode(slab.get(), slab_bytes, 0, rows, 0) >= 0);
  return 0;
}
