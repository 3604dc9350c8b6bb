// IEEE 754 half precision, as in src/infer/half.ts.
#pragma once

#include <cmath>

#include "bytes.h"

namespace subito {

inline double FromHalf(uint16_t half) {
  const double sign = half & 0x8000 ? -1 : 1;
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 1023;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  if (exponent == 31) return mantissa == 0 ? sign * HUGE_VAL : std::nan("");
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

// The nearest half, ties to even; beyond 65,519 an infinity. The value is a number.
inline uint16_t ToHalf(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::fabs(value);
  if (size >= 65520) return sign | 0x7c00;
  // Below 2^-14 halves lie 2^-24 apart; above, 1024 of them between two powers of two.
  int exponent = 0;
  std::frexp(size, &exponent);
  const bool tiny = size < 0x1p-14;
  const double scaled = std::ldexp(size, tiny ? 24 : 11 - exponent);
  double whole = std::floor(scaled);
  const double rest = scaled - whole;
  if (rest > 0.5 || (rest == 0.5 && std::fmod(whole, 2) == 1)) whole += 1;
  // Counted from the smallest half of that exponent; one too many carries into the next, which is right.
  const int steps = static_cast<int>(whole);
  return static_cast<uint16_t>(sign | (tiny ? steps : ((exponent + 14) << 10) + (steps - 1024)));
}

}  // namespace subito
