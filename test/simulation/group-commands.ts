// XGROUP, XACK, XPENDING, XCLAIM, XAUTOCLAIM, XINFO: what is known and changed of consumer groups.
import { CommandError, type Commands, type Context, integer, SYNTAX } from './store.ts';
import { type Consumer, Group, ID_MAX, ID_MIN, type Id, idText, parseId, Stream } from './stream.ts';
import { entryValue, intervalId, strictId } from './stream-commands.ts';
import { NIL_ARRAY, OK, type Value } from './values.ts';

/** Redis keeps groups and consumers in the order of their names' bytes. */
const byName = <T extends { readonly name: string }>(items: Iterable<T>): T[] =>
  [...items].sort((a, b) => (a.name < b.name ? -1 : 1));

const subcommandError = (command: string, subcommand: string) =>
  new CommandError(
    `ERR unknown subcommand or wrong number of arguments for '${subcommand}'. Try ${command} HELP.`,
  );

function parseGroupOptions(args: readonly string[]): { make: boolean; read: number | null } {
  const subcommand = (args[1] as string).toUpperCase();
  const options = { make: false, read: null as number | null };
  for (let i = 5; i < args.length; i += 1) {
    const option = (args[i] as string).toUpperCase();
    if (subcommand === 'CREATE' && option === 'MKSTREAM') options.make = true;
    else if (
      (subcommand === 'CREATE' || subcommand === 'SETID') &&
      option === 'ENTRIESREAD' &&
      i + 1 < args.length
    ) {
      i += 1;
      const read = integer(args[i] as string);
      if (read < -1) throw new CommandError('ERR value for ENTRIESREAD must be positive or -1');
      options.read = read === -1 ? null : read;
    } else throw subcommandError('XGROUP', args[1] as string);
  }
  return options;
}

/** XGROUP's subcommands have arities of their own. */
const GROUP_ARITIES: Readonly<Record<string, number>> = {
  CREATE: -5,
  SETID: -5,
  DESTROY: 4,
  CREATECONSUMER: 5,
  DELCONSUMER: 5,
};

function xgroup(context: Context, args: readonly string[]): Value {
  const subcommand = (args[1] as string).toUpperCase();
  const arity = GROUP_ARITIES[subcommand];
  if (arity === undefined) throw new CommandError(`ERR unknown subcommand '${args[1]}'. Try XGROUP HELP.`);
  if (arity > 0 ? args.length !== arity : args.length < -arity)
    throw new CommandError(`ERR wrong number of arguments for 'xgroup|${subcommand.toLowerCase()}' command`);
  const { store } = context;
  const [, , key, name] = args as readonly [string, string, string, string];
  const options = parseGroupOptions(args);
  const stream = store.stream(key);
  if (stream === undefined && !options.make)
    throw new CommandError(
      'ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the ' +
        'MKSTREAM option to create an empty stream automatically.',
    );
  if (subcommand === 'CREATE') return createGroup(context, args, stream, options.read);
  const group = stream?.groups.get(name);
  if (subcommand === 'DESTROY') {
    if (stream?.groups.delete(name) !== true) return 0;
    store.changed.add(key);
    return 1;
  }
  if (group === undefined || stream === undefined)
    throw new CommandError(`NOGROUP No such consumer group '${name}' for key name '${key}'`);
  const last = args[4] as string;
  if (subcommand === 'SETID') {
    group.last =
      last === '$' ? stream.last : last === '-' || last === '+' ? intervalId(last, true) : strictId(last);
    group.read = options.read;
    return OK;
  }
  if (subcommand === 'DELCONSUMER') return group.deleteConsumer(last);
  if (group.consumers.has(last)) return 0;
  group.consumer(last, store.nowMs());
  return 1;
}

function createGroup(
  { store }: Context,
  [, , key, name, last]: readonly string[],
  found: Stream | undefined,
  read: number | null,
): Value {
  const id = last === '$' ? (found?.last ?? ID_MIN) : strictId(last as string);
  let stream = found;
  if (stream === undefined) {
    stream = new Stream(store.nodeEntries);
    store.set(key as string, stream);
  }
  if (stream.groups.has(name as string))
    throw new CommandError('BUSYGROUP Consumer Group name already exists');
  stream.groups.set(name as string, new Group(name as string, id, read));
  return OK;
}

function xack({ store }: Context, args: readonly string[]): Value {
  const group = store.stream(args[1] as string)?.groups.get(args[2] as string);
  if (group === undefined) return 0;
  const ids = args.slice(3).map((id) => idText(strictId(id)));
  return ids.filter((id) => group.remove(id)).length;
}

