// An event's named fields to the model's tensor rows, for a whole batch. The twin is src/infer/decode.ts, and
// it has the last word: here is done what is plainly right, every other row is left to it. So no message, no
// rule about odd values and no default of the JSON parser is written down twice.
#pragma once

#include <memory>

#include "half.h"
#include "plan.h"

namespace subito {

// A number or truth value of an event.
struct Scalar {
  enum Kind : uint32_t { kBool, kInt, kUint, kDouble } kind;
  union {
    bool truth;
    int64_t whole;
    // Beyond what `whole` holds.
    uint64_t large;
    double real;
  };

  static Scalar Bool(bool value) { return Make(kBool, value ? 1 : 0); }
  static Scalar Int(int64_t value) { return Make(kInt, value); }
  static Scalar Uint(uint64_t value) {
    if (value <= INT64_MAX) return Int(static_cast<int64_t>(value));
    Scalar scalar = Make(kUint, 0);
    scalar.large = value;
    return scalar;
  }
  static Scalar Double(double value) {
    Scalar scalar = Make(kDouble, 0);
    scalar.real = value;
    return scalar;
  }

 private:
  static Scalar Make(Kind kind, int64_t value) {
    Scalar scalar;
    scalar.kind = kind;
    if (kind == kBool) scalar.truth = value != 0;
    else scalar.whole = value;
    return scalar;
  }
};

enum class Check : uint32_t { kNone, kFinite, kFlags };

struct Input {
  Region region;
  Check check = Check::kNone;
};

// One named value: an element of an input's row, or the whole row.
struct Field {
  static constexpr uint32_t kWholeRow = 0xffffffff;

