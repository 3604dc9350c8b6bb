// Reading and writing numbers in memory that need not be aligned. The machine is little-endian, like the
// slab; MessagePack is big-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace subito {

template <typename T>
inline T Load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

template <typename T>
inline void Store(uint8_t* at, T value) {
  std::memcpy(at, &value, sizeof(T));
}

inline uint8_t Swap(uint8_t value) { return value; }
inline uint16_t Swap(uint16_t value) { return __builtin_bswap16(value); }
inline uint32_t Swap(uint32_t value) { return __builtin_bswap32(value); }
inline uint64_t Swap(uint64_t value) { return __builtin_bswap64(value); }

template <typename T>
inline T LoadBig(const uint8_t* at) {
  return Swap(Load<T>(at));
}

template <typename T>
inline void StoreBig(uint8_t* at, T value) {
  Store<T>(at, Swap(value));
}

inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline double DoubleOf(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, 8);
  return value;
}

}  // namespace subito
