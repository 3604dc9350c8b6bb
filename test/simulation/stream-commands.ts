// XADD, XTRIM, XDEL, XRANGE, XREAD, XREADGROUP, XSETID: what is read and written by entries.
import { type Command, CommandError, type Commands, type Context, integer, SYNTAX, WAITS } from './store.ts';
import {
  type Consumer,
  compareIds,
  type Entry,
  type Group,
  ID_MAX,
  ID_MIN,
  type Id,
  nextId,
  parseId,
  Stream,
  type Trim,
} from './stream.ts';
import { NIL_ARRAY, OK, type Value } from './values.ts';

const INVALID_ID = 'ERR Invalid stream ID specified as stream command argument';

export function strictId(text: string, missingSeq = 0): Id {
  const id = parseId(text, missingSeq);
  if (id === null) throw new CommandError(INVALID_ID);
  return id;
}

/** An end of an interval: `-`, `+`, an id, or `(id` for what lies beyond it. */
export function intervalId(text: string, isStart: boolean): Id {
  if (text === '-') return ID_MIN;
  if (text === '+') return ID_MAX;
  const missingSeq = isStart ? 0 : Number.POSITIVE_INFINITY;
  if (!text.startsWith('(') || text.length === 1) return strictId(text, missingSeq);
  const id = strictId(text.slice(1), missingSeq);
  if (isStart) {
    if (id.seq !== Number.POSITIVE_INFINITY) return nextId(id);
    if (id.ms === Number.POSITIVE_INFINITY) throw new CommandError('ERR invalid start ID for the interval');
    return { ms: id.ms + 1, seq: 0 };
  }
  if (id.seq > 0) return id.seq === Number.POSITIVE_INFINITY ? id : { ms: id.ms, seq: id.seq - 1 };
  if (id.ms === 0) throw new CommandError('ERR invalid end ID for the interval');
  return { ms: id.ms - 1, seq: Number.POSITIVE_INFINITY };
}

export const entryValue = ({ text, fields }: Entry): Value => [text, [...fields]];

interface AddOptions {
  trim: Trim | null;
  noMake: boolean;
  /** Null: `*`. */
  id: Id | null;
  seqGiven: boolean;
  /** Index of the id among the arguments. */
  at: number;
}

/** streamParseAddOrTrimArgsOrReply. */
function parseAddOrTrim({ store }: Context, args: readonly string[], isAdd: boolean): AddOptions {
  const options: AddOptions = { trim: null, noMake: false, id: null, seqGiven: true, at: 0 };
  let limit: number | null = null;
  let trim: { maxLength?: number; minId?: Id; approximate: boolean } | null = null;
  let i = 2;
  for (; i < args.length; i += 1) {
    const option = (args[i] as string).toLowerCase();
    const more = args.length - 1 - i;
    if (option === '*' && isAdd) break;
    if ((option === 'maxlen' || option === 'minid') && more > 0) {
      if (trim !== null)
        throw new CommandError(
          'ERR syntax error, MAXLEN and MINID options at the same time are not compatible',
        );
      const sign = args[i + 1] as string;
      const signed = more >= 2 && (sign === '~' || sign === '=');
      if (signed) i += 1;
      i += 1;
      const value = args[i] as string;
      const approximate = signed && sign === '~';
      if (option === 'minid') trim = { minId: strictId(value), approximate };
      else {
        const maxLength = integer(value);
        if (maxLength < 0) throw new CommandError('ERR The MAXLEN argument must be >= 0.');
        trim = { maxLength, approximate };
      }
    } else if (option === 'limit' && more > 0) {
      i += 1;
      limit = integer(args[i] as string);
      if (limit < 0) throw new CommandError('ERR The LIMIT argument must be >= 0.');
    } else if (isAdd && option === 'nomkstream') options.noMake = true;
    else if (isAdd) {
      const text = args[i] as string;
      options.seqGiven = !text.endsWith('-*');
      options.id = strictId(options.seqGiven ? text : text.slice(0, -2));
      break;
    } else throw new CommandError(SYNTAX);
  }
  options.at = i;
  if (limit !== null && limit > 0 && trim === null)
    throw new CommandError('ERR syntax error, LIMIT cannot be used without specifying a trimming strategy');
  if (!isAdd && trim === null)
    throw new CommandError('ERR syntax error, XTRIM must be called with a trimming strategy');
  if (trim !== null) {
    if (limit !== null && !trim.approximate)
      throw new CommandError('ERR syntax error, LIMIT cannot be used without the special ~ option');
    options.trim = { ...trim, limit: limit ?? (trim.approximate ? 100 * store.nodeEntries : 0) };
  }
  return options;
}