  std::string name;
  uint32_t input = 0;
  uint32_t element = kWholeRow;
  // What the event must hold, which may differ from the tensor's.
  Dtype dtype = Dtype::kFloat32;
  bool has_default = false;
  // One element as it lies in the tensor.
  uint8_t standard[8] = {};
  // Where it goes in row 0, and how far apart rows are.
  uint32_t offset = 0;
  uint32_t row_bytes = 0;
  Dtype stored = Dtype::kFloat32;
};

constexpr int64_t kSafeMost = 9007199254740991;

// Writes an element as `stored`; the value has been checked to fit. False: a NaN, whose bits may differ.
inline bool StoreDouble(uint8_t* at, Dtype stored, double value) {
  if (value != value) return false;
  switch (stored) {
    case Dtype::kFloat32: Store(at, static_cast<float>(value)); return true;
    case Dtype::kFloat64: Store(at, value); return true;
    case Dtype::kFloat16: Store(at, ToHalf(value)); return true;
    default: return false;
  }
}

inline void StoreWhole(uint8_t* at, Dtype stored, uint64_t bits) {
  switch (BytesOf(stored)) {
    case 1: Store(at, static_cast<uint8_t>(bits)); return;
    case 2: Store(at, static_cast<uint16_t>(bits)); return;
    case 4: Store(at, static_cast<uint32_t>(bits)); return;
    default: Store(at, bits); return;
  }
}

// Whether a whole number is one of dtype `wanted`.
inline bool Fits(Dtype wanted, int64_t value) {
  switch (wanted) {
    case Dtype::kInt8: return value == static_cast<int8_t>(value);
    case Dtype::kInt16: return value == static_cast<int16_t>(value);
    case Dtype::kInt32: return value == static_cast<int32_t>(value);
    case Dtype::kInt64: return true;
    case Dtype::kUint8: return value == static_cast<uint8_t>(value);
    case Dtype::kUint16: return value == static_cast<uint16_t>(value);
    case Dtype::kUint32: return value == static_cast<uint32_t>(value);
    case Dtype::kUint64: return value >= 0;
    case Dtype::kBool: return value == 0 || value == 1;
    default: return false;
  }
}

// What an event must hold as `wanted`, into an element of dtype `stored`. False: left to the twin.
inline bool Put(uint8_t* at, Dtype wanted, Dtype stored, const Scalar& scalar) {
  if (IsFloat(wanted)) {
    switch (scalar.kind) {
      case Scalar::kDouble: return StoreDouble(at, stored, scalar.real);
      case Scalar::kInt: return StoreDouble(at, stored, static_cast<double>(scalar.whole));
      case Scalar::kUint: return StoreDouble(at, stored, static_cast<double>(scalar.large));
      default: return false;
    }
  }
  int64_t whole = 0;
  switch (scalar.kind) {
    case Scalar::kBool:
      if (wanted != Dtype::kBool) return false;
      whole = scalar.truth ? 1 : 0;
      break;
    case Scalar::kInt:
      whole = scalar.whole;
      break;
    case Scalar::kUint:
      if (wanted != Dtype::kUint64) return false;
      if (IsFloat(stored)) return StoreDouble(at, stored, static_cast<double>(scalar.large));
      StoreWhole(at, stored, scalar.large);
      return true;
    case Scalar::kDouble:
      if (!(std::fabs(scalar.real) <= kSafeMost)) return false;
      whole = static_cast<int64_t>(scalar.real);
      if (static_cast<double>(whole) != scalar.real) return false;
      // -0 is a whole number too, and keeps its sign where the tensor holds floats.
      if (whole == 0 && IsFloat(stored) && wanted != Dtype::kBool) {
        return StoreDouble(at, stored, scalar.real);
      }
      break;
  }
  if (!Fits(wanted, whole)) return false;
  if (IsFloat(stored)) return StoreDouble(at, stored, static_cast<double>(whole));
  StoreWhole(at, stored, static_cast<uint64_t>(whole));
  return true;
}

template <typename Bits>
inline bool AnyAllOnes(const uint8_t* row, uint32_t elements, Bits exponent) {
  uint32_t found = 0;
  for (uint32_t i = 0; i < elements; i++) {
    found |= static_cast<uint32_t>((Load<Bits>(row + i * sizeof(Bits)) & exponent) == exponent);
  }
  return found != 0;
}

// Whether a row in place holds what it may: no NaN or infinity, no truth values but 0 and 1.
inline bool IsGood(const Input& input, const uint8_t* row) {
  const uint32_t elements = input.region.elements;
  if (input.check == Check::kFlags) {
    uint8_t bits = 0;
    for (uint32_t i = 0; i < elements; i++) bits |= row[i];
    return bits <= 1;
  }
  if (input.check == Check::kNone) return true;
  switch (input.region.dtype) {
    case Dtype::kFloat32: return !AnyAllOnes<uint32_t>(row, elements, 0x7f800000);
    case Dtype::kFloat64: return !AnyAllOnes<uint64_t>(row, elements, uint64_t{0x7ff} << 52);
    default: return !AnyAllOnes<uint16_t>(row, elements, 0x7c00);
  }
}

// The fields of a model, by name.
class FieldTable {
 public:
  void Build(const std::vector<Field>& fields) {
    uint32_t size = 8;
    while (size < fields.size() * 2) size *= 2;
    mask_ = size - 1;
    slots_.assign(size, 0);
    for (uint32_t i = 0; i < fields.size(); i++) {
      uint32_t at = Hash(fields[i].name.data(), fields[i].name.size()) & mask_;
      while (slots_[at] != 0) at = (at + 1) & mask_;
      slots_[at] = i + 1;
    }
  }

  // -1: there is none of this name.
  int32_t Find(const std::vector<Field>& fields, const uint8_t* name, size_t length) const {
    for (uint32_t at = Hash(name, length) & mask_; slots_[at] != 0; at = (at + 1) & mask_) {
      const uint32_t index = slots_[at] - 1;
      if (Is(fields[index], name, length)) return static_cast<int32_t>(index);
    }
    return -1;
  }

  static bool Is(const Field& field, const uint8_t* name, size_t length) {
    return field.name.size() == length && std::memcmp(field.name.data(), name, length) == 0;
  }

 private:
  static uint32_t Hash(const void* name, size_t length) {
    const uint8_t* bytes = static_cast<const uint8_t*>(name);
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ bytes[i]) * 16777619u;
    return hash ^ (hash >> 15);
  }

  uint32_t mask_ = 0;
  // Index of a field + 1; 0: nobody. Always at least half of them are empty.
  std::vector<uint32_t> slots_;
};

