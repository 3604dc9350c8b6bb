// A JSON object of named fields, of the plain kind: numbers, truth values, null, and arrays of them. Text,
// escapes, names given twice and anything that JSON.parse would refuse are left to the twin.
#pragma once

#include "decode.h"
#include "number-parse.h"

namespace subito {

class JsonDecoder {
 public:
  JsonDecoder(Event& event, const uint8_t* begin, const uint8_t* end)
      : event_(event), at_(begin), end_(end) {}

  // False: left to the twin.
  bool Decode() {
    if (!Next('{')) return false;
    if (!Next('}')) {
      uint32_t place = 0;
      do {
        if (!DecodeField(place++)) return false;
      } while (Next(','));
      if (!Next('}')) return false;
    }
    SkipSpace();
    return at_ == end_ && event_.FillMissing();
  }

 private:
  void SkipSpace() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) at_++;
  }

  // Takes `byte`, and white space before it, if that is what comes.
  bool Next(uint8_t byte) {
    SkipSpace();
    if (at_ == end_ || *at_ != byte) return false;
    at_++;
    return true;
  }

  bool Literal(const char* text, size_t length) {
    if (static_cast<size_t>(end_ - at_) < length || std::memcmp(at_, text, length) != 0) return false;
    at_ += length;
    return true;
  }

  bool DecodeField(uint32_t place) {
    if (!Next('"')) return false;
    const uint8_t* const key = at_;
    while (at_ != end_ && *at_ != '"' && *at_ != '\\' && *at_ >= 0x20) at_++;
    if (at_ == end_ || *at_ != '"') return false;
    // What equals the name of a field is UTF-8, so the rest of the text is all that is looked at.
    const int32_t index = event_.Find(place, key, static_cast<size_t>(at_ - key));
    at_++;
    // JSON.parse keeps the last value of a name, null too.
    if (index < 0 || event_.NamedBefore(index) || !Next(':')) return false;
    SkipSpace();
    if (at_ == end_) return false;
    if (*at_ == 'n') return Literal("null", 4);
    const Field& field = event_.fields()[index];
    uint8_t* target = event_.Target(field);
    const bool put = field.element == Field::kWholeRow ? PutRow(field, target) : PutOne(field, target);
    if (!put) return false;
    event_.Given(index);
    return true;
  }

  bool PutOne(const Field& field, uint8_t* target) {
    SkipSpace();
    if (at_ == end_) return false;
    if (*at_ == 't' || *at_ == 'f') {
      const Scalar truth = Scalar::Bool(*at_ == 't');
      const bool read = truth.truth ? Literal("true", 4) : Literal("false", 5);
      return read && Put(target, field.dtype, field.stored, truth);
    }
    double value = 0;
    return ParseNumber(at_, end_, &value) && Put(target, field.dtype, field.stored, Scalar::Double(value));
  }

  bool PutRow(const Field& field, uint8_t* target) {
    const Region& region = event_.inputs()[field.input].region;
    if (*at_ != '[') return region.elements == 1 && PutOne(field, target);
    const uint8_t* const begin = at_++;
    SkipSpace();
    const bool nested = region.shape.size() > 1 && at_ != end_ && *at_ == '[';
    at_ = begin;
    return nested ? PutNested(field, region, 0, &target) : PutFlat(field, region.elements, target);
  }

  bool PutNested(const Field& field, const Region& region, size_t axis, uint8_t** target) {
    const uint32_t count = region.shape[axis];
    if (axis + 1 == region.shape.size()) {
      if (!PutFlat(field, count, *target)) return false;
      *target += size_t{count} * BytesOf(region.dtype);
      return true;
    }
    if (!Next('[')) return false;
    for (uint32_t i = 0; i < count; i++) {
      if ((i > 0 && !Next(',')) || !PutNested(field, region, axis + 1, target)) return false;
    }
    return Next(']');
  }

  // An array of `count` elements, of which there is at least one.
  bool PutFlat(const Field& field, uint32_t count, uint8_t* target) {
    if (!Next('[')) return false;
    const uint32_t step = BytesOf(field.stored);
    for (uint32_t i = 0; i < count; i++, target += step) {
      if ((i > 0 && !Next(',')) || !PutOne(field, target)) return false;
    }
    return Next(']');
  }

  Event& event_;
  const uint8_t* at_;
  const uint8_t* const end_;
};

}  // namespace subito
