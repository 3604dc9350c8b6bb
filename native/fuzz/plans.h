// Plans as src/infer/native-codec.ts writes them, and slabs for them, for the fuzzers.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "../src/plan.h"

// A property that must hold, whatever the input.
#define MUST(condition)                                                      \
  do {                                                                       \
    if (condition) break;                                                    \
    std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);     \
    std::abort();                                                            \
  } while (false)

namespace fuzz {

constexpr uint32_t kRows = 4;
constexpr uint32_t kArenaBytes = 4096;
constexpr uint32_t kTableBytes = kRows * 32;

class PlanBuilder {
 public:
  PlanBuilder& Number(uint32_t value) {
    const uint8_t* const at = reinterpret_cast<const uint8_t*>(&value);
    bytes_.insert(bytes_.end(), at, at + 4);
    return *this;
  }

  PlanBuilder& Text(const std::string& text) {
    Number(static_cast<uint32_t>(text.size()));
    bytes_.insert(bytes_.end(), text.begin(), text.end());
    return *this;
  }

  PlanBuilder& Layout(uint32_t slab_bytes) {
    return Number(kRows).Number(slab_bytes).Number(slab_bytes - kArenaBytes).Number(kArenaBytes);
  }

  PlanBuilder& Region(uint32_t offset, subito::Dtype dtype, const std::vector<uint32_t>& shape) {
    uint32_t elements = 1;
    for (const uint32_t dim : shape) elements *= dim;
    Number(offset).Number(static_cast<uint32_t>(dtype)).Number(elements);
    Number(static_cast<uint32_t>(shape.size()));
    for (const uint32_t dim : shape) Number(dim);
    return *this;
  }

  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

struct Tensor {
  subito::Dtype dtype;
  std::vector<uint32_t> shape;
  // Of an input: whether each element has a name of its own, and what rows must not hold.
  bool named = false;
  uint32_t check = 0;
  // Of an output: 0 none, 1 scores, 2 indices.
  uint32_t labelled = 0;

  uint32_t Elements() const {
    uint32_t elements = 1;
    for (const uint32_t dim : shape) elements *= dim;
    return elements;
  }
  uint32_t RegionBytes() const { return (Elements() * subito::BytesOf(dtype) * kRows + 63) / 64 * 64; }
};

// The arena is the slab's end, so that what is read behind it is noticed.
inline uint32_t SlabBytes(const std::vector<Tensor>& tensors) {
  uint32_t bytes = kTableBytes;
  for (const Tensor& tensor : tensors) bytes += tensor.RegionBytes();
  return bytes + kArenaBytes;
}

// Names: a, b, c, ... in the order of fields; every other field has a default.
inline std::vector<uint8_t> DecoderPlan(const std::vector<Tensor>& inputs) {
  PlanBuilder plan;
  plan.Layout(SlabBytes(inputs)).Number(static_cast<uint32_t>(inputs.size()));
  uint32_t offset = kTableBytes;
  uint32_t fields = 0;
  for (const Tensor& input : inputs) {
    plan.Region(offset, input.dtype, input.shape).Number(input.check);
    offset += input.RegionBytes();
    fields += input.named ? input.Elements() : 1;
  }
  plan.Number(fields);
  char name = 'a';
  for (uint32_t i = 0; i < inputs.size(); i++) {
    const uint32_t count = inputs[i].named ? inputs[i].Elements() : 1;
    for (uint32_t k = 0; k < count; k++, name++) {
      plan.Text(std::string(1, name)).Number(i).Number(inputs[i].named ? k : 0xffffffff);
      plan.Number(static_cast<uint32_t>(inputs[i].dtype));
      plan.Number(inputs[i].named && k % 2 == 1 ? 1 : 0).Number(0).Number(0);
    }
  }
  return plan.bytes();
}

inline std::vector<uint8_t> EncoderPlan(const std::vector<Tensor>& outputs) {
  PlanBuilder plan;
  plan.Layout(SlabBytes(outputs)).Number(static_cast<uint32_t>(outputs.size()));
  uint32_t offset = kTableBytes;
  for (const Tensor& output : outputs) {
    plan.Region(offset, output.dtype, output.shape).Number(output.labelled);
    offset += output.RegionBytes();
    plan.Text("\xa1y").Text("\"y\":");
    const uint32_t labels = output.labelled == 0 ? 0 : output.labelled == 1 ? output.Elements() : 3;
    plan.Number(labels);
    for (uint32_t i = 0; i < labels; i++) plan.Text("\xa3" "abc");
    plan.Number(labels);
    for (uint32_t i = 0; i < labels; i++) plan.Text(output.labelled == 1 ? "\"abc\":" : "\"abc\"");
  }
  return plan.bytes();
}

// What the fuzzer gives, taken from its front.
class Input {
 public:
  Input(const uint8_t* at, size_t size) : at_(at), size_(size) {}

  uint8_t Byte() {
    if (size_ == 0) return 0;
    size_--;
    return *at_++;
  }

  size_t size() const { return size_; }

  // At most `count` bytes to `target`; returns how many there were.
  size_t Take(uint8_t* target, size_t count) {
    const size_t taken = count < size_ ? count : size_;
    if (taken > 0) std::memcpy(target, at_, taken);
    at_ += taken;
    size_ -= taken;
    return taken;
  }

 private:
  const uint8_t* at_;
  size_t size_;
};

}  // namespace fuzz
