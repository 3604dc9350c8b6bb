// The predicted rows of a batch as the commit script takes them: the twin of src/publish/rows.ts.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "columns.h"

namespace subito {

struct RowsSource {
  const BatchColumns& batch;
  // Which rows, in order.
  const uint16_t* picked;
  size_t count;
  // Where the outputs lie that the row table speaks of.
  const uint8_t* outputs;
  size_t outputs_bytes;
  // Unix milliseconds.
  double dispatched_ms;
};

namespace rows {

constexpr uint8_t kArray16 = 0xdc;
constexpr size_t kColumns = 5;
constexpr size_t kArrayHeadBytes = 3;
constexpr double kWaitUsMax = 2147483647;

inline size_t StringBytes(size_t length) {
  if (length < 32) return 1 + length;
  if (length <= 0xff) return 2 + length;
  return (length <= 0xffff ? 3 : 5) + length;
}

inline uint8_t* PutHead(uint8_t* to, size_t length) {
  if (length < 32) {
    *to++ = static_cast<uint8_t>(0xa0 | length);
  } else if (length <= 0xff) {
    *to++ = 0xd9;
    *to++ = static_cast<uint8_t>(length);
  } else if (length <= 0xffff) {
    *to++ = 0xda;
    *to++ = static_cast<uint8_t>(length >> 8);
    *to++ = static_cast<uint8_t>(length);
  } else {
    *to++ = 0xdb;
    for (int shift = 24; shift >= 0; shift -= 8) *to++ = static_cast<uint8_t>(length >> shift);
  }
  return to;
}

inline uint8_t* PutString(uint8_t* to, const uint8_t* from, size_t length) {
  to = PutHead(to, length);
  std::memcpy(to, from, length);
  return to + length;
}

inline uint8_t* PutArrayHead(uint8_t* to, size_t items) {
  *to++ = kArray16;
  *to++ = static_cast<uint8_t>(items >> 8);
  *to++ = static_cast<uint8_t>(items);
  return to;
}

// As JavaScript rounds: halves go up.
inline double Round(double value) {
  const double up = std::ceil(value);
  return up - 0.5 > value ? up - 1 : up;
}

inline uint32_t WaitUs(double dispatched_ms, double arrived_ms) {
  const double us = Round((dispatched_ms - arrived_ms) * 1000);
  // Also for what is no number.
  if (!(us > 0)) return 0;
  return static_cast<uint32_t>(us < kWaitUsMax ? us : kWaitUsMax);
}

inline size_t Digits(uint32_t value) {
  size_t digits = 1;
  for (uint64_t bound = 10; value >= bound; bound *= 10) ++digits;
  return digits;
}

inline uint8_t* PutNumber(uint8_t* to, uint32_t value) {
  const size_t digits = Digits(value);
  *to++ = static_cast<uint8_t>(0xa0 | digits);
  for (uint8_t* place = to + digits; place > to; value /= 10)
    *--place = static_cast<uint8_t>('0' + value % 10);
  return to + digits;
}

}  // namespace rows

// Bytes that PutRows will write; 0 when the row table points outside of the outputs, which only a bug can do.
inline size_t MeasureRows(const RowsSource& source) {
  const BatchColumns& batch = source.batch;
  size_t bytes = rows::kColumns * rows::kArrayHeadBytes;
  for (size_t i = 0; i < source.count; ++i) {
    const size_t row = source.picked[i];
    if (row >= batch.rows_max) return 0;
    const int32_t* const table = batch.table + row * kRowColumns;
    const int64_t from = table[kRowOutOffset];
    const int64_t length = table[kRowOutLength];
    if (from < 0 || length < 0 || from + length > static_cast<int64_t>(source.outputs_bytes)) return 0;
    if (batch.id_bytes[row] > kIdBytesMax || batch.key_bytes[row] > batch.key_bytes_max ||
        batch.event_bytes[row] > batch.event_bytes_max) {
      return 0;
    }
    bytes += rows::StringBytes(batch.id_bytes[row]) + rows::StringBytes(batch.key_bytes[row]) +
             rows::StringBytes(batch.event_bytes[row]) + rows::StringBytes(length) + 1 +
             rows::Digits(rows::WaitUs(source.dispatched_ms, batch.arrived_ms[row]));
  }
  return bytes;
}

// Writes as many bytes as MeasureRows said.
inline void PutRows(const RowsSource& source, uint8_t* to) {
  const BatchColumns& batch = source.batch;
  const auto column = [&](const uint8_t* bytes, size_t stride, const auto* lengths) {
    to = rows::PutArrayHead(to, source.count);
    for (size_t i = 0; i < source.count; ++i) {
      const size_t row = source.picked[i];
      to = rows::PutString(to, bytes + row * stride, lengths[row]);
    }
  };
  column(batch.ids, kIdBytesMax, batch.id_bytes);
  column(batch.keys, batch.key_bytes_max, batch.key_bytes);
  column(batch.events, batch.event_bytes_max, batch.event_bytes);
  to = rows::PutArrayHead(to, source.count);
  for (size_t i = 0; i < source.count; ++i) {
    to = rows::PutNumber(to, rows::WaitUs(source.dispatched_ms, batch.arrived_ms[source.picked[i]]));
  }
  to = rows::PutArrayHead(to, source.count);
  for (size_t i = 0; i < source.count; ++i) {
    const int32_t* const table = batch.table + source.picked[i] * kRowColumns;
    to = rows::PutString(to, source.outputs + table[kRowOutOffset], table[kRowOutLength]);
  }
}

}  // namespace subito
