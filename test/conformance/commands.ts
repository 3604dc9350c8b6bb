// Random commands for the comparison of the model with a real server: a small world of keys, ids and
// consumers, so that commands meet what earlier ones left.
import type { Random } from '../support/random.ts';

export type Args = readonly (string | number)[];

const STREAMS = ['s', 't'] as const;
const GROUPS = ['g', 'h'] as const;
const CONSUMERS = ['a', 'b', 'c'] as const;
/** Any key for any type now and then: WRONGTYPE is an answer, too. */
const ANY = ['s', 't', 'hash', 'text', 'none'] as const;
/** Idle times are far apart, so that the milliseconds between two runs do not matter. */
export const HOUR_MS = 3_600_000;

export const stream = (random: Random): string =>
  random.chance(0.03) ? random.pick(ANY) : random.pick(STREAMS);
export const group = (random: Random): string => (random.chance(0.03) ? 'nobody' : random.pick(GROUPS));
export const consumer = (random: Random): string => random.pick(CONSUMERS);
export const id = (random: Random): string =>
  random.chance(0.02) ? random.pick(['x', '1-', '5', '-', '']) : `${random.int(1, 12)}-${random.int(0, 2)}`;
const start = (random: Random) =>
  random.chance(0.4) ? '-' : random.chance(0.3) ? `(${random.int(0, 12)}-${random.int(0, 2)}` : id(random);
const end = (random: Random) =>
  random.chance(0.5) ? '+' : random.chance(0.3) ? `(${random.int(0, 12)}-${random.int(0, 2)}` : id(random);
export const some = <T>(random: Random, most: number, make: (random: Random) => T): T[] =>
  Array.from({ length: random.int(1, most) }, () => make(random));
const often = <T extends string | number>(random: Random, p: number, ...args: readonly T[]): readonly T[] =>
  random.chance(p) ? args : [];

function trimming(random: Random): Args {
  const sign = random.pick([[], ['~'], ['=']] as const);
  const limit = sign[0] === '~' ? often<string | number>(random, 0.2, 'LIMIT', random.int(0, 8)) : [];
  if (random.chance(0.5)) return ['MAXLEN', ...sign, random.int(0, 10), ...limit];
  return ['MINID', ...sign, id(random), ...limit];
}

function xclaim(random: Random): Args {
  const options: (string | number)[] = [
    ...often<string | number>(random, 0.3, 'IDLE', random.int(0, 3) * HOUR_MS),
    ...often<string | number>(random, 0.3, 'RETRYCOUNT', random.int(0, 6)),
    ...often<string | number>(random, 0.3, 'FORCE'),
    ...often<string | number>(random, 0.4, 'JUSTID'),
    ...often<string | number>(random, 0.05, 'LASTID', `${random.int(1, 12)}-0`),
    ...often<string | number>(random, 0.01, 'NONSENSE'),
  ];
  const minIdleMs = random.chance(0.7) ? 0 : random.int(1, 2) * HOUR_MS - HOUR_MS / 2;
  return [
    'XCLAIM',
    stream(random),
    group(random),
    consumer(random),
    minIdleMs,
    ...some(random, 4, id),
    ...options,
  ];
}

function xpending(random: Random): Args {
  const head = ['XPENDING', stream(random), group(random)];
  if (random.chance(0.3)) return head;
  const idle = often<string | number>(random, 0.3, 'IDLE', random.int(1, 3) * HOUR_MS - HOUR_MS / 2);
  const range = [start(random), end(random), random.int(0, 8)];
  return [...head, ...idle, ...range, ...often(random, 0.3, consumer(random))];
}

function xreadgroup(random: Random): Args {
  const count = often<string | number>(random, 0.7, 'COUNT', random.int(1, 4));
  const where = random.chance(0.7) ? '>' : random.chance(0.5) ? '0' : id(random);
  return ['XREADGROUP', 'GROUP', group(random), consumer(random), ...count, 'STREAMS', stream(random), where];
}

function xgroup(random: Random): Args {
  const head = [stream(random), group(random)];
  const at = random.chance(0.4) ? '0' : random.chance(0.3) ? '$' : id(random);
  const read = often<string | number>(random, 0.3, 'ENTRIESREAD', random.int(-1, 10));
  switch (random.int(0, 9)) {
    case 0:
      return ['XGROUP', 'DESTROY', ...head];
    case 1:
      return ['XGROUP', 'DELCONSUMER', ...head, consumer(random)];
    case 2:
      return ['XGROUP', 'CREATECONSUMER', ...head, consumer(random)];
    case 3:
    case 4:
      return ['XGROUP', 'SETID', ...head, at, ...read];
    default:
      return ['XGROUP', 'CREATE', ...head, at, ...often<string | number>(random, 0.7, 'MKSTREAM'), ...read];
  }
}

