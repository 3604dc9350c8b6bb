// What TypeScript tells the worker's codec about a model, once: the layout of its slabs and what stands
// where. src/infer/native-codec.ts writes it; numbers are 32-bit little-endian, texts a length and their
// bytes.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "bytes.h"
#include "columns.h"

namespace subito {

// More of the slab's row table (src/schedule/slab.ts).
constexpr size_t kRowResult = 4;
constexpr int32_t kEncodingJson = 1;
constexpr int32_t kResultOk = 0;

// In the result of a row that was not decoded, in the length of one not encoded: the twin does it.
constexpr int32_t kLeft = -1;

// In the order of DTYPES in src/infer/native-codec.ts.
enum class Dtype : uint32_t {
  kFloat32,
  kFloat64,
  kFloat16,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kBool,
};
constexpr uint32_t kDtypes = 12;
constexpr uint32_t kDtypeBytes[kDtypes] = {4, 8, 2, 1, 2, 4, 8, 1, 2, 4, 8, 1};

inline uint32_t BytesOf(Dtype dtype) { return kDtypeBytes[static_cast<uint32_t>(dtype)]; }
inline bool IsFloat(Dtype dtype) { return dtype <= Dtype::kFloat16; }

// Rows of more dimensions are left to the twin.
constexpr uint32_t kDimsMax = 8;
constexpr uint32_t kSlabBytesMax = 0x7fffffff;

// Where the parts of a slab lie.
struct SlabLayout {
  uint32_t rows = 0;
  uint32_t slab_bytes = 0;
  uint32_t arena_offset = 0;
  uint32_t arena_bytes = 0;
};

// The rows of one tensor in the slab.
struct Region {
  uint32_t offset = 0;
  Dtype dtype = Dtype::kFloat32;
  uint32_t elements = 0;
  std::vector<uint32_t> shape;

  uint32_t RowBytes() const { return elements * BytesOf(dtype); }
};

// Reads a plan. What does not fit makes it bad, and everything after it zero.
class PlanReader {
 public:
  PlanReader(const uint8_t* bytes, size_t length) : at_(bytes), end_(bytes + length) {}

  bool good() const { return good_; }
  bool finished() const { return good_ && at_ == end_; }
  void Refuse() { good_ = false; }

  uint32_t Number() {
    if (!good_ || end_ - at_ < 4) return Bad();
    const uint32_t value = Load<uint32_t>(at_);
    at_ += 4;
    return value;
  }

  // A number of things, each of which takes at least four bytes more.
  uint32_t Count() {
    const uint32_t count = Number();
    return count > static_cast<size_t>(end_ - at_) / 4 ? Bad() : count;
  }

  std::string Text() {
    const uint32_t length = Number();
    if (!good_ || length > static_cast<size_t>(end_ - at_)) {
      good_ = false;
      return {};
    }
    std::string text(reinterpret_cast<const char*>(at_), length);
    at_ += length;
    return text;
  }

  void Bytes(uint8_t* target, size_t count) {
    if (!good_ || static_cast<size_t>(end_ - at_) < count) {
      good_ = false;
      return;
    }
    std::memcpy(target, at_, count);
    at_ += count;
  }

  Dtype Type() {
    const uint32_t code = Number();
    return static_cast<Dtype>(code < kDtypes ? code : Bad());
  }

  SlabLayout Layout() {
    SlabLayout layout;
    layout.rows = Number();
    layout.slab_bytes = Number();
    layout.arena_offset = Number();
    layout.arena_bytes = Number();
    const uint64_t table = uint64_t{layout.rows} * kRowColumns * 4;
    const uint64_t arena_end = uint64_t{layout.arena_offset} + layout.arena_bytes;
    if (layout.rows == 0 || table > layout.slab_bytes || layout.slab_bytes > kSlabBytesMax) good_ = false;
    if (layout.arena_offset < table || arena_end > layout.slab_bytes) good_ = false;
    return layout;
  }

  // A tensor whose rows all lie within the slab, behind the table.
  Region Rows(const SlabLayout& layout) {
    Region region;
    region.offset = Number();
    region.dtype = Type();
    region.elements = Number();
    const uint32_t dims = Number();
    if (dims > kDimsMax) good_ = false;
    uint64_t product = 1;
    for (uint32_t i = 0; good_ && i < dims; i++) {
      const uint32_t dim = Number();
      region.shape.push_back(dim);
      product *= dim;
      if (dim == 0 || product > kSlabBytesMax) good_ = false;
    }
    const uint64_t table = uint64_t{layout.rows} * kRowColumns * 4;
    const uint64_t bytes = uint64_t{region.elements} * BytesOf(region.dtype) * layout.rows;
    if (product != region.elements || region.offset < table) good_ = false;
    if (region.elements > kSlabBytesMax || region.offset + bytes > layout.slab_bytes) good_ = false;
    return region;
  }

 private:
  uint32_t Bad() {
    good_ = false;
    return 0;
  }

  const uint8_t* at_;
  const uint8_t* end_;
  bool good_ = true;
};

}  // namespace subito
