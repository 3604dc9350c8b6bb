// A batch's output rows to the predictions that clients get, into the slab's arena. The twin is
// src/infer/encode.ts, which also does what does not fit, and rows with a NaN in MessagePack, whose bits may
// differ.
#pragma once

#include "half.h"
#include "number-text.h"
#include "plan.h"

namespace subito {

enum class Labelled : uint32_t { kNone, kScores, kIndices };

// One output: where its rows lie, and its name and labels as they are written.
struct Part {
  Region region;
  Labelled labelled = Labelled::kNone;
  std::string packed_key;
  // With the colon.
  std::string json_key;
  std::vector<std::string> packed_labels;
  // With the colon where they are keys.
  std::vector<std::string> json_labels;
};

// A 64-bit integer of either kind, as the digits and the sign that it has.
struct Whole {
  uint64_t size;
  bool negative;
};

inline Whole WholeAt(const uint8_t* at, Dtype dtype) {
  int64_t value = 0;
  switch (dtype) {
    case Dtype::kInt8: value = Load<int8_t>(at); break;
    case Dtype::kInt16: value = Load<int16_t>(at); break;
    case Dtype::kInt32: value = Load<int32_t>(at); break;
    case Dtype::kInt64: value = Load<int64_t>(at); break;
    case Dtype::kUint16: value = Load<uint16_t>(at); break;
    case Dtype::kUint32: value = Load<uint32_t>(at); break;
    case Dtype::kUint64: return {Load<uint64_t>(at), false};
    default: value = *at; break;
  }
  const uint64_t bits = static_cast<uint64_t>(value);
  return value < 0 ? Whole{0 - bits, true} : Whole{bits, false};
}

// Writes where there is room for it: its caller has seen to that.
class Writer {
 public:
  explicit Writer(uint8_t* out) : out_(out) {}
  uint8_t* at() const { return out_; }

  void Byte(uint8_t value) { *out_++ = value; }

  void Copy(const std::string& text) {
    std::memcpy(out_, text.data(), text.size());
    out_ += text.size();
  }

  template <typename T>
  void Big(uint8_t token, T value) {
    *out_ = token;
    StoreBig(out_ + 1, value);
    out_ += 1 + sizeof(T);
  }

  void Header(uint32_t count, uint8_t fix, uint8_t wide) {
    if (count < 16) Byte(static_cast<uint8_t>(fix | count));
    else if (count < 0x10000) Big(wide, static_cast<uint16_t>(count));
    else Big(static_cast<uint8_t>(wide + 1), count);
  }

  // A whole number in the fewest bytes.
  void Integer(const Whole& whole) {
    const uint64_t bits = whole.negative ? 0 - whole.size : whole.size;
    if (!whole.negative) {
      if (bits < 0x80) Byte(static_cast<uint8_t>(bits));
      else if (bits < 0x100) Big(0xcc, static_cast<uint8_t>(bits));
      else if (bits < 0x10000) Big(0xcd, static_cast<uint16_t>(bits));
      else if (bits < 0x100000000) Big(0xce, static_cast<uint32_t>(bits));
      else Big(0xcf, bits);
    } else if (whole.size <= 32) {
      Byte(static_cast<uint8_t>(bits));
    } else if (whole.size <= 0x80) {
      Big(0xd0, static_cast<uint8_t>(bits));
    } else if (whole.size <= 0x8000) {
      Big(0xd1, static_cast<uint16_t>(bits));
    } else if (whole.size <= 0x80000000) {
      Big(0xd2, static_cast<uint32_t>(bits));
    } else {
      Big(0xd3, bits);
    }
  }

  // False: a NaN.
  bool Float32(uint32_t bits) {
    Big(0xca, bits);
    return (bits & 0x7fffffff) <= 0x7f800000;
  }

  // False: there is a NaN among them.
  bool Floats32(const uint8_t* from, uint32_t count) {
    uint8_t* out = out_;
    uint32_t nan = 0;
    for (uint32_t i = 0; i < count; i++, from += 4, out += 5) {
      const uint32_t bits = Load<uint32_t>(from);
      nan |= static_cast<uint32_t>((bits & 0x7fffffff) > 0x7f800000);
      *out = 0xca;
      StoreBig(out + 1, bits);
    }
    out_ = out;
    return nan == 0;
  }

  // False: left to the twin.
  bool Packed(const uint8_t* at, Dtype dtype) {
    switch (dtype) {
      case Dtype::kFloat32: return Float32(Load<uint32_t>(at));
      case Dtype::kFloat64: {
        const uint64_t bits = Load<uint64_t>(at);
        Big(0xcb, bits);
        return DoubleOf(bits) == DoubleOf(bits);
      }
      case Dtype::kFloat16: {
        const float value = static_cast<float>(FromHalf(Load<uint16_t>(at)));
        uint32_t bits = 0;
        std::memcpy(&bits, &value, 4);
        return Float32(bits);
      }
      case Dtype::kBool: Byte(*at == 0 ? 0xc2 : 0xc3); return true;
      default: Integer(WholeAt(at, dtype)); return true;
    }
  }

  // False: left to the twin.
  bool Json(const uint8_t* at, Dtype dtype) {
    char* const out = reinterpret_cast<char*>(out_);
    char* end = nullptr;
    switch (dtype) {
      case Dtype::kFloat32: end = PutFloat32(out, FloatOf(Load<uint32_t>(at))); break;
      case Dtype::kFloat64: end = PutFloat64(out, DoubleOf(Load<uint64_t>(at))); break;
      case Dtype::kFloat16: end = PutFloat64(out, FromHalf(Load<uint16_t>(at))); break;
      case Dtype::kBool: end = PutText(out, *at == 0 ? "false" : "true", *at == 0 ? 5 : 4); break;
      default: end = PutWhole(out, WholeAt(at, dtype)); break;
    }
    if (end == nullptr) return false;
    out_ = reinterpret_cast<uint8_t*>(end);
    return true;
  }

 private:
  static char* PutText(char* out, const char* text, size_t length) {
    std::memcpy(out, text, length);
    return out + length;
  }

  // What a JSON number cannot hold is text.
  static char* PutWhole(char* out, const Whole& whole) {
    const bool large = whole.size > 9007199254740991u;
    if (large) *out++ = '"';
    if (whole.negative) *out++ = '-';
    out = PutInteger(out, whole.size);
    if (large) *out++ = '"';
    return out;
  }

  uint8_t* out_;
};

}  // namespace subito
