// Numbers as JSON text, byte for byte what src/infer/encode.ts writes.
#pragma once

#include <cfloat>
#include <cmath>

#include "number-parse.h"

namespace subito {

__extension__ typedef unsigned __int128 Wide;

// Most bytes of a number: -0.00000 and 17 digits, or 21 of a whole number in quotation marks.
constexpr uint32_t kNumberTextMax = 26;

#if defined(__cpp_lib_to_chars) && __cpp_lib_to_chars >= 201611L
constexpr bool kDoubleText = true;
#else
constexpr bool kDoubleText = false;
#endif

template <typename T>
inline char* PutInteger(char* out, T value) {
  return std::to_chars(out, out + 24, value).ptr;
}

inline char* PutNull(char* out) {
  std::memcpy(out, "null", 4);
  return out + 4;
}

// `count` digits, with zeros in front.
inline void PutPadded(char* out, uint64_t value, int count) {
  for (int i = count - 1; i >= 0; i--) {
    out[i] = static_cast<char>('0' + value % 10);
    value /= 10;
  }
}

// `digits` / 10^`places`, which is at least 1e-6 and below 1e21, without zeros at its end.
inline char* PutDecimal(char* out, uint64_t digits, int places) {
  while (places >= 3 && digits % 1000 == 0) digits /= 1000, places -= 3;
  while (places > 0 && digits % 10 == 0) digits /= 10, places--;
  if (places == 0) return PutInteger(out, digits);
  const uint64_t unit = static_cast<uint64_t>(kTen[places]);
  out = PutInteger(out, digits / unit);
  *out++ = '.';
  PutPadded(out, digits % unit, places);
  return out + places;
}

// A number as JavaScript writes it: the decimal digits `text[0, count)`, the first of them the place of
// 10^`power`. The last one is no zero.
inline char* PutScientific(char* out, const char* text, int count, int power) {
  const int point = power + 1;
  const auto copy = [&out](const char* from, int length) {
    std::memcpy(out, from, static_cast<size_t>(length));
    out += length;
  };
  const auto zeros = [&out](int length) {
    std::memset(out, '0', static_cast<size_t>(length));
    out += length;
  };
  if (point > 21 || point <= -6) {
    copy(text, 1);
    if (count > 1) {
      *out++ = '.';
      copy(text + 1, count - 1);
    }
    *out++ = 'e';
    *out++ = power < 0 ? '-' : '+';
    return PutInteger(out, std::abs(power));
  }
  if (point <= 0) {
    copy("0.", 2);
    zeros(-point);
    copy(text, count);
  } else if (count <= point) {
    copy(text, count);
    zeros(point - count);
  } else {
    copy(text, point);
    *out++ = '.';
    copy(text + point, count - point);
  }
  return out;
}

// The nine leading digits of a positive float, as a whole number, rounded down and to the nearest.
struct NineDigits {
  uint64_t below;
  uint64_t nearest;
  // The first digit is the place of 10^power.
  int power;
};

struct Power {
  uint64_t bits;
  int shift;
  bool exact;
};

constexpr int kPowerLeast = -31;
constexpr int kPowerMost = 54;

// Powers of ten as 64 bits, rounded down, times a power of two.
class Powers {
 public:
  Powers() {
    Power up{uint64_t{1} << 63, -63, true};
    for (int k = 0; k <= kPowerMost; k++) {
      at(k) = up;
      up = Times(up, 10);
    }
    // 10^-k is 2^n / 10^k: long division of a one with enough zeros behind it.
    for (int k = 1; k <= -kPowerLeast; k++) at(-k) = Inverse(k);
  }
  const Power& operator[](int k) const { return powers_[k - kPowerLeast]; }

 private:
  Power& at(int k) { return powers_[k - kPowerLeast]; }

  static Power Times(const Power& power, uint64_t factor) {
    Wide product = Wide{power.bits} * factor;
    int shift = power.shift;
    bool exact = power.exact;
    while (product >> 64 != 0) {
      exact = exact && (product & 1) == 0;
      product >>= 1;
      shift++;
    }
    return {static_cast<uint64_t>(product), shift, exact};
  }

  static Power Inverse(int k) {
    Wide ten = 1;
    for (int i = 0; i < k; i++) ten *= 10;
    Wide rest = 1;
    uint64_t bits = 0;
    int shift = 0;
    while (bits >> 63 == 0) {
      rest *= 2;
      shift--;
      bits *= 2;
      if (rest >= ten) {
        rest -= ten;
        bits++;
      }
    }
    return {bits, shift, false};
  }

