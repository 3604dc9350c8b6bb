// A MessagePack map of named fields. Nothing is read beyond the end that is given, and no length is believed.
#pragma once

#include "decode.h"

namespace subito {

class MsgpackDecoder {
 public:
  MsgpackDecoder(Event& event, const uint8_t* begin, const uint8_t* end)
      : event_(event), at_(begin), end_(end) {}

  // False: left to the twin.
  bool Decode() {
    uint32_t count = 0;
    if (!Header(0x80, 0xde, &count)) return false;
    for (uint32_t place = 0; place < count; place++) {
      uint32_t length = 0;
      if (!KeyHeader(&length)) return false;
      const int32_t index = event_.Find(place, at_, length);
      if (index < 0) return false;
      at_ += length;
      if (at_ == end_) return false;
      if (*at_ == 0xc0) {
        // Null says nothing.
        at_++;
        continue;
      }
      const Field& field = event_.fields()[index];
      uint8_t* const target = event_.Target(field);
      const bool put = field.element == Field::kWholeRow ? PutRow(field, target) : PutOne(field, target);
      if (!put) return false;
      event_.Given(index);
    }
    return at_ == end_ && event_.FillMissing();
  }

 private:
  bool Has(size_t count) const { return static_cast<size_t>(end_ - at_) >= count; }

  template <typename T>
  bool Big(T* value) {
    if (!Has(sizeof(T))) return false;
    *value = LoadBig<T>(at_);
    at_ += sizeof(T);
    return true;
  }

  bool Byte(uint8_t* value) {
    if (at_ == end_) return false;
    *value = *at_++;
    return true;
  }

  // The header of a map or array: `fix` with the count in it, or `wide` with 16 bits or, one more, 32.
  bool Header(uint8_t fix, uint8_t wide, uint32_t* count) {
    uint8_t token = 0;
    if (!Byte(&token)) return false;
    if ((token & 0xf0) == fix) {
      *count = token & 15;
      return true;
    }
    if (token == wide) {
      uint16_t given = 0;
      const bool read = Big(&given);
      *count = given;
      return read;
    }
    return token == wide + 1 && Big(count);
  }

  // A length of 1, 2 or 4 bytes: `token` is the first of the three that announce one.
  bool Length(uint8_t token, uint8_t first, uint32_t* length) {
    if (token == first) {
      uint8_t given = 0;
      const bool read = Byte(&given);
      *length = given;
      return read;
    }
    if (token == first + 1) {
      uint16_t given = 0;
      const bool read = Big(&given);
      *length = given;
      return read;
    }
    return Big(length);
  }

  // Leaves `at_` at the key's first byte; all of it is there.
  bool KeyHeader(uint32_t* length) {
    uint8_t token = 0;
    if (!Byte(&token)) return false;
    if ((token & 0xe0) == 0xa0) *length = token & 31;
    else if (token < 0xd9 || token > 0xdb || !Length(token, 0xd9, length)) return false;
    return Has(*length);
  }

  // A number or truth value; false for anything else.
  bool Read(Scalar* scalar) {
    uint8_t token = 0;
    if (!Byte(&token)) return false;
    if (token < 0x80) return Set(scalar, Scalar::Int(token));
    if (token >= 0xe0) return Set(scalar, Scalar::Int(static_cast<int8_t>(token)));
    switch (token) {
      case 0xc2: return Set(scalar, Scalar::Bool(false));
      case 0xc3: return Set(scalar, Scalar::Bool(true));
      case 0xca: {
        uint32_t bits = 0;
        return Big(&bits) && Set(scalar, Scalar::Double(FloatOf(bits)));
      }
      case 0xcb: {
        uint64_t bits = 0;
        return Big(&bits) && Set(scalar, Scalar::Double(DoubleOf(bits)));
      }
      case 0xcc: return Unsigned<uint8_t>(scalar);
      case 0xcd: return Unsigned<uint16_t>(scalar);
      case 0xce: return Unsigned<uint32_t>(scalar);
      case 0xcf: return Unsigned<uint64_t>(scalar);
      case 0xd0: return Signed<uint8_t, int8_t>(scalar);
      case 0xd1: return Signed<uint16_t, int16_t>(scalar);
      case 0xd2: return Signed<uint32_t, int32_t>(scalar);
      case 0xd3: return Signed<uint64_t, int64_t>(scalar);
      default: return false;
    }
  }

  static bool Set(Scalar* scalar, const Scalar& value) {
    *scalar = value;
    return true;
  }

  template <typename T>
  bool Unsigned(Scalar* scalar) {
    T value = 0;
    if constexpr (sizeof(T) == 1) return Byte(&value) && Set(scalar, Scalar::Uint(value));
    else return Big(&value) && Set(scalar, Scalar::Uint(value));
  }

  template <typename T, typename S>
  bool Signed(Scalar* scalar) {
    T value = 0;
    if constexpr (sizeof(T) == 1) return Byte(&value) && Set(scalar, Scalar::Int(static_cast<S>(value)));
    else return Big(&value) && Set(scalar, Scalar::Int(static_cast<S>(value)));
  }

  bool PutOne(const Field& field, uint8_t* target) {
    // What most events consist of.
    if (*at_ == 0xca && field.dtype == Dtype::kFloat32 && field.stored == Dtype::kFloat32 && Has(5)) {
      const uint32_t bits = LoadBig<uint32_t>(at_ + 1);
      if ((bits & 0x7fffffff) > 0x7f800000) return false;
      Store(target, bits);
      at_ += 5;
      return true;
    }
    Scalar scalar;
    return Read(&scalar) && Put(target, field.dtype, field.stored, scalar);
  }

  // A whole row: its bytes, a flat or nested array, or the one element that it has.
  bool PutRow(const Field& field, uint8_t* target) {
    const Region& region = event_.inputs()[field.input].region;
    const uint8_t token = *at_;
    if (token >= 0xc4 && token <= 0xc6) {
      uint32_t length = 0;
      at_++;
      if (!Length(token, 0xc4, &length) || length != region.RowBytes() || !Has(length)) return false;
      std::memcpy(target, at_, length);
      at_ += length;
      return true;
    }
    if (!IsArray(token)) return region.elements == 1 && PutOne(field, target);
    const uint8_t* const begin = at_;
    uint32_t count = 0;
    if (!Header(0x90, 0xdc, &count) || at_ == end_) return false;
    if (region.shape.size() > 1 && IsArray(*at_)) {
      at_ = begin;
      return PutNested(field, region, 0, &target);
    }
    return count == region.elements && PutFlat(field, count, target);
  }

  static bool IsArray(uint8_t token) { return (token & 0xf0) == 0x90 || token == 0xdc || token == 0xdd; }

  bool PutNested(const Field& field, const Region& region, size_t axis, uint8_t** target) {
    uint32_t count = 0;
    if (!Header(0x90, 0xdc, &count) || count != region.shape[axis]) return false;
    if (axis + 1 < region.shape.size()) {
      for (uint32_t i = 0; i < count; i++) {
        if (!PutNested(field, region, axis + 1, target)) return false;
      }
      return true;
    }
    if (!PutFlat(field, count, *target)) return false;
    *target += size_t{count} * BytesOf(region.dtype);
    return true;
  }

  bool PutFlat(const Field& field, uint32_t count, uint8_t* target) {
    const uint32_t step = BytesOf(field.stored);
    for (uint32_t i = 0; i < count; i++, target += step) {
      if (at_ == end_ || !PutOne(field, target)) return false;
    }
    return true;
  }

  Event& event_;
  const uint8_t* at_;
  const uint8_t* const end_;
};

}  // namespace subito