function xadd(context: Context, args: readonly string[]): Value {
  const { store } = context;
  const key = args[1] as string;
  const options = parseAddOrTrim(context, args, true);
  const fields = args.slice(options.at + 1);
  if (fields.length < 2 || fields.length % 2 === 1)
    throw new CommandError("ERR wrong number of arguments for 'xadd' command");
  if (options.id !== null && options.seqGiven && compareIds(options.id, ID_MIN) === 0)
    throw new CommandError('ERR The ID specified in XADD must be greater than 0-0');
  let stream = store.stream(key);
  if (stream === undefined) {
    if (options.noMake) return null;
    stream = new Stream(store.nodeEntries);
    store.set(key, stream);
  }
  if (compareIds(stream.last, ID_MAX) === 0)
    throw new CommandError('ERR The stream has exhausted the last possible ID, unable to add more items');
  const id = newId(stream, options, Math.floor(store.nowMs()));
  if (id === null || compareIds(id, stream.last) <= 0)
    throw new CommandError(
      'ERR The ID specified in XADD is equal or smaller than the target stream top item',
    );
  const { text } = stream.append(id, fields);
  if (options.trim !== null) stream.trim(options.trim);
  store.changed.add(key);
  return text;
}

function newId({ last }: Stream, { id, seqGiven }: AddOptions, nowMs: number): Id | null {
  if (id === null) return nowMs > last.ms ? { ms: nowMs, seq: 0 } : nextId(last);
  if (seqGiven || last.ms !== id.ms) return id;
  return last.seq === Number.POSITIVE_INFINITY ? null : nextId(last);
}

const xrange =
  (reverse: boolean): Command['run'] =>
  ({ store }, args) => {
    const start = intervalId(args[reverse ? 3 : 2] as string, true);
    const end = intervalId(args[reverse ? 2 : 3] as string, false);
    let count = -1;
    for (let i = 4; i < args.length; i += 2) {
      if ((args[i] as string).toUpperCase() !== 'COUNT' || i + 1 >= args.length)
        throw new CommandError(SYNTAX);
      count = Math.max(0, integer(args[i + 1] as string));
    }
    const stream = store.stream(args[1] as string);
    if (stream === undefined) return [];
    if (count === 0) return NIL_ARRAY;
    return stream.range(start, end, Math.max(0, count), reverse).map(entryValue);
  };

/** New entries for a consumer: read in order, and pending for it from now on. */
export function readNew(
  stream: Stream,
  group: Group,
  consumer: Consumer,
  after: Id,
  count: number,
  nowMs: number,
): Value[] {
  const values: Value[] = [];
  for (const entry of stream.range(nextId(after), ID_MAX, count)) {
    stream.advance(group, entry.id);
    group.give(entry.id, entry.text, consumer, nowMs, 1);
    values.push(entryValue(entry));
  }
  return values;
}

/** What a consumer has been given and not settled. Entries that are gone come without fields. */
function readOwn(
  stream: Stream,
  group: Group,
  consumer: Consumer,
  after: Id,
  count: number,
  nowMs: number,
): Value[] {
  const own = group.from(nextId(after), ID_MAX, consumer);
  return (count > 0 ? own.slice(0, count) : own).map((pending): Value => {
    const entry = stream.entry(pending.id);
    if (entry === undefined) return [pending.text, NIL_ARRAY];
    pending.deliveredMs = nowMs;
    pending.count += 1;
    return entryValue(entry);
  });
}

interface ReadOptions {
  blockMs: number | null;
  count: number;
  group: string | null;
  consumer: string;
  keys: readonly string[];
  ids: readonly string[];
}

function parseRead(args: readonly string[], inGroup: boolean, inScript: boolean): ReadOptions {
  const options: ReadOptions = { blockMs: null, count: 0, group: null, consumer: '', keys: [], ids: [] };
  for (let i = 1; i < args.length; i += 1) {
    const option = (args[i] as string).toUpperCase();
    const more = args.length - 1 - i;
    if (option === 'BLOCK' && more > 0) {
      if (inScript)
        throw new CommandError(`ERR ${args[0]} command is not allowed with BLOCK option from scripts`);
      i += 1;
      options.blockMs = integer(args[i] as string, 'ERR timeout is not an integer or out of range');
      if (options.blockMs < 0) throw new CommandError('ERR timeout is negative');
    } else if (option === 'COUNT' && more > 0) {
      i += 1;
      options.count = Math.max(0, integer(args[i] as string));
    } else if (option === 'STREAMS' && more > 0) {
      if (more % 2 === 1)
        throw new CommandError(
          "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.",
        );
      options.keys = args.slice(i + 1, i + 1 + more / 2);
      options.ids = args.slice(i + 1 + more / 2);
      break;
    } else if (option === 'GROUP' && more >= 2) {
      if (!inGroup)
        throw new CommandError(
          'ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.',
        );
      options.group = args[i + 1] as string;
      options.consumer = args[i + 2] as string;
      i += 2;
    } else throw new CommandError(SYNTAX);
  }
  if (options.keys.length === 0) throw new CommandError(SYNTAX);
  if (inGroup && options.group === null) throw new CommandError('ERR Missing GROUP option for XREADGROUP');
  return options;
}