function xautoclaim(random: Random): Args {
  const minIdleMs = random.chance(0.7) ? 0 : HOUR_MS / 2;
  const head = ['XAUTOCLAIM', stream(random), group(random), consumer(random), minIdleMs, start(random)];
  return [
    ...head,
    ...often<string | number>(random, 0.5, 'COUNT', random.int(1, 4)),
    ...often(random, 0.5, 'JUSTID'),
  ];
}

function xinfo(random: Random): Args {
  const kind = random.pick(['STREAM', 'GROUPS', 'CONSUMERS'] as const);
  return ['XINFO', kind, stream(random), ...(kind === 'CONSUMERS' ? [group(random)] : [])];
}

function onKey(random: Random): Args {
  const key = random.chance(0.7) ? 'text' : random.pick(ANY);
  const value = String(random.int(0, 3));
  switch (random.int(0, 7)) {
    case 0:
      return ['GET', key];
    case 1:
      return ['SET', 'text', value, ...often(random, 0.3, random.pick(['NX', 'XX']))];
    case 2:
      return ['SET', 'text', value, 'PX', 50 * HOUR_MS];
    case 3:
      return ['PEXPIRE', key, 50 * HOUR_MS];
    case 4:
      return ['TTL', key];
    case 5:
      return [random.pick(['DEL', 'UNLINK', 'EXISTS']), ...some(random, 2, (r) => r.pick(ANY))];
    case 6:
      return ['TYPE', random.pick(ANY)];
    default:
      return random.pick([['DBSIZE'], ['PING'], ['ECHO', 'x'], ['NONSENSE', 'y'], ['XLEN'], ['GET']]);
  }
}

function onHash(random: Random): Args {
  const key = random.chance(0.95) ? 'hash' : random.pick(ANY);
  const field = random.pick(['one', 'two', 'three']);
  switch (random.int(0, 6)) {
    case 0:
      return ['HSET', key, field, random.int(0, 9), ...often<string | number>(random, 0.4, 'two', 'word')];
    case 1:
      return ['HGET', key, field];
    case 2:
      return ['HMGET', key, field, 'two', 'none'];
    case 3:
      return ['HINCRBY', key, field, random.int(-2, 5)];
    case 4:
      return ['HDEL', key, field, ...often(random, 0.3, 'one')];
    case 5:
      return ['HSETNX', key, field, 7];
    default:
      return [random.pick(['HLEN', 'HGETALL']), key];
  }
}

const KINDS: readonly (readonly [number, (random: Random) => Args])[] = [
  [
    16,
    (r) => [
      'XADD',
      stream(r),
      ...(r.chance(0.1) ? trimming(r) : []),
      id(r),
      ...some(r, 2, () => ['f', r.int(0, 9)]).flat(),
    ],
  ],
  [4, (r) => ['XADD', stream(r), ...often(r, 0.2, 'NOMKSTREAM'), `${r.int(1, 12)}-*`, 'f', 'v']],
  [14, xreadgroup],
  [8, (r) => ['XACK', stream(r), group(r), ...some(r, 4, id)]],
  [10, xclaim],
  [10, xpending],
  [8, xgroup],
  [6, xinfo],
  [4, (r) => ['XDEL', stream(r), ...some(r, 3, id)]],
  [3, (r) => ['XTRIM', stream(r), ...trimming(r)]],
  [
    3,
    (r) => [
      'XREVRANGE',
      stream(r),
      end(r),
      start(r),
      ...often<string | number>(r, 0.4, 'COUNT', r.int(0, 3)),
    ],
  ],
  [
    3,
    (r) => ['XRANGE', stream(r), start(r), end(r), ...often<string | number>(r, 0.4, 'COUNT', r.int(0, 3))],
  ],
  [
    3,
    (r) => [
      'XREAD',
      ...often<string | number>(r, 0.5, 'COUNT', 2),
      'STREAMS',
      stream(r),
      r.chance(0.2) ? '$' : id(r),
    ],
  ],
  [2, (r) => ['XLEN', stream(r)]],
  [2, xautoclaim],
  [
    1,
    (r) => [
      'XSETID',
      stream(r),
      `${r.int(8, 12)}-2`,
      ...often<string | number>(r, 0.5, 'ENTRIESADDED', r.int(0, 30)),
    ],
  ],
  [6, onKey],
  [6, onHash],
  [0.5, () => ['FLUSHALL']],
];
const TOTAL = KINDS.reduce((sum, [weight]) => sum + weight, 0);

export function randomCommand(random: Random): Args {
  let at = random.next() * TOTAL;
  for (const [weight, make] of KINDS) {
    at -= weight;
    if (at < 0) return make(random);
  }
  return ['PING'];
}
