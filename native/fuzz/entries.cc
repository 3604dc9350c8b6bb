// Any bytes as what Redis sends, into the rows of a batch; then any rows as a commit.
#include "../src/entries.h"
#include "../src/rows.h"
#include "plans.h"

namespace {

constexpr size_t kRows = 4;
constexpr size_t kKeyMax = 16;
constexpr size_t kEventMax = 8;
constexpr size_t kSlabBytes = 1024;
constexpr size_t kInputOffset = 128;
constexpr size_t kRowBytes = 8;
constexpr size_t kArenaOffset = 512;

template <typename T>
std::unique_ptr<T[]> Column(size_t count) {
  return std::unique_ptr<T[]>(new T[count]());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const uint8_t way = input.Byte();
  const auto table = Column<int32_t>(kRows * subito::kRowColumns);
  const auto memory = Column<uint8_t>(kSlabBytes);
  const auto ids = Column<uint8_t>(kRows * subito::kIdBytesMax);
  const auto keys = Column<uint8_t>(kRows * kKeyMax);
  const auto events = Column<uint8_t>(kRows * kEventMax);
  const auto id_bytes = Column<uint8_t>(kRows);
  const auto key_bytes = Column<uint16_t>(kRows);
  const auto event_bytes = Column<uint16_t>(kRows);
  const auto arrived = Column<double>(kRows);
  const auto read = Column<double>(kRows);
  const auto deadlines = Column<double>(kRows);
  const auto origin = Column<int16_t>(kRows);
  const auto fences = Column<int32_t>(kRows);
  const subito::BatchColumns batch{kRows,          table.get(),     memory.get(), kSlabBytes,
                                   ids.get(),      id_bytes.get(),  keys.get(),   key_bytes.get(),
                                   kKeyMax,        events.get(),    event_bytes.get(), kEventMax,
                                   arrived.get(),  read.get(),      deadlines.get(),
                                   origin.get(),   fences.get()};
  const subito::EntryRules rules{{"m", "m@1"}, kRowBytes,  {{kInputOffset, kRowBytes}}, kArenaOffset,
                                 kSlabBytes - kArenaOffset, 4096, 256, 55, 1e6, 2};
  subito::Fill fill{};
  fill.deadline_ms = 1e18;
  fill.origin = 1;
  fill.mark = 2;
  fill.received_ms = 5;
  fill.deadline_ms_stated = way / 16 % 2 == 1 ? 250 : 0;
  fill.deadline_ms_default = 1000;
  fill.deadline_ms_least = way / 32 % 2 == 1 ? 1.7e12 : 0;
  fill.model_needed = way % 2 == 1;
  fill.priority = way / 64 % 2;
  fill.priority_default = 1;
  fill.skew_ms = -0.5;

  const size_t bytes = input.size();
  const auto reply = Column<uint8_t>(bytes);
  input.Take(reply.get(), bytes);
  const uint8_t* const end = reply.get() + bytes;
  const uint8_t* const stop = subito::TakeEntries(reply.get(), end, way / 2 % 8, rules, batch, fill);
  MUST(stop >= reply.get() && stop <= end);
  MUST(fill.rows <= kRows && fill.rows <= way / 2 % 8u && fill.arena_used <= kSlabBytes - kArenaOffset);
  MUST((fill.rows == 0) == (stop == reply.get()));

  // As if a worker had written there, in part what the fuzzer likes.
  uint16_t picked[kRows];
  for (size_t i = 0; i < fill.rows; i++) {
    picked[i] = static_cast<uint16_t>(i);
    if (bytes < 8) continue;
    std::memcpy(&table[i * subito::kRowColumns + subito::kRowOutOffset], reply.get(), 8);
  }
  const subito::RowsSource source{batch, picked, fill.rows, memory.get(), kSlabBytes, 1.8e12};
  const size_t measured = subito::MeasureRows(source);
  if (measured == 0) return 0;
  const auto target = Column<uint8_t>(measured);
  subito::PutRows(source, target.get());
  return 0;
}
