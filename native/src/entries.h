// Takes entries of an XREADGROUP reply straight into the rows of a batch: what src/redis/stream-reply.ts and
// src/schedule/intake.ts do together, for those entries about which there is nothing to say. It stops in
// front of the first one that is incomplete, malformed, too large, for another model, or refused for any
// reason, and leaves it to them; so they alone decide what becomes of it, and in which words.
//
// The bytes come from a socket: nothing is read at or behind `end`, and no row is written before all of its
// entry has been looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "columns.h"

namespace subito {

// What all rows of a batch have in common: its model, and the engine's limits.
struct EntryRules {
  // Names that an entry may give in `model`.
  std::vector<std::string> names;
  // Of `features`, over all inputs; 0: none are taken.
  size_t features_bytes;
  struct Input {
    size_t offset;
    size_t row_bytes;
  };
  std::vector<Input> inputs;
  size_t arena_offset;
  size_t arena_bytes;
  size_t entry_bytes_max;
  size_t payload_bytes_max;
  size_t trace_bytes_max;
  double deadline_ms_max;
  double priority_max;
};

// A batch that is being filled; counts up as rows are added.
struct Fill {
  size_t rows;
  size_t arena_used;
  // The earliest of the rows' deadlines, Unix milliseconds.
  double deadline_ms;
  // Of every entry taken now:
  int16_t origin;
  int32_t mark;
  int32_t encoding;
  double received_ms;
  // Milliseconds from an entry's id on, when it names none; 0: it has none, and should be run by the default.
  double deadline_ms_stated;
  double deadline_ms_default;
  // Unix milliseconds: an entry with an earlier deadline is not taken.
  double deadline_ms_least;
  // An entry that names no model is for another one.
  bool model_needed;
  // The only one that is taken now, and that of an entry that names none.
  double priority;
  double priority_default;
  // Of the engine's clock over the one that makes the ids.
  double skew_ms;
};

namespace entries {

enum Field { kKey, kModel, kFeatures, kData, kDeadline, kPriority, kEvent, kTrace, kFields };

struct Span {
  const uint8_t* start = nullptr;
  size_t bytes = 0;
};

struct Entry {
  Span id;
  Span fields[kFields];
};

constexpr ptrdiff_t kDigitsMax = 15;

// Reads `<type><digits>\r\n` and moves `at` behind it; false when it is anything else, or not all there.
inline bool ReadLength(const uint8_t*& at, const uint8_t* end, uint8_t type, size_t& value) {
  const uint8_t* p = at;
  if (p >= end || *p != type) return false;
  ++p;
  const uint8_t* const first = p;
  size_t sum = 0;
  while (p < end && *p >= '0' && *p <= '9') {
    if (p - first >= kDigitsMax) return false;
    sum = sum * 10 + (*p - '0');
    ++p;
  }
  if (p == first || end - p < 2 || p[0] != '\r' || p[1] != '\n') return false;
  value = sum;
  at = p + 2;
  return true;
}

inline bool ReadString(const uint8_t*& at, const uint8_t* end, Span& span) {
  size_t bytes;
  if (!ReadLength(at, end, '$', bytes)) return false;
  // Nobody has checked the two bytes behind a value; so it is with the twin.
  if (static_cast<size_t>(end - at) < 2 || bytes > static_cast<size_t>(end - at) - 2) return false;
  span.start = at;
  span.bytes = bytes;
  at += bytes + 2;
  return true;
}

inline bool Is(const Span& span, const char* text, size_t bytes) {
  return span.bytes == bytes && std::memcmp(span.start, text, bytes) == 0;
}

inline int FieldOf(const Span& name) {
  switch (name.bytes) {
    case 3:
      return Is(name, "key", 3) ? kKey : -1;
    case 4:
      return Is(name, "data", 4) ? kData : -1;
    case 5:
      return Is(name, "model", 5)   ? kModel
             : Is(name, "event", 5) ? kEvent
             : Is(name, "trace", 5) ? kTrace
                                    : -1;
    case 8:
      return Is(name, "features", 8) ? kFeatures : Is(name, "priority", 8) ? kPriority : -1;
    case 11:
      return Is(name, "deadline_ms", 11) ? kDeadline : -1;
    default:
      return -1;
  }
}

// Finds the parts of the entry at `at` and moves behind it.
inline bool Locate(const uint8_t*& at, const uint8_t* end, Entry& entry) {
  size_t items;
  size_t parts;
  if (!ReadLength(at, end, '*', items) || items != 2) return false;
  if (!ReadString(at, end, entry.id)) return false;
  if (!ReadLength(at, end, '*', parts) || parts % 2 != 0) return false;
  for (size_t pair = 0; pair < parts; pair += 2) {
    Span name;
    Span value;
    if (!ReadString(at, end, name) || !ReadString(at, end, value)) return false;
    const int field = FieldOf(name);
    if (field < 0) return false;
    // Of a field that is given twice, the last one counts.
    entry.fields[field] = value;
  }
  return true;
}

// At most ten digits; -1 for anything else, as in src/schedule/values.ts.
inline double WholeNumber(const Span& span) {
  if (span.bytes == 0 || span.bytes > 10) return -1;
  double value = 0;
  for (size_t i = 0; i < span.bytes; ++i) {
    const int digit = span.start[i] - '0';
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value;
}

// The milliseconds of an id, or -1 for one that Redis would not write.
inline double IdMs(const Span& id) {
  double value = 0;
  size_t i = 0;
  while (i < id.bytes && id.start[i] >= '0' && id.start[i] <= '9') value = value * 10 + (id.start[i++] - '0');
  return i > 0 && i < id.bytes && id.start[i] == '-' ? value : -1;
}

inline int HexDigit(uint8_t byte) {
  if (byte >= '0' && byte <= '9') return byte - '0';
  return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

// Of version 00 only; later ones are left to the twin (src/schedule/traceparent.ts).
inline bool IsTraceparent(const Span& span) {
  constexpr size_t kBytes = 55;
  if (span.bytes != kBytes || std::memcmp(span.start, "00-", 3) != 0) return false;
  int trace_id = 0;
  int span_id = 0;
  for (size_t i = 3; i < kBytes; ++i) {
    if (i == 35 || i == 52) {
      if (span.start[i] != '-') return false;
      continue;
    }
    const int digit = HexDigit(span.start[i]);
    if (digit < 0) return false;
    if (i < 35)
      trace_id |= digit;
    else if (i < 52)
      span_id |= digit;
  }
  return trace_id != 0 && span_id != 0;
}

inline bool IsNamed(const EntryRules& rules, const Span& model) {
  for (const std::string& name : rules.names) {
    if (Is(model, name.data(), name.size())) return true;
  }
  return false;
}

// True when intake would take it into this batch. `deadline_ms`: the entry's own, or 0.
inline bool IsPlain(const Entry& entry, const EntryRules& rules, const BatchColumns& batch, const Fill& fill,
                    double& deadline_ms) {
  const Span* const fields = entry.fields;
  const Span& features = fields[kFeatures];
  const Span& data = fields[kData];
  if (entry.id.bytes > kIdBytesMax) return false;
  if (fields[kModel].start != nullptr ? !IsNamed(rules, fields[kModel]) : fill.model_needed) return false;
  if ((features.start == nullptr) == (data.start == nullptr)) return false;
  if (data.bytes > rules.payload_bytes_max) return false;
  if (features.start != nullptr && (rules.features_bytes == 0 || features.bytes != rules.features_bytes))
    return false;
  if (fields[kKey].bytes > batch.key_bytes_max || fields[kEvent].bytes > batch.event_bytes_max) return false;
  const Span& trace = fields[kTrace];
  if (trace.start != nullptr && (trace.bytes > rules.trace_bytes_max || !IsTraceparent(trace))) return false;
  deadline_ms = 0;
  if (fields[kDeadline].start != nullptr) {
    deadline_ms = WholeNumber(fields[kDeadline]);
    if (deadline_ms < 1 || deadline_ms > rules.deadline_ms_max) return false;
  }
  double priority = fill.priority_default;
  if (fields[kPriority].start != nullptr) {
    priority = WholeNumber(fields[kPriority]);
    if (priority < 0 || priority > rules.priority_max) return false;
  }
  return priority == fill.priority;
}

inline void Copy(const Span& span, uint8_t* to) {
  if (span.bytes > 0) std::memcpy(to, span.start, span.bytes);
}

inline void Place(const Entry& entry, const EntryRules& rules, const BatchColumns& batch, Fill& fill,
                  double arrived_ms, double deadline_ms, double urgent_ms) {
  const size_t row = fill.rows;
  int32_t* const table = batch.table + row * kRowColumns;
  const Span* const fields = entry.fields;
  const Span& data = fields[kData];
  if (data.start != nullptr) {
    Copy(data, batch.memory + rules.arena_offset + fill.arena_used);
    table[kRowForm] = kFormData;
    table[kRowInOffset] = static_cast<int32_t>(fill.arena_used);
    table[kRowInLength] = static_cast<int32_t>(data.bytes);
    fill.arena_used += data.bytes;
  } else {
    table[kRowForm] = kFormFeatures;
    const uint8_t* from = fields[kFeatures].start;
    for (const EntryRules::Input& input : rules.inputs) {
      std::memcpy(batch.memory + input.offset + row * input.row_bytes, from, input.row_bytes);
      from += input.row_bytes;
    }
  }
  table[kRowEncoding] = fill.encoding;
  batch.id_bytes[row] = static_cast<uint8_t>(entry.id.bytes);
  Copy(entry.id, batch.ids + row * kIdBytesMax);
  batch.key_bytes[row] = static_cast<uint16_t>(fields[kKey].bytes);
  Copy(fields[kKey], batch.keys + row * batch.key_bytes_max);
  batch.event_bytes[row] = static_cast<uint16_t>(fields[kEvent].bytes);
  Copy(fields[kEvent], batch.events + row * batch.event_bytes_max);
  batch.fences[row] = fill.mark;
  batch.origin[row] = fill.origin;
  batch.arrived_ms[row] = arrived_ms;
  batch.read_ms[row] = fill.received_ms;
  batch.deadlines_ms[row] = deadline_ms;
  if (urgent_ms < fill.deadline_ms) fill.deadline_ms = urgent_ms;
  fill.rows += 1;
}

}  // namespace entries

// Takes at most `entries_max` entries from `bytes` on; returns behind which byte it stopped. A row is taken
// for each; `fill.rows` says how many.
inline const uint8_t* TakeEntries(const uint8_t* bytes, const uint8_t* end, size_t entries_max,
                                  const EntryRules& rules, const BatchColumns& batch, Fill& fill) {
  const uint8_t* at = bytes;
  for (size_t taken = 0; taken < entries_max && fill.rows < batch.rows_max; ++taken) {
    entries::Entry entry;
    const uint8_t* next = at;
    double own_ms;
    if (!entries::Locate(next, end, entry)) break;
    if (static_cast<size_t>(next - at) > rules.entry_bytes_max) break;
    if (!entries::IsPlain(entry, rules, batch, fill, own_ms)) break;
    if (entry.fields[entries::kData].bytes > rules.arena_bytes - fill.arena_used) break;
    const double id_ms = entries::IdMs(entry.id);
    if (id_ms < 0) break;
    const double arrived_ms = id_ms + fill.skew_ms;
    const double stated_ms = own_ms > 0 ? own_ms : fill.deadline_ms_stated;
    constexpr double kNone = std::numeric_limits<double>::infinity();
    const double deadline_ms = stated_ms > 0 ? arrived_ms + stated_ms : kNone;
    if (deadline_ms < fill.deadline_ms_least) break;
    const double urgent_ms = stated_ms > 0 ? deadline_ms : arrived_ms + fill.deadline_ms_default;
    entries::Place(entry, rules, batch, fill, arrived_ms, deadline_ms, urgent_ms);
    at = next;
  }
  return at;
}

}  // namespace subito
