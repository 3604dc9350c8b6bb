// Commands on keys, strings and hashes.
import { type Command, CommandError, type Commands, integer, type Store, SYNTAX } from './store.ts';
import { OK, Status, type Value } from './values.ts';

function set({ store }: { store: Store }, args: readonly string[]): Value {
  const [, key, value] = args as readonly [string, string, string];
  let condition = '';
  let expiresMs = Number.POSITIVE_INFINITY;
  let keep = false;
  for (let i = 3; i < args.length; i += 1) {
    const option = (args[i] as string).toUpperCase();
    if ((option === 'NX' || option === 'XX') && condition === '') condition = option;
    else if ((option === 'PX' || option === 'EX') && i + 1 < args.length) {
      i += 1;
      const span = integer(args[i] as string);
      if (span <= 0) throw new CommandError("ERR invalid expire time in 'set' command");
      expiresMs = store.nowMs() + (option === 'PX' ? span : span * 1000);
    } else if (option === 'KEEPTTL') keep = true;
    else throw new CommandError(SYNTAX);
  }
  const present = store.get(key) !== undefined;
  if ((condition === 'NX' && present) || (condition === 'XX' && !present)) return null;
  store.set(key, value, keep ? (store.expiry(key) ?? expiresMs) : expiresMs);
  return OK;
}

/** Seconds or milliseconds until a key goes. */
function remaining(store: Store, key: string, unitMs: number): number {
  const expiresMs = store.expiry(key);
  if (expiresMs === undefined) return -2;
  if (expiresMs === Number.POSITIVE_INFINITY) return -1;
  return Math.floor((expiresMs - store.nowMs() + unitMs / 2) / unitMs);
}

function deleteKeys(store: Store, keys: readonly string[]): number {
  let count = 0;
  for (const key of keys) if (store.get(key) !== undefined && store.delete(key)) count += 1;
  return count;
}

const clear: Command['run'] = ({ store }) => {
  store.clear();
  return OK;
};

const expire =
  (unitMs: number): Command['run'] =>
  ({ store }, [, key, span]) => {
    const ms = integer(span as string) * unitMs;
    return store.expireAt(key as string, store.nowMs() + ms) ? 1 : 0;
  };

export const keyCommands: Commands = {
  PING: { arity: -1, run: (_, args) => args[1] ?? new Status('PONG') },
  ECHO: { arity: 2, run: (_, args) => args[1] as string },
  SELECT: { arity: 2, run: () => OK },
  WAIT: { arity: 3, run: () => 0 },
  TYPE: { arity: 2, run: ({ store }, [, key]) => new Status(store.typeOf(key as string)) },
  EXISTS: {
    arity: -2,
    run: ({ store }, [, ...keys]) => keys.filter((key) => store.get(key) !== undefined).length,
  },
  DEL: { arity: -2, write: true, run: ({ store }, [, ...keys]) => deleteKeys(store, keys) },
  UNLINK: { arity: -2, write: true, run: ({ store }, [, ...keys]) => deleteKeys(store, keys) },
  DBSIZE: { arity: 1, run: ({ store }) => store.size },
  FLUSHALL: { arity: -1, write: true, run: clear },
  FLUSHDB: { arity: -1, write: true, run: clear },
  TIME: {
    arity: 1,
    run: ({ store }) => {
      const now = store.nowMs();
      const seconds = Math.floor(now / 1000);
      return [String(seconds), String(Math.floor((now - seconds * 1000) * 1000))];
    },
  },
  GET: { arity: 2, run: ({ store }, [, key]) => store.text(key as string) ?? null },
  SET: { arity: -3, write: true, denyOom: true, run: set },
  PEXPIRE: { arity: -3, write: true, run: expire(1) },
  EXPIRE: { arity: -3, write: true, run: expire(1000) },
  PTTL: { arity: 2, run: ({ store }, [, key]) => remaining(store, key as string, 1) },
  TTL: { arity: 2, run: ({ store }, [, key]) => remaining(store, key as string, 1000) },
};

function hset(store: Store, key: string, pairs: readonly string[]): number {
  let hash = store.hash(key);
  if (hash === undefined) {
    hash = new Map();
    store.set(key, hash);
  }
  let added = 0;
  for (let i = 0; i < pairs.length; i += 2) {
    if (!hash.has(pairs[i] as string)) added += 1;
    hash.set(pairs[i] as string, pairs[i + 1] as string);
  }
  return added;
}

function hdel(store: Store, key: string, fields: readonly string[]): number {
  const hash = store.hash(key);
  if (hash === undefined) return 0;
  let count = 0;
  for (const field of fields) if (hash.delete(field)) count += 1;
  if (hash.size === 0) store.delete(key);
  return count;
}

export const hashCommands: Commands = {
  HGET: {
    arity: 3,
    run: ({ store }, [, key, field]) => store.hash(key as string)?.get(field as string) ?? null,
  },
  HMGET: {
    arity: -3,
    run: ({ store }, [, key, ...fields]) => {
      const hash = store.hash(key as string);
      return fields.map((field) => hash?.get(field) ?? null);
    },
  },
  HGETALL: { arity: 2, run: ({ store }, [, key]) => [...(store.hash(key as string) ?? [])].flat() },
  HLEN: { arity: 2, run: ({ store }, [, key]) => store.hash(key as string)?.size ?? 0 },
  HEXISTS: {
    arity: 3,
    run: ({ store }, [, key, field]) => (store.hash(key as string)?.has(field as string) ? 1 : 0),
  },
  HSET: {
    arity: -4,
    write: true,
    denyOom: true,
    run: ({ store }, [, key, ...pairs]) => {
      if (pairs.length % 2 === 1) throw new CommandError("ERR wrong number of arguments for 'hset' command");
      return hset(store, key as string, pairs);
    },
  },
  HSETNX: {
    arity: 4,
    write: true,
    denyOom: true,
    run: ({ store }, [, key, field, value]) => {
      if (store.hash(key as string)?.has(field as string)) return 0;
      return hset(store, key as string, [field as string, value as string]);
    },
  },
  HDEL: {
    arity: -3,
    write: true,
    run: ({ store }, [, key, ...fields]) => hdel(store, key as string, fields),
  },
  HINCRBY: {
    arity: 4,
    write: true,
    denyOom: true,
    run: ({ store }, [, key, field, by]) => {
      const step = integer(by as string);
      const old = store.hash(key as string)?.get(field as string) ?? '0';
      const value = integer(old, 'ERR hash value is not an integer') + step;
      hset(store, key as string, [field as string, String(value)]);
      return value;
    },
  },
};