function pendingSummary(group: Group): Value {
  const first = group.pel[0];
  if (first === undefined) return [0, null, null, NIL_ARRAY];
  const consumers = byName(group.consumers.values()).filter(({ pending }) => pending > 0);
  return [
    group.pel.length,
    first.text,
    group.pel.at(-1)?.text ?? null,
    consumers.map(({ name, pending }): Value => [name, String(pending)]),
  ];
}

function xpending({ store }: Context, args: readonly string[]): Value {
  if (args.length !== 3 && (args.length < 6 || args.length > 9)) throw new CommandError(SYNTAX);
  let at = 3;
  let idleMs = 0;
  let count = 0;
  let start = ID_MIN;
  let end = ID_MAX;
  if (args.length >= 6) {
    if ((args[3] as string).toUpperCase() === 'IDLE') {
      idleMs = integer(args[4] as string);
      if (args.length < 8) throw new CommandError(SYNTAX);
      at += 2;
    }
    count = Math.max(0, integer(args[at + 2] as string));
    start = intervalId(args[at] as string, true);
    end = intervalId(args[at + 1] as string, false);
  }
  const [, key, name] = args as readonly [string, string, string];
  const group = store.stream(key)?.groups.get(name);
  if (group === undefined) throw new CommandError(`NOGROUP No such key '${key}' or consumer group '${name}'`);
  if (args.length === 3) return pendingSummary(group);
  let consumer: Consumer | undefined;
  if (at + 3 < args.length) {
    consumer = group.consumers.get(args[at + 3] as string);
    if (consumer === undefined) return [];
  }
  const nowMs = store.nowMs();
  const found: Value[] = [];
  for (const pending of group.from(start, end, consumer)) {
    if (found.length === count) break;
    const idle = nowMs - pending.deliveredMs;
    if (idleMs !== 0 && idle < idleMs) continue;
    found.push([pending.text, pending.consumer.name, Math.max(0, Math.floor(idle)), pending.count]);
  }
  return found;
}

interface ClaimOptions {
  readonly ids: readonly Id[];
  deliveredMs: number;
  count: number | null;
  force: boolean;
  justId: boolean;
  last: Id;
}

function parseClaim(args: readonly string[], nowMs: number): ClaimOptions {
  let i = 5;
  const ids: Id[] = [];
  for (; i < args.length; i += 1) {
    const id = parseId(args[i] as string);
    if (id === null) break;
    ids.push(id);
  }
  const options: ClaimOptions = {
    ids,
    deliveredMs: nowMs,
    count: null,
    force: false,
    justId: false,
    last: ID_MIN,
  };
  for (; i < args.length; i += 1) {
    const option = (args[i] as string).toUpperCase();
    const more = i + 1 < args.length;
    const value = args[i + 1] as string;
    if (option === 'FORCE') options.force = true;
    else if (option === 'JUSTID') options.justId = true;
    else if ((option === 'IDLE' || option === 'TIME') && more) {
      const ms = integer(value, `ERR Invalid ${option} option argument for XCLAIM`);
      options.deliveredMs = option === 'IDLE' ? nowMs - ms : ms;
      i += 1;
    } else if (option === 'RETRYCOUNT' && more) {
      const count = integer(value, 'ERR Invalid RETRYCOUNT option argument for XCLAIM');
      options.count = count < 0 ? null : count;
      i += 1;
    } else if (option === 'LASTID' && more) {
      options.last = strictId(value);
      i += 1;
    } else throw new CommandError(`ERR Unrecognized XCLAIM option '${args[i]}'`);
  }
  if (options.deliveredMs < 0 || options.deliveredMs > nowMs) options.deliveredMs = nowMs;
  return options;
}

function xclaim({ store }: Context, args: readonly string[]): Value {
  const [, key, groupName, name] = args as readonly [string, string, string, string];
  const stream = store.stream(key);
  const group = stream?.groups.get(groupName);
  if (stream === undefined || group === undefined)
    throw new CommandError(`NOGROUP No such key '${key}' or consumer group '${groupName}'`);
  const idleMs = integer(args[4] as string, 'ERR Invalid min-idle-time argument for XCLAIM');
  const nowMs = store.nowMs();
  const { ids, deliveredMs, count, force, justId, last } = parseClaim(args, nowMs);
  if (last.ms > group.last.ms || (last.ms === group.last.ms && last.seq > group.last.seq)) group.last = last;
  const claimed: Value[] = [];
  let consumer: Consumer | undefined;
  for (const id of ids) {
    const text = idText(id);
    const entry = stream.entry(id);
    const pending = group.pending(text);
    if (entry === undefined) {
      group.remove(text);
      continue;
    }
    if (pending === undefined && !force) continue;
    if (pending !== undefined && idleMs > 0 && nowMs - pending.deliveredMs < idleMs) continue;
    consumer ??= group.consumer(name, nowMs);
    // Made by FORCE: streamCreateNACK begins with one delivery.
    const before = pending?.count ?? 1;
    group.give(id, text, consumer, deliveredMs, count ?? (justId ? before : before + 1));
    claimed.push(justId ? text : entryValue(entry));
  }
  return claimed;
}

