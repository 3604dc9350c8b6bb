// What a batch is made of, as the main thread's TypeScript allocated it (src/schedule/batch.ts): columns with
// an element per row, and the slab.
#pragma once

#include <cstddef>
#include <cstdint>

namespace subito {

// Of the slab's row table (src/schedule/slab.ts): Int32 each.
constexpr size_t kRowColumns = 8;
constexpr size_t kRowForm = 0;
constexpr size_t kRowInOffset = 1;
constexpr size_t kRowInLength = 2;
constexpr size_t kRowEncoding = 3;
constexpr size_t kRowOutOffset = 5;
constexpr size_t kRowOutLength = 6;

constexpr int32_t kFormFeatures = 0;
constexpr int32_t kFormData = 1;

// Two 64-bit numbers and a dash.
constexpr size_t kIdBytesMax = 41;

struct BatchColumns {
  size_t rows_max;
  int32_t* table;
  // The whole slab.
  uint8_t* memory;
  size_t memory_bytes;
  uint8_t* ids;
  uint8_t* id_bytes;
  uint8_t* keys;
  uint16_t* key_bytes;
  size_t key_bytes_max;
  uint8_t* events;
  uint16_t* event_bytes;
  size_t event_bytes_max;
  // Unix milliseconds.
  double* arrived_ms;
  double* read_ms;
  // Infinity: none.
  double* deadlines_ms;
  int16_t* origin;
  int32_t* fences;
};

}  // namespace subito