  Power powers_[kPowerMost - kPowerLeast + 1];
};

inline void LeadingDigits(uint64_t whole, NineDigits* found) {
  uint64_t unit = 1;
  int power = 8;
  for (; whole / unit >= 1000000000; power++) unit *= 10;
  for (; whole / unit < 100000000; power--) whole *= 10;
  const uint64_t rest = whole % unit;
  *found = {whole / unit, whole / unit + (rest * 2 >= unit && unit > 1 ? 1 : 0), power};
}

// False: so near to the middle between two of them that 64 bits of a power of ten do not tell.
inline bool LeadingDigits(float value, NineDigits* found) {
  static const Powers powers;
  int exponent = 0;
  const uint64_t mantissa = static_cast<uint64_t>(std::ldexp(std::frexp(value, &exponent), 24));
  exponent -= 24;
  if (exponent >= 0 && exponent < 39) {
    LeadingDigits(mantissa << exponent, found);
    return true;
  }
  int power = static_cast<int>(std::floor((exponent + 24 - 1) * 0.30102999566398120));
  for (;; power++) {
    const Power& ten = powers[8 - power];
    const Wide product = Wide{mantissa} * ten.bits;
    const int shift = -(exponent + ten.shift);
    const uint64_t below = static_cast<uint64_t>(product >> shift);
    if (below >= 1000000000) continue;
    const Wide rest = product & ((Wide{1} << shift) - 1);
    const Wide half = Wide{1} << (shift - 1);
    // The product is too small by less than the mantissa.
    const Wide most = rest + (ten.exact ? 0 : mantissa);
    if (most >= 2 * half || (rest < half && most >= half)) return false;
    *found = {below, below + (rest >= half ? 1 : 0), power};
    return true;
  }
}

// A finite float that is not zero, in the fewest digits from six to nine that are this float again.
inline char* PutDigits(char* out, float size) {
  NineDigits nine;
  if (!LeadingDigits(size, &nine)) return nullptr;
  uint64_t digits = 0;
  uint64_t unit = 1000;
  for (int count = 6; count <= 9; count++, unit /= 10) {
    digits = unit == 1 ? nine.nearest : (nine.below + unit / 2) / unit;
    double near = 0;
    if (count == 9) break;
    if (!FromDecimal(digits, nine.power - count + 1, &near)) return nullptr;
    if (static_cast<float>(near) == size) break;
  }
  char text[24];
  const int written = static_cast<int>(PutInteger(text, digits) - text);
  // Rounding up may have made it longer.
  const int power = nine.power + (digits * unit >= 1000000000 ? 1 : 0);
  int count = written;
  while (count > 1 && text[count - 1] == '0') count--;
  return PutScientific(out, text, count, power);
}

// Half up, as Math.round does.
inline double RoundHalfUp(double value) {
  const double whole = std::floor(value);
  return value - whole >= 0.5 ? whole + 1 : whole;
}

// The twin of float32Text. Null: the twin has to do it.
inline char* PutFloat32(char* out, float value) {
  const double exact = value;
  const double size = std::fabs(exact);
  if (size >= 1e-3 && size < 1e6) {
    int places = size < 1 ? 8 : size < 1000 ? 6 : 3;
    for (const int last = places + 1; places <= last; places++) {
      const double whole = RoundHalfUp(exact * kTen[places]);
      if (static_cast<float>(whole / kTen[places]) != value) continue;
      if (whole < 0) *out++ = '-';
      return PutDecimal(out, static_cast<uint64_t>(std::fabs(whole)), places);
    }
  }
  if (!(size <= FLT_MAX)) return PutNull(out);
  if (size == 0) {
    *out++ = '0';
    return out;
  }
  if (value < 0) *out++ = '-';
  return PutDigits(out, std::fabs(value));
}

// The twin of jsonText for numbers. Null: the twin has to do it.
inline char* PutFloat64(char* out, double value) {
  const double size = std::fabs(value);
  if (!(size <= DBL_MAX)) return PutNull(out);
  if (size < 9007199254740992.0 && std::floor(value) == value) {
    return PutInteger(out, static_cast<int64_t>(value));
  }
  const bool whole = std::floor(value) == value;
  if (!whole && size <= FLT_MAX && static_cast<double>(static_cast<float>(value)) == value) {
    return PutFloat32(out, static_cast<float>(value));
  }
#if defined(__cpp_lib_to_chars) && __cpp_lib_to_chars >= 201611L
  // The shortest digits, and of those the nearest: d.ddde-xx.
  char text[32];
  const char* const end = std::to_chars(text, text + sizeof text, size, std::chars_format::scientific).ptr;
  if (value < 0) *out++ = '-';
  const char* mark = end;
  while (*--mark != 'e') {
  }
  int power = 0;
  std::from_chars(mark + (mark[1] == '+' ? 2 : 1), end, power);
  int count = 1;
  // Without the point.
  for (const char* at = text + 2; at < mark; at++) text[count++] = *at;
  return PutScientific(out, text, count, power);
#else
  return nullptr;
#endif
}

}  // namespace subito
