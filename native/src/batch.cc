// openBatch, takeEntries, writeRows: see src/native.ts for what they take. A batch is handed over once, with
// the memory that it keeps for ever; the calls after that name it.
#include <memory>
#include <vector>

#include "columns.h"
#include "entries.h"
#include "napi.h"
#include "rows.h"

namespace subito {
namespace {

constexpr napi_type_tag kBatchTag = {0x7375626974610001, 0x6261746368000001};

struct Batch {
  BatchColumns columns{};
  EntryRules rules{};
  // Hold on to the typed arrays that `columns` points into.
  std::vector<napi_ref> refs;
};

void CloseBatch(napi_env env, void* data, void*) {
  std::unique_ptr<Batch> batch(static_cast<Batch*>(data));
  for (napi_ref ref : batch->refs) napi_delete_reference(env, ref);
}

// Reads the properties of the options; remembers whether all were as they should be.
class Options {
 public:
  Options(napi_env env, napi_value object, std::vector<napi_ref>* refs)
      : env_(env), object_(object), refs_(refs) {}

  bool ok() const { return ok_; }

  double Number(const char* name) {
    napi_value value;
    double number = 0;
    if (!Get(name, &value) || napi_get_value_double(env_, value, &number) != napi_ok || !(number >= 0)) {
      ok_ = false;
    }
    return number;
  }

  size_t Size(const char* name) { return static_cast<size_t>(Number(name)); }

  // The memory of a typed array of at least `elements`.
  template <typename T>
  T* Array(const char* name, napi_typedarray_type wanted, size_t elements, size_t* length_out = nullptr) {
    napi_value value;
    napi_typedarray_type type;
    size_t length = 0;
    void* data = nullptr;
    napi_ref ref;
    if (!Get(name, &value) ||
        napi_get_typedarray_info(env_, value, &type, &length, &data, nullptr, nullptr) != napi_ok ||
        type != wanted || length < elements || napi_create_reference(env_, value, 1, &ref) != napi_ok) {
      ok_ = false;
      return nullptr;
    }
    refs_->push_back(ref);
    if (length_out != nullptr) *length_out = length;
    return static_cast<T*>(data);
  }

  std::vector<double> Numbers(const char* name) {
    std::vector<double> numbers;
    Each(name, [&](napi_value item) {
      double number = 0;
      if (napi_get_value_double(env_, item, &number) != napi_ok || !(number >= 0)) ok_ = false;
      numbers.push_back(number);
    });
    return numbers;
  }

  std::vector<std::string> Texts(const char* name) {
    std::vector<std::string> texts;
    Each(name, [&](napi_value item) {
      size_t bytes = 0;
      if (napi_get_value_string_utf8(env_, item, nullptr, 0, &bytes) != napi_ok) ok_ = false;
      std::string text(bytes + 1, '\0');
      if (napi_get_value_string_utf8(env_, item, text.data(), bytes + 1, &bytes) != napi_ok) ok_ = false;
      text.resize(bytes);
      texts.push_back(text);
    });
    return texts;
  }

 private:
  bool Get(const char* name, napi_value* value) {
    return napi_get_named_property(env_, object_, name, value) == napi_ok;
  }

  template <typename F>
  void Each(const char* name, F each) {
    napi_value list;
    uint32_t length = 0;
    if (!Get(name, &list) || napi_get_array_length(env_, list, &length) != napi_ok) {
      ok_ = false;
      return;
    }
    for (uint32_t i = 0; i < length; ++i) {
      napi_value item;
      if (napi_get_element(env_, list, i, &item) != napi_ok)
        ok_ = false;
      else
        each(item);
    }
  }

