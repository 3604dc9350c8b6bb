// The rows of a batch, in the slab: those that came as named fields are decoded, all of them are checked.
#pragma once

#include "decode-json.h"
#include "decode-msgpack.h"

namespace subito {

class BatchDecoder {
 public:
  // False: the plan is none, or of something that is left to the twin.
  bool Read(const uint8_t* plan, size_t length) {
    PlanReader reader(plan, length);
    return event_.Read(reader);
  }

  // Decodes `rows` rows from `first` on and marks each in the table: ok, or left. Returns how many are left,
  // or
  // -1 where slab and rows are not those of the plan.
  int32_t Decode(uint8_t* slab, size_t slab_bytes, uint32_t first, uint32_t rows) {
    const SlabLayout& layout = event_.layout();
    if (slab_bytes < layout.slab_bytes || first > layout.rows || rows > layout.rows - first) return -1;
    int32_t left = 0;
    for (uint32_t row = first; row < first + rows; row++) {
      int32_t entry[kRowColumns];
      uint8_t* const at = slab + size_t{row} * sizeof entry;
      std::memcpy(entry, at, sizeof entry);
      const bool data = entry[kRowForm] == kFormData;
      const bool done = (!data || DecodeRow(slab, row, entry)) && IsRowGood(slab, row);
      Store(at + kRowResult * 4, done ? kResultOk : kLeft);
      left += done ? 0 : 1;
    }
    return left;
  }

 private:
  bool DecodeRow(uint8_t* slab, uint32_t row, const int32_t* entry) {
    const SlabLayout& layout = event_.layout();
    const int64_t offset = entry[kRowInOffset];
    const int64_t length = entry[kRowInLength];
    if (offset < 0 || length <= 0 || offset + length > int64_t{layout.arena_bytes}) return false;
    const uint8_t* const begin = slab + layout.arena_offset + offset;
    const uint8_t* const end = begin + length;
    event_.Begin(slab, row);
    // As isJson in the twin; a byte order mark is left to it.
    const uint8_t token = *begin;
    if (token == '{' || token == ' ' || token == '\n' || token == '\r' || token == '\t') {
      return JsonDecoder(event_, begin, end).Decode();
    }
    return MsgpackDecoder(event_, begin, end).Decode();
  }

  bool IsRowGood(const uint8_t* slab, uint32_t row) const {
    for (const Input& input : event_.inputs()) {
      const Region& region = input.region;
      if (!IsGood(input, slab + region.offset + size_t{row} * region.RowBytes())) return false;
    }
    return true;
  }

  Event event_;
};

}  // namespace subito