/** Where each stream is to be read from; NEW for `>`. */
function startOf({ store }: Context, key: string, text: string, groupName: string | null): Id {
  const stream = store.stream(key);
  if (groupName !== null && stream?.groups.get(groupName) === undefined)
    throw new CommandError(
      `NOGROUP No such key '${key}' or consumer group '${groupName}' in XREADGROUP with GROUP option`,
    );
  if (text === '$') {
    if (groupName !== null)
      throw new CommandError(
        'ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this ' +
          'consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just ' +
          'return an empty result set.',
      );
    return stream?.last ?? ID_MIN;
  }
  if (text === '>') {
    if (groupName === null)
      throw new CommandError(
        'ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> ' +
          'option.',
      );
    return ID_MAX;
  }
  return strictId(text);
}

const read =
  (inGroup: boolean): Command['run'] =>
  (context, args) => {
    const { store } = context;
    const options = parseRead(args, inGroup, context.inScript);
    const { keys, ids, count, consumer, blockMs } = options;
    const nowMs = store.nowMs();
    const starts = keys.map((key, i) => startOf(context, key, ids[i] as string, options.group));
    const found: Value[] = [];
    for (const [i, key] of keys.entries()) {
      const stream = store.stream(key);
      if (stream === undefined) continue;
      const start = starts[i] as Id;
      const top = stream.entries.at(-1)?.id;
      const group = options.group === null ? undefined : stream.groups.get(options.group);
      if (group === undefined) {
        if (top !== undefined && compareIds(top, start) > 0)
          found.push([key, stream.range(nextId(start), ID_MAX, count).map(entryValue)]);
      } else if (compareIds(start, ID_MAX) !== 0) {
        found.push([key, readOwn(stream, group, group.consumer(consumer, nowMs), start, count, nowMs)]);
      } else if (top !== undefined && compareIds(top, group.last) > 0) {
        const values = readNew(stream, group, group.consumer(consumer, nowMs), group.last, count, nowMs);
        found.push([key, values]);
      }
    }
    if (found.length > 0) return found;
    if (blockMs === null || context.wait === null) return NIL_ARRAY;
    // The model waits for one stream, as all of ours do.
    context.wait({
      key: keys[0] as string,
      count: count || 1000,
      timeoutMs: blockMs,
      group: options.group,
      consumer,
      after: starts[0] as Id,
    });
    return WAITS;
  };

function xdel({ store }: Context, args: readonly string[]): Value {
  const stream = store.stream(args[1] as string);
  if (stream === undefined) return 0;
  const ids = args.slice(2).map((id) => strictId(id));
  return ids.filter((id) => stream.delete(id)).length;
}

function xsetid({ store }: Context, args: readonly string[]): Value {
  const id = strictId(args[2] as string);
  let added: number | null = null;
  let maxDeleted: Id | null = null;
  for (let i = 3; i < args.length; i += 2) {
    const option = (args[i] as string).toUpperCase();
    if (i + 1 >= args.length) throw new CommandError(SYNTAX);
    if (option === 'ENTRIESADDED') {
      added = integer(args[i + 1] as string);
      if (added < 0) throw new CommandError('ERR entries_added must be positive');
    } else if (option === 'MAXDELETEDID') {
      maxDeleted = strictId(args[i + 1] as string);
      if (compareIds(id, maxDeleted) < 0)
        throw new CommandError(
          'ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id',
        );
    } else throw new CommandError(SYNTAX);
  }
  const stream = store.stream(args[1] as string);
  if (stream === undefined) throw new CommandError('ERR no such key');
  const top = stream.entries.at(-1)?.id;
  if (top !== undefined) {
    if (compareIds(id, top) < 0)
      throw new CommandError('ERR The ID specified in XSETID is smaller than the target stream top item');
    if (added !== null && stream.entries.length > added)
      throw new CommandError(
        'ERR The entries_added specified in XSETID is smaller than the target stream length',
      );
  }
  stream.last = id;
  if (added !== null) stream.added = added;
  if (maxDeleted !== null && compareIds(maxDeleted, ID_MIN) !== 0) stream.maxDeleted = maxDeleted;
  return OK;
}

export const streamCommands: Commands = {
  XADD: { arity: -5, write: true, denyOom: true, run: xadd },
  XTRIM: {
    arity: -4,
    write: true,
    run: (context, args) => {
      const { trim } = parseAddOrTrim(context, args, false);
      return context.store.stream(args[1] as string)?.trim(trim as Trim) ?? 0;
    },
  },
  XDEL: { arity: -3, write: true, run: xdel },
  XLEN: { arity: 2, run: ({ store }, [, key]) => store.stream(key as string)?.entries.length ?? 0 },
  XRANGE: { arity: -4, run: xrange(false) },
  XREVRANGE: { arity: -4, run: xrange(true) },
  XREAD: { arity: -4, run: read(false) },
  XREADGROUP: { arity: -7, write: true, run: read(true) },
  XSETID: { arity: -3, write: true, denyOom: true, run: xsetid },
};