// What decoding an event needs to know and to remember.
class Event {
 public:
  const std::vector<Input>& inputs() const { return inputs_; }
  const std::vector<Field>& fields() const { return fields_; }
  const SlabLayout& layout() const { return layout_; }

  // Reads a plan of its own; false when it is none.
  bool Read(PlanReader& plan) {
    layout_ = plan.Layout();
    inputs_.resize(plan.Count());
    for (Input& input : inputs_) {
      input.region = plan.Rows(layout_);
      input.check = static_cast<Check>(plan.Number());
      const Dtype dtype = input.region.dtype;
      if (input.check == Check::kFlags && BytesOf(dtype) != 1) plan.Refuse();
      if (input.check == Check::kFinite && !IsFloat(dtype)) plan.Refuse();
      if (input.check > Check::kFlags) plan.Refuse();
    }
    fields_.resize(plan.Count());
    for (Field& field : fields_) ReadField(plan, field);
    if (!plan.finished()) return false;
    table_.Build(fields_);
    named_.assign(fields_.size(), 0);
    given_.assign(fields_.size(), 0);
    return true;
  }

  void Begin(uint8_t* slab, uint32_t row) {
    slab_ = slab;
    row_ = row;
    count_ = 0;
    // After so many events a mark of the first could be taken for one of now.
    if (++number_ == 0) {
      named_.assign(fields_.size(), 0);
      given_.assign(fields_.size(), 0);
      number_ = 1;
    }
  }

  // Most events bring their fields in the model's order: the one at `place` is tried first.
  int32_t Find(uint32_t place, const uint8_t* name, size_t length) const {
    if (place < fields_.size() && FieldTable::Is(fields_[place], name, length)) {
      return static_cast<int32_t>(place);
    }
    return table_.Find(fields_, name, length);
  }

  // Whether this event named the field before.
  bool NamedBefore(uint32_t index) {
    const bool before = named_[index] == number_;
    named_[index] = number_;
    return before;
  }

  void Given(uint32_t index) {
    count_ += given_[index] != number_;
    given_[index] = number_;
  }

  // Where a field's value goes.
  uint8_t* Target(const Field& field) const {
    return slab_ + field.offset + size_t{row_} * field.row_bytes;
  }

  // Puts defaults where nothing was given; false where there is none.
  bool FillMissing() {
    if (count_ == fields_.size()) return true;
    for (uint32_t i = 0; i < fields_.size(); i++) {
      if (given_[i] == number_) continue;
      const Field& field = fields_[i];
      if (!field.has_default) return false;
      std::memcpy(Target(field), field.standard, BytesOf(field.stored));
    }
    return true;
  }

 private:
  void ReadField(PlanReader& plan, Field& field) {
    field.name = plan.Text();
    field.input = plan.Number();
    field.element = plan.Number();
    field.dtype = plan.Type();
    field.has_default = plan.Number() != 0;
    plan.Bytes(field.standard, 8);
    if (!plan.good()) return;
    if (field.input >= inputs_.size()) return plan.Refuse();
    const Region& region = inputs_[field.input].region;
    const bool whole = field.element == Field::kWholeRow;
    if (!whole && field.element >= region.elements) return plan.Refuse();
    // A default has one element, and a whole row mostly more.
    if (whole && field.has_default) return plan.Refuse();
    if (IsFloat(field.dtype) && !IsFloat(region.dtype)) return plan.Refuse();
    // JavaScript would round these before it cuts them.
    const bool large = field.dtype == Dtype::kInt64 || field.dtype == Dtype::kUint64;
    if (large && !IsFloat(region.dtype) && BytesOf(region.dtype) < 8) return plan.Refuse();
    field.stored = region.dtype;
    field.row_bytes = region.RowBytes();
    field.offset = region.offset + (whole ? 0 : field.element * BytesOf(region.dtype));
  }

  SlabLayout layout_;
  std::vector<Input> inputs_;
  std::vector<Field> fields_;
  FieldTable table_;
  // By field, the number of the event that named it last, and that gave it a value.
  std::vector<uint32_t> named_;
  std::vector<uint32_t> given_;
  uint32_t number_ = 0;
  uint32_t count_ = 0;
  uint8_t* slab_ = nullptr;
  uint32_t row_ = 0;
};

}  // namespace subito
