// The predictions of a batch, row by row into the arena.
#pragma once

#include "encode.h"

namespace subito {

class BatchEncoder {
 public:
  // False: the plan is none, or of something that is left to the twin.
  bool Read(const uint8_t* plan, size_t length) {
    PlanReader reader(plan, length);
    layout_ = reader.Layout();
    parts_.resize(reader.Count());
    packed_max_ = 5;
    json_max_ = 2;
    for (Part& part : parts_) ReadPart(reader, part);
    return reader.finished();
  }

  // Encodes those of `rows` rows from `first` on that are ok, from `used` bytes behind the arena's beginning,
  // and notes each in the table: where it lies, or that it is left. Returns how many bytes of the arena are
  // then used, or -1 where slab, rows or `used` are not those of the plan.
  int64_t Encode(uint8_t* slab, size_t slab_bytes, uint32_t first, uint32_t rows, uint32_t used) {
    if (slab_bytes < layout_.slab_bytes || first > layout_.rows || rows > layout_.rows - first) return -1;
    if (used > layout_.arena_bytes) return -1;
    uint8_t* const arena = slab + layout_.arena_offset;
    for (uint32_t row = first; row < first + rows; row++) {
      uint8_t* const entry = slab + size_t{row} * kRowColumns * 4;
      if (Load<int32_t>(entry + kRowResult * 4) != kResultOk) continue;
      const bool json = Load<int32_t>(entry + kRowEncoding * 4) == kEncodingJson;
      int32_t length = kLeft;
      if ((json ? json_max_ : packed_max_) <= layout_.arena_bytes - used) {
        Writer out(arena + used);
        const bool done = json ? WriteJson(out, slab, row) : WritePacked(out, slab, row);
        if (done) length = static_cast<int32_t>(out.at() - (arena + used));
      }
      Store(entry + kRowOutOffset * 4, static_cast<int32_t>(used));
      Store(entry + kRowOutLength * 4, length);
      if (length > 0) used += static_cast<uint32_t>(length);
    }
    return used;
  }

 private:
  void ReadPart(PlanReader& plan, Part& part) {
    part.region = plan.Rows(layout_);
    part.labelled = static_cast<Labelled>(plan.Number());
    part.packed_key = plan.Text();
    part.json_key = plan.Text();
    part.packed_labels.resize(plan.Count());
    for (std::string& label : part.packed_labels) label = plan.Text();
    part.json_labels.resize(plan.Count());
    for (std::string& label : part.json_labels) label = plan.Text();
    if (!plan.good()) return;
    const auto& [offset, dtype, elements, shape] = part.region;
    const bool labels = part.packed_labels.size() == part.json_labels.size();
    if (part.labelled > Labelled::kIndices || !labels) return plan.Refuse();
    if (part.labelled == Labelled::kScores && part.packed_labels.size() != elements) return plan.Refuse();
    if (part.labelled == Labelled::kIndices && (IsFloat(dtype) || shape.size() > 1)) return plan.Refuse();
    if (part.labelled != Labelled::kNone && dtype == Dtype::kBool) return plan.Refuse();
    // Without it, floats of that kind have no text.
    if (dtype == Dtype::kFloat64 && !kDoubleText) return plan.Refuse();
    Measure(part);
  }

  // The most bytes that a row can take.
  void Measure(const Part& part) {
    uint64_t packed = 0;
    uint64_t json = 0;
    uint64_t packed_most = 0;
    uint64_t json_most = 0;
    for (size_t i = 0; i < part.packed_labels.size(); i++) {
      packed += part.packed_labels[i].size();
      json += part.json_labels[i].size();
      packed_most = std::max<uint64_t>(packed_most, part.packed_labels[i].size());
      json_most = std::max<uint64_t>(json_most, part.json_labels[i].size());
    }
    const uint64_t elements = part.region.elements;
    if (part.labelled == Labelled::kIndices) {
      packed = elements * packed_most;
      json = elements * json_most;
    }
    // Per element at most a number, a comma, and brackets and headers of every dimension.
    const uint64_t dims = part.region.shape.size() + 1;
    packed_max_ += part.packed_key.size() + packed + elements * (9 + dims * 5) + 5;
    json_max_ += part.json_key.size() + json + elements * (kNumberTextMax + 1 + dims * 3) + 3;
  }