const AUTOCLAIM_ATTEMPTS = 10;

function xautoclaim({ store }: Context, args: readonly string[]): Value {
  const [, key, groupName, name] = args as readonly [string, string, string, string];
  const idleMs = integer(args[4] as string, 'ERR Invalid min-idle-time argument for XAUTOCLAIM');
  const start = intervalId(args[5] as string, true);
  let count = 100;
  let justId = false;
  for (let i = 6; i < args.length; i += 1) {
    const option = (args[i] as string).toUpperCase();
    if (option === 'COUNT' && i + 1 < args.length) {
      i += 1;
      count = integer(args[i] as string);
      if (count < 1) throw new CommandError('ERR COUNT must be > 0');
    } else if (option === 'JUSTID') justId = true;
    else throw new CommandError(SYNTAX);
  }
  const stream = store.stream(key);
  const group = stream?.groups.get(groupName);
  if (stream === undefined || group === undefined)
    throw new CommandError(`NOGROUP No such key '${key}' or consumer group '${groupName}'`);
  const nowMs = store.nowMs();
  const claimed: Value[] = [];
  const deleted: Value[] = [];
  let next = '0-0';
  let attempts = count * AUTOCLAIM_ATTEMPTS;
  for (const pending of group.from(start, ID_MAX)) {
    if (attempts === 0 || claimed.length + deleted.length === count) {
      next = pending.text;
      break;
    }
    attempts -= 1;
    const entry = stream.entry(pending.id);
    if (entry === undefined) {
      group.remove(pending.text);
      deleted.push(pending.text);
    } else if (idleMs <= 0 || nowMs - pending.deliveredMs >= idleMs) {
      const consumer = group.consumer(name, nowMs);
      group.give(pending.id, pending.text, consumer, nowMs, justId ? pending.count : pending.count + 1);
      claimed.push(justId ? pending.text : entryValue(entry));
    }
  }
  return [next, claimed, deleted];
}

function xinfo({ store }: Context, args: readonly string[]): Value {
  const subcommand = (args[1] as string).toUpperCase();
  const stream = store.stream(args[2] as string);
  if (stream === undefined) throw new CommandError('ERR no such key');
  const nowMs = store.nowMs();
  if (subcommand === 'GROUPS' && args.length === 3) {
    return byName(stream.groups.values()).map((group): Value => {
      const head = ['name', group.name, 'consumers', group.consumers.size, 'pending', group.pel.length];
      return [
        ...head,
        'last-delivered-id',
        idText(group.last),
        'entries-read',
        group.read,
        'lag',
        stream.lag(group),
      ];
    });
  }
  if (subcommand === 'CONSUMERS' && args.length === 4) {
    const group = stream.groups.get(args[3] as string);
    if (group === undefined)
      throw new CommandError(`NOGROUP No such consumer group '${args[3]}' for key name '${args[2]}'`);
    return byName(group.consumers.values()).map(({ name, pending, seenMs }): Value => {
      return ['name', name, 'pending', pending, 'idle', Math.max(0, Math.floor(nowMs - seenMs))];
    });
  }
  if (subcommand !== 'STREAM' || args.length !== 3) throw subcommandError('XINFO', args[1] as string);
  const first = stream.entries[0];
  const last = stream.entries.at(-1);
  const nodes = new Set(stream.entries.map(({ node }) => node)).size;
  const values: Value[] = ['length', stream.entries.length];
  values.push('radix-tree-keys', nodes, 'radix-tree-nodes', nodes + 1);
  values.push('last-generated-id', idText(stream.last), 'max-deleted-entry-id', idText(stream.maxDeleted));
  values.push('entries-added', stream.added, 'recorded-first-entry-id', idText(stream.firstId));
  values.push('groups', stream.groups.size, 'first-entry', first === undefined ? null : entryValue(first));
  values.push('last-entry', last === undefined ? null : entryValue(last));
  return values;
}

export const groupCommands: Commands = {
  XGROUP: { arity: -2, write: true, run: xgroup },
  XACK: { arity: -4, write: true, run: xack },
  XPENDING: { arity: -3, run: xpending },
  XCLAIM: { arity: -6, write: true, run: xclaim },
  XAUTOCLAIM: { arity: -6, write: true, run: xautoclaim },
  XINFO: { arity: -3, run: xinfo },
};