  napi_env env_;
  napi_value object_;
  std::vector<napi_ref>* refs_;
  bool ok_ = true;
};

void ReadColumns(Options& options, BatchColumns& columns) {
  const size_t rows = options.Size("rowsMax");
  columns.rows_max = rows;
  columns.key_bytes_max = options.Size("keyBytesMax");
  columns.event_bytes_max = options.Size("eventIdBytesMax");
  columns.table = options.Array<int32_t>("table", napi_int32_array, rows * kRowColumns);
  columns.memory = options.Array<uint8_t>("memory", napi_uint8_array, 0, &columns.memory_bytes);
  columns.ids = options.Array<uint8_t>("ids", napi_uint8_array, rows * kIdBytesMax);
  columns.id_bytes = options.Array<uint8_t>("idBytes", napi_uint8_array, rows);
  columns.keys = options.Array<uint8_t>("keys", napi_uint8_array, rows * columns.key_bytes_max);
  columns.key_bytes = options.Array<uint16_t>("keyBytes", napi_uint16_array, rows);
  columns.events = options.Array<uint8_t>("events", napi_uint8_array, rows * columns.event_bytes_max);
  columns.event_bytes = options.Array<uint16_t>("eventBytes", napi_uint16_array, rows);
  columns.arrived_ms = options.Array<double>("arrivedMs", napi_float64_array, rows);
  columns.read_ms = options.Array<double>("readMs", napi_float64_array, rows);
  columns.deadlines_ms = options.Array<double>("deadlinesMs", napi_float64_array, rows);
  columns.origin = options.Array<int16_t>("origin", napi_int16_array, rows);
  columns.fences = options.Array<int32_t>("fences", napi_int32_array, rows);
}

// False when they would lead out of the slab.
bool ReadRules(Options& options, const BatchColumns& columns, EntryRules& rules) {
  rules.names = options.Texts("names");
  rules.features_bytes = options.Size("featuresBytes");
  rules.arena_offset = options.Size("arenaOffset");
  rules.arena_bytes = options.Size("arenaBytes");
  rules.entry_bytes_max = options.Size("entryBytesMax");
  rules.payload_bytes_max = options.Size("payloadBytesMax");
  rules.trace_bytes_max = options.Size("traceBytesMax");
  rules.deadline_ms_max = options.Number("deadlineMsMax");
  rules.priority_max = options.Number("priorityMax");
  const std::vector<double> offsets = options.Numbers("inputOffsets");
  const std::vector<double> row_bytes = options.Numbers("inputRowBytes");
  if (!options.ok() || offsets.size() != row_bytes.size()) return false;
  size_t sum = 0;
  for (size_t i = 0; i < offsets.size(); ++i) {
    const size_t bytes = static_cast<size_t>(row_bytes[i]);
    // A model with an input that has no region takes no features.
    if (rules.features_bytes == 0) break;
    const size_t offset = static_cast<size_t>(offsets[i]);
    if (offset + bytes * columns.rows_max > columns.memory_bytes) return false;
    rules.inputs.push_back({offset, bytes});
    sum += bytes;
  }
  return sum == rules.features_bytes && rules.arena_offset + rules.arena_bytes <= columns.memory_bytes;
}

napi_value OpenBatch(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value object;
  if (napi_get_cb_info(env, info, &count, &object, nullptr, nullptr) != napi_ok || count != 1) {
    return Fail(env, "openBatch takes an object");
  }
  auto batch = std::make_unique<Batch>();
  Options options(env, object, &batch->refs);
  ReadColumns(options, batch->columns);
  napi_value handle;
  if (!options.ok() || !ReadRules(options, batch->columns, batch->rules) ||
      napi_create_external(env, batch.get(), CloseBatch, nullptr, &handle) != napi_ok) {
    CloseBatch(env, batch.release(), nullptr);
    return Fail(env, "openBatch: an option is missing, or does not fit the others");
  }
  batch.release();
  if (napi_type_tag_object(env, handle, &kBatchTag) != napi_ok) return Fail(env, "openBatch: no tag");
  return handle;
}

Batch* BatchOf(napi_env env, napi_value handle) {
  bool is_batch = false;
  void* data = nullptr;
  if (napi_check_object_type_tag(env, handle, &kBatchTag, &is_batch) != napi_ok || !is_batch) return nullptr;
  return napi_get_value_external(env, handle, &data) == napi_ok ? static_cast<Batch*>(data) : nullptr;
}

template <typename T>
bool ArrayOf(napi_env env, napi_value value, napi_typedarray_type wanted, T*& data, size_t& length) {
  napi_typedarray_type type;
  void* bytes = nullptr;
  if (napi_get_typedarray_info(env, value, &type, &length, &bytes, nullptr, nullptr) != napi_ok) return false;
  data = static_cast<T*>(bytes);
  return type == wanted;
}

bool SizeOf(napi_env env, napi_value value, size_t& size) {
  uint32_t number = 0;
  if (napi_get_value_uint32(env, value, &number) != napi_ok) return false;
  size = number;
  return true;
}

// The cells of `state`, as src/native.ts names them.
enum State {
  kRows,
  kArenaUsed,
  kDeadlineMs,
  kOrigin,
  kMark,
  kEncoding,
  kReceivedMs,
  kDeadlineMsStated,
  kDeadlineMsDefault,
  kDeadlineMsLeast,
  kModelNeeded,
  kPriority,
  kPriorityDefault,
  kSkewMs,
  kStateCells
};

napi_value TakeEntriesCall(napi_env env, napi_callback_info info) {
  size_t count = 6;
  napi_value args[6];
  uint8_t* bytes = nullptr;
  double* state = nullptr;
  size_t bytes_length = 0;
  size_t cells = 0;
  size_t start = 0;
  size_t end = 0;
  size_t entries_max = 0;
  if (napi_get_cb_info(env, info, &count, args, nullptr, nullptr) != napi_ok || count != 6) {
    return Fail(env, "takeEntries takes six arguments");
  }
  Batch* const batch = BatchOf(env, args[0]);
  if (batch == nullptr || !ArrayOf(env, args[1], napi_uint8_array, bytes, bytes_length) ||
      !SizeOf(env, args[2], start) || !SizeOf(env, args[3], end) || !SizeOf(env, args[4], entries_max) ||
      !ArrayOf(env, args[5], napi_float64_array, state, cells) || cells < kStateCells) {
    return Fail(env, "takeEntries: an argument is of the wrong type");
  }
  const double arena_used = state[kArenaUsed];
  const double rows = state[kRows];
  if (start > end || end > bytes_length ||
      !(rows >= 0 && rows <= static_cast<double>(batch->columns.rows_max)) ||
      !(arena_used >= 0 && arena_used <= static_cast<double>(batch->rules.arena_bytes))) {
    return Fail(env, "takeEntries: an argument is out of range");
  }
  Fill fill{};
  fill.rows = static_cast<size_t>(rows);
  fill.arena_used = static_cast<size_t>(arena_used);
  fill.deadline_ms = state[kDeadlineMs];
  fill.origin = static_cast<int16_t>(state[kOrigin]);
  fill.mark = static_cast<int32_t>(state[kMark]);
  fill.encoding = static_cast<int32_t>(state[kEncoding]);
  fill.received_ms = state[kReceivedMs];
  fill.deadline_ms_stated = state[kDeadlineMsStated];
  fill.deadline_ms_default = state[kDeadlineMsDefault];
  fill.deadline_ms_least = state[kDeadlineMsLeast];
  fill.model_needed = state[kModelNeeded] != 0;
  fill.priority = state[kPriority];
  fill.priority_default = state[kPriorityDefault];
  fill.skew_ms = state[kSkewMs];
  const uint8_t* const next =
      TakeEntries(bytes + start, bytes + end, entries_max, batch->rules, batch->columns, fill);
  state[kRows] = static_cast<double>(fill.rows);
  state[kArenaUsed] = static_cast<double>(fill.arena_used);
  state[kDeadlineMs] = fill.deadline_ms;
  napi_value result;
  if (napi_create_uint32(env, static_cast<uint32_t>(next - bytes), &result) != napi_ok) {
    return Fail(env, "takeEntries: no result");
  }
  return result;
}

// `$<length>\r\n` and `\r\n` around it, of at most 20 digits.
constexpr size_t kAroundBytesMax = 25;

napi_value WriteRowsCall(napi_env env, napi_callback_info info) {
  size_t count = 7;
  napi_value args[7];
  uint16_t* picked = nullptr;
  uint8_t* outputs = nullptr;
  uint8_t* target = nullptr;
  size_t picked_length = 0;
  size_t outputs_length = 0;
  size_t target_length = 0;
  size_t rows = 0;
  size_t at = 0;
  double dispatched_ms = 0;
  if (napi_get_cb_info(env, info, &count, args, nullptr, nullptr) != napi_ok || count != 7) {
    return Fail(env, "writeRows takes seven arguments");
  }
  Batch* const batch = BatchOf(env, args[0]);
  if (batch == nullptr || !ArrayOf(env, args[1], napi_uint16_array, picked, picked_length) ||
      !SizeOf(env, args[2], rows) || !ArrayOf(env, args[3], napi_uint8_array, outputs, outputs_length) ||
      napi_get_value_double(env, args[4], &dispatched_ms) != napi_ok ||
      !ArrayOf(env, args[5], napi_uint8_array, target, target_length) || !SizeOf(env, args[6], at)) {
    return Fail(env, "writeRows: an argument is of the wrong type");
  }
  if (rows > picked_length || rows > 0xffff || at > target_length) {
    return Fail(env, "writeRows: an argument is out of range");
  }
  const RowsSource source{batch->columns, picked, rows, outputs, outputs_length, dispatched_ms};
  const size_t bytes = MeasureRows(source);
  if (bytes == 0) return Fail(env, "writeRows: the row table points outside of the outputs");
  // Below zero: this much room is needed.
  double result = -static_cast<double>(bytes + kAroundBytesMax);
  if (bytes + kAroundBytesMax <= target_length - at) {
    uint8_t* to = target + at;
    const std::string head = "$" + std::to_string(bytes) + "\r\n";
    std::memcpy(to, head.data(), head.size());
    PutRows(source, to + head.size());
    std::memcpy(to + head.size() + bytes, "\r\n", 2);
    result = static_cast<double>(head.size() + bytes + 2);
  }
  napi_value value;
  if (napi_create_double(env, result, &value) != napi_ok) return Fail(env, "writeRows: no result");
  return value;
}

}  // namespace

napi_status RegisterBatch(napi_env env, napi_value exports) {
  napi_status status = Export(env, exports, "openBatch", OpenBatch);
  if (status == napi_ok) status = Export(env, exports, "takeEntries", TakeEntriesCall);
  if (status == napi_ok) status = Export(env, exports, "writeRows", WriteRowsCall);
  return status;
}

}  // namespace subito
