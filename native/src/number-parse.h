// JSON's numbers to doubles, rounded as JSON.parse rounds them: to the nearest, ties to even.
#pragma once

#include <cerrno>
#include <charconv>
#include <cstdlib>

#include "bytes.h"

namespace subito {

constexpr int kExactPowers = 22;
// Powers of ten that a double holds exactly.
constexpr double kTen[kExactPowers + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                           1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                           1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

// The text as a double; false where that needs a library that is not there, or exceeds a double.
inline bool ParseSlowly(const char* begin, const char* end, double* value) {
#if defined(__cpp_lib_to_chars) && __cpp_lib_to_chars >= 201611L
  const auto [stop, error] = std::from_chars(begin, end, *value);
  return error == std::errc() && stop == end;
#else
  // strtod wants a zero at the end, and takes the decimal point from the locale: then the twin does it.
  char text[64];
  const size_t length = static_cast<size_t>(end - begin);
  if (length >= sizeof text || std::memchr(begin, '.', length) != nullptr) return false;
  std::memcpy(text, begin, length);
  text[length] = 0;
  char* stop = nullptr;
  errno = 0;
  *value = std::strtod(text, &stop);
  return stop == text + length && errno == 0;
#endif
}

// `digits` * 10^`exponent`, rounded once; false where it cannot be had.
inline bool FromDecimal(uint64_t digits, int exponent, double* value) {
  // Both are exact doubles, so that the one operation rounds the one time.
  if (digits <= (uint64_t{1} << 53) && exponent >= -kExactPowers && exponent <= kExactPowers) {
    const double whole = static_cast<double>(digits);
    *value = exponent < 0 ? whole / kTen[-exponent] : whole * kTen[exponent];
    return true;
  }
  char text[40];
  char* end = std::to_chars(text, text + 24, digits).ptr;
  *end++ = 'e';
  end = std::to_chars(end, text + sizeof text, exponent).ptr;
  return ParseSlowly(text, end, value);
}

inline bool IsDigit(const uint8_t* at, const uint8_t* end) {
  return at != end && static_cast<uint8_t>(*at - '0') < 10;
}

// Digits in a row, as much of them as 64 bits hold: `many` says that these were more.
inline uint64_t Digits(const uint8_t*& at, const uint8_t* end, uint64_t digits, int* count, bool* many) {
  for (; IsDigit(at, end); at++) {
    // 19 digits always fit; zeros in front are none.
    if (*count == 19) {
      *many = true;
      continue;
    }
    digits = digits * 10 + static_cast<uint64_t>(*at - '0');
    if (digits != 0) ++*count;
  }
  return digits;
}

// The number that begins at `at`, which is moved behind it. False: it is none, or one to leave to the twin
// (beyond the range of a double, or so small that it is zero).
inline bool ParseNumber(const uint8_t*& at, const uint8_t* end, double* value) {
  const uint8_t* const begin = at;
  const bool negative = at != end && *at == '-';
  if (negative) at++;
  if (!IsDigit(at, end)) return false;
  int count = 0;
  bool many = false;
  uint64_t digits = 0;
  if (*at == '0') at++;
  else digits = Digits(at, end, 0, &count, &many);
  int exponent = 0;
  if (at != end && *at == '.') {
    const uint8_t* const fraction = ++at;
    if (!IsDigit(at, end)) return false;
    digits = Digits(at, end, digits, &count, &many);
    if (at - fraction > 1000) return false;
    exponent = -static_cast<int>(at - fraction);
  }
  if (at != end && (*at == 'e' || *at == 'E')) {
    at++;
    const bool minus = at != end && *at == '-';
    if (at != end && (*at == '-' || *at == '+')) at++;
    if (!IsDigit(at, end)) return false;
    int given = 0;
    for (; IsDigit(at, end); at++) {
      given = given * 10 + (*at - '0');
      if (given > 1000) return false;
    }
    exponent += minus ? -given : given;
  }
  const bool near = exponent >= -kExactPowers && exponent <= kExactPowers;
  if (!many && near && digits <= (uint64_t{1} << 53)) {
    const bool exact = FromDecimal(digits, exponent, value);
    if (negative) *value = -*value;
    return exact;
  }
  return ParseSlowly(reinterpret_cast<const char*>(begin), reinterpret_cast<const char*>(at), value);
}

}  // namespace subito