  bool WritePacked(Writer& out, const uint8_t* slab, uint32_t row) const {
    out.Header(static_cast<uint32_t>(parts_.size()), 0x80, 0xde);
    for (const Part& part : parts_) {
      out.Copy(part.packed_key);
      const uint8_t* at = slab + part.region.offset + size_t{row} * part.region.RowBytes();
      if (!WritePackedPart(out, part, at)) return false;
    }
    return true;
  }

  static bool WritePackedPart(Writer& out, const Part& part, const uint8_t* at) {
    const auto& [offset, dtype, elements, shape] = part.region;
    const uint32_t step = BytesOf(dtype);
    if (part.labelled == Labelled::kNone) return WritePackedAxis(out, part.region, 0, &at);
    if (part.labelled == Labelled::kScores) {
      out.Header(elements, 0x80, 0xde);
      for (uint32_t i = 0; i < elements; i++, at += step) {
        out.Copy(part.packed_labels[i]);
        if (!out.Packed(at, dtype)) return false;
      }
      return true;
    }
    if (!shape.empty()) out.Header(elements, 0x90, 0xdc);
    for (uint32_t i = 0; i < elements; i++, at += step) {
      const Whole index = WholeAt(at, dtype);
      if (index.negative || index.size >= part.packed_labels.size()) return false;
      out.Copy(part.packed_labels[index.size]);
    }
    return true;
  }

  static bool WritePackedAxis(Writer& out, const Region& region, size_t axis, const uint8_t** at) {
    const uint32_t step = BytesOf(region.dtype);
    if (axis == region.shape.size()) {
      const bool done = out.Packed(*at, region.dtype);
      *at += step;
      return done;
    }
    const uint32_t length = region.shape[axis];
    out.Header(length, 0x90, 0xdc);
    if (axis + 1 == region.shape.size() && region.dtype == Dtype::kFloat32) {
      const bool done = out.Floats32(*at, length);
      *at += size_t{length} * 4;
      return done;
    }
    for (uint32_t i = 0; i < length; i++) {
      if (!WritePackedAxis(out, region, axis + 1, at)) return false;
    }
    return true;
  }

  bool WriteJson(Writer& out, const uint8_t* slab, uint32_t row) const {
    out.Byte('{');
    for (size_t i = 0; i < parts_.size(); i++) {
      const Part& part = parts_[i];
      if (i > 0) out.Byte(',');
      out.Copy(part.json_key);
      const uint8_t* at = slab + part.region.offset + size_t{row} * part.region.RowBytes();
      if (!WriteJsonPart(out, part, at)) return false;
    }
    out.Byte('}');
    return true;
  }

  static bool WriteJsonPart(Writer& out, const Part& part, const uint8_t* at) {
    const auto& [offset, dtype, elements, shape] = part.region;
    const uint32_t step = BytesOf(dtype);
    if (part.labelled == Labelled::kNone) return WriteJsonAxis(out, part.region, 0, &at);
    const bool scores = part.labelled == Labelled::kScores;
    const bool brackets = scores || !shape.empty();
    if (brackets) out.Byte(scores ? '{' : '[');
    for (uint32_t i = 0; i < elements; i++, at += step) {
      if (i > 0) out.Byte(',');
      if (scores) {
        out.Copy(part.json_labels[i]);
        if (!out.Json(at, dtype)) return false;
        continue;
      }
      const Whole index = WholeAt(at, dtype);
      if (index.negative || index.size >= part.json_labels.size()) return false;
      out.Copy(part.json_labels[index.size]);
    }
    if (brackets) out.Byte(scores ? '}' : ']');
    return true;
  }

  static bool WriteJsonAxis(Writer& out, const Region& region, size_t axis, const uint8_t** at) {
    if (axis == region.shape.size()) {
      const bool done = out.Json(*at, region.dtype);
      *at += BytesOf(region.dtype);
      return done;
    }
    out.Byte('[');
    for (uint32_t i = 0; i < region.shape[axis]; i++) {
      if (i > 0) out.Byte(',');
      if (!WriteJsonAxis(out, region, axis + 1, at)) return false;
    }
    out.Byte(']');
    return true;
  }

  SlabLayout layout_;
  std::vector<Part> parts_;
  uint64_t packed_max_ = 0;
  uint64_t json_max_ = 0;
};

}  // namespace subito
