// The model of Redis against a real server: random sequences of commands and of the engine's scripts, every
// reply compared, and the corners that the scripts rely on. SUBITO_TEST_SEED repeats one sequence.
import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { loadScript } from '../src/redis/scripts.ts';
import { type Args, HOUR_MS, randomCommand } from './conformance/commands.ts';
import { comparable } from './conformance/compare.ts';
import { scriptCalls } from './conformance/scripts.ts';
import { Model } from './simulation/model.ts';
import type { Value } from './simulation/values.ts';
import { Random, seeds } from './support/random.ts';
import { RealConnection } from './support/real.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const NODE_ENTRIES = 4;
const SEQUENCES = 400;
const COMMANDS = 60;
const LUA = new URL('../src/redis/lua/', import.meta.url);
const scripts = readdirSync(LUA)
  .filter((file) => file.endsWith('.lua'))
  .map((file) => file.replace('.lua', ''));

let server: TestRedis;
let real: RealConnection;
let model: Model;
const shas = new Map<string, string>();

const later = (ms: number, run: () => void) => {
  const timer = setTimeout(run, ms);
  return () => clearTimeout(timer);
};
let runId = '';
let replicationId = '';
const newModel = () =>
  new Model({ nowMs: () => Date.now(), nodeEntries: NODE_ENTRIES, later, runId, replicationId });

beforeAll(async () => {
  const config = {
    'stream-node-max-entries': String(NODE_ENTRIES),
    'stream-node-max-bytes': '0',
    'maxmemory-policy': 'noeviction',
  };
  server = await startRedis({ config });
  real = new RealConnection(server.port);
  runId = /run_id:(\w+)/.exec(String(await real.call('INFO', 'server')))?.[1] as string;
  replicationId = /master_replid:(\w+)/.exec(String(await real.call('INFO', 'replication')))?.[1] as string;
});

afterAll(async () => {
  real?.close();
  await server?.stop();
});

beforeEach(() => reset());

async function reset(): Promise<void> {
  model = newModel();
  await real.call('CONFIG', 'SET', 'maxmemory', '0');
  await real.call('FLUSHALL');
  await real.call('SCRIPT', 'FLUSH');
  for (const name of scripts) {
    const { text } = loadScript(name);
    const sha = (await real.call('SCRIPT', 'LOAD', text)) as string;
    expect(model.call('SCRIPT', 'LOAD', text)).toBe(sha);
    shas.set(name, sha);
  }
}

/** Runs a command on both; they have to say the same. Returns the real reply. */
async function both(...args: Args): Promise<Value> {
  const expected = await real.call(...args);
  const found = model.call(...args);
  const shown = (value: Value) => JSON.stringify(comparable(value, String(args[0])));
  const [one, other] = [shown(expected), shown(found)];
  if (one !== other) throw new Error(`${args.join(' ')}\n  Redis: ${one}\n  model: ${other}`);
  return expected;
}

/** What a script call is as a command. */
function evalsha([name, keys, argv]: ReturnType<(typeof scriptCalls)[string]>): Args {
  return ['EVALSHA', shas.get(name) as string, keys.length, ...keys, ...argv];
}

async function setOom(on: boolean): Promise<void> {
  await real.call('CONFIG', 'SET', 'maxmemory', on ? '1' : '0');
  model.oom = on;
}

/** Differences at the end show what replies did not. */
async function compareAll(): Promise<void> {
  for (const key of ['s', 't', 'out', 'dead', 'receipts']) {
    await both('TYPE', key);
    await both('XINFO', 'STREAM', key);
    await both('XINFO', 'GROUPS', key);
    await both('XRANGE', key, '-', '+');
    for (const group of ['g', 'h']) {
      await both('XINFO', 'CONSUMERS', key, group);
      await both('XPENDING', key, group);
      await both('XPENDING', key, group, '-', '+', 1000);
    }
  }
  for (const key of ['ledger', 'hints', 'parts']) await both('HGETALL', key);
}

test('every script of the engine is among the random ones', () => {
  expect(Object.keys(scriptCalls).sort()).toEqual(scripts.sort());
});

test('random sequences of commands and scripts', { timeout: 120_000 }, async () => {
  const names = Object.keys(scriptCalls);
  for (const seed of seeds(SEQUENCES)) {
    const random = new Random(seed);
    await reset();
    const trace: string[] = [];
    const run = async (args: Args) => {
      trace.push(args.join(' '));
      await both(...args);
    };
    try {
      for (const name of ['s', 't']) await run(['XGROUP', 'CREATE', name, 'g', '0', 'MKSTREAM']);
      for (let i = 0; i < COMMANDS; i += 1) {
        if (random.chance(0.02)) await setOom(random.chance(0.5));
        if (random.chance(0.2))
          await run(evalsha((scriptCalls[random.pick(names)] as (r: Random) => never)(random)));
        else await run(randomCommand(random));
      }
      await setOom(false);
      await compareAll();
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message}\n${trace.join('\n')}`, { cause: error });
    }
  }
});

/** Both say this. */
async function says(expected: unknown, ...args: Args): Promise<void> {
  expect(comparable(await both(...args), String(args[0])), args.join(' ')).toEqual(expected);
}

/** Three entries, all given to consumer `a`. */
async function pendingThree(): Promise<void> {
  await both('XGROUP', 'CREATE', 's', 'g', '0', 'MKSTREAM');
  for (const id of ['1-1', '2-1', '3-1']) await both('XADD', 's', id, 'f', 'v');
  await both('XREADGROUP', 'GROUP', 'g', 'a', 'STREAMS', 's', '>');
}

const OK = { ok: 'OK' };

test('an entry that was deleted stays pending until somebody claims it', async () => {
  await pendingThree();
  await says(1, 'XDEL', 's', '2-1');
  await says([['2-1', 'a', 'soon', 1]], 'XPENDING', 's', 'g', '2-1', '2-1', 1);
  await says(
    [
      [
        's',
        [
          ['2-1', 'nil array'],
          ['3-1', ['f', 'v']],
        ],
      ],
    ],
    'XREADGROUP',
    'GROUP',
    'g',
    'a',
    'STREAMS',
    's',
    '1-1',
  );
  await says(['1-1', '3-1'], 'XCLAIM', 's', 'g', 'b', 0, '1-1', '2-1', '3-1', 'JUSTID');
  await says([], 'XPENDING', 's', 'g', '2-1', '2-1', 1);
  await says([], 'XCLAIM', 's', 'g', 'b', 0, '2-1', 'FORCE', 'JUSTID');
});

test('claims set, raise or keep the count of deliveries', async () => {
  await pendingThree();
  await says(['1-1'], 'XCLAIM', 's', 'g', 'b', 0, '1-1', 'RETRYCOUNT', 0, 'JUSTID');
  await says(['2-1'], 'XCLAIM', 's', 'g', 'b', 0, '2-1', 'JUSTID');
  await says([['3-1', ['f', 'v']]], 'XCLAIM', 's', 'g', 'b', 0, '3-1');
  const rows = [
    ['1-1', 'b', 'soon', 0],
    ['2-1', 'b', 'soon', 1],
    ['3-1', 'b', 'soon', 2],
  ];
  await says(rows, 'XPENDING', 's', 'g', '-', '+', 10);
  // Reading what is pending counts as well.
  await both('XREADGROUP', 'GROUP', 'g', 'b', 'STREAMS', 's', '0');
  await says([['1-1', 'b', 'soon', 1]], 'XPENDING', 's', 'g', '1-1', '1-1', 1);
});

test('a claim by force makes entries pending that were settled, at any count', async () => {
  await pendingThree();
  await says(3, 'XACK', 's', 'g', '1-1', '2-1', '3-1');
  await says([], 'XCLAIM', 's', 'g', 'unsettled', 0, '1-1', 'JUSTID');
  await says(['1-1'], 'XCLAIM', 's', 'g', 'unsettled', 0, '1-1', 'RETRYCOUNT', 0, 'FORCE', 'JUSTID');
  await says(['2-1'], 'XCLAIM', 's', 'g', 'unsettled', 0, '2-1', 'FORCE', 'JUSTID');
  await says([['3-1', ['f', 'v']]], 'XCLAIM', 's', 'g', 'unsettled', 0, '3-1', 'FORCE');
  const rows = [
    ['1-1', 'unsettled', 'soon', 0],
    ['2-1', 'unsettled', 'soon', 1],
    ['3-1', 'unsettled', 'soon', 2],
  ];
  await says(rows, 'XPENDING', 's', 'g', '-', '+', 10);
});

test('idle times can be set, and are asked for', async () => {
  await pendingThree();
  await both('XCLAIM', 's', 'g', 'a', 0, '2-1', 'IDLE', 10 * HOUR_MS, 'JUSTID');
  await says([['2-1', 'a', '10 h', 1]], 'XPENDING', 's', 'g', 'IDLE', HOUR_MS, '-', '+', 10);
  await says(['2-1'], 'XCLAIM', 's', 'g', 'b', HOUR_MS, '1-1', '2-1', '3-1', 'JUSTID');
  await says([], 'XPENDING', 's', 'g', 'IDLE', HOUR_MS, '-', '+', 10);
  await says([['2-1', 'b', 'soon', 1]], 'XPENDING', 's', 'g', '-', '+', 10, 'b');
});

test('the lag is lost and found', async () => {
  await pendingThree();
  const groups = (read: unknown, lag: unknown, last = '3-1', pending = 3) => {
    const head = ['name', 'g', 'consumers', 1, 'pending', pending];
    return [[...head, 'last-delivered-id', last, 'entries-read', read, 'lag', lag]];
  };
  await says(groups(3, 0), 'XINFO', 'GROUPS', 's');
  await says(OK, 'XGROUP', 'SETID', 's', 'g', '2-1');
  await says(groups('nil', 'nil', '2-1'), 'XINFO', 'GROUPS', 's');
  await says(OK, 'XGROUP', 'SETID', 's', 'g', '2-1', 'ENTRIESREAD', 2);
  await says(groups(2, 1, '2-1'), 'XINFO', 'GROUPS', 's');
  await says(1, 'XDEL', 's', '3-1');
  await says(groups(2, 'nil', '2-1'), 'XINFO', 'GROUPS', 's');
  await says(2, 'XTRIM', 's', 'MAXLEN', 0);
  await says(groups(2, 1, '2-1'), 'XINFO', 'GROUPS', 's');
});

test('what a missing group, a wrong type, a used-up memory and a lost script say', async () => {
  await both('SET', 'text', 'x');
  await says(0, 'XACK', 's', 'g', '1-1');
  const missing = "NOGROUP No such key 's' or consumer group 'g'";
  await says({ err: missing }, 'XPENDING', 's', 'g');
  await says({ err: missing }, 'XCLAIM', 's', 'g', 'a', 0, '1-1');
  await both('XREADGROUP', 'GROUP', 'g', 'a', 'STREAMS', 's', '>');
  await both('XADD', 'text', '*', 'f', 'v');
  await both('XGROUP', 'CREATE', 's', 'g', '0', 'MKSTREAM');
  await says({ err: 'BUSYGROUP Consumer Group name already exists' }, 'XGROUP', 'CREATE', 's', 'g', '0');
  await says({ err: 'NOSCRIPT No matching script. Please use EVAL.' }, 'EVALSHA', 'a'.repeat(40), 0);
  await setOom(true);
  await both('XADD', 's', '1-1', 'f', 'v');
  await both('XREADGROUP', 'GROUP', 'g', 'a', 'STREAMS', 's', '>');
  await both('EVAL', "#!lua\nreturn redis.call('PING')", 0);
  await both('EVAL', "#!lua flags=allow-oom\nreturn redis.call('XADD', KEYS[1], '*', 'f', 'v')", 1, 's');
  await both('EVAL', "return redis.call('XADD', KEYS[1], '*', 'f', 'v')", 1, 's');
  await setOom(false);
});

test('what Lua makes of replies, and Redis of what Lua returns', async () => {
  const scripts = [
    "return {1, 2.9, -2.9, 'x', false, true, {ok = 'fine'}, {err = 'BAD thing'}, nil, 3}",
    "return redis.error_reply('BAD thing')",
    "return redis.error_reply('bad')",
    "return redis.pcall('GET')",
    "return redis.call('GET')",
    "\n\nreturn redis.call('HGET', 'text', 'f')",
    'return nonsense',
    'nonsense = 1',
    'return nil + 1',
    "return {string.format('%d %05d %s', 1795457770802.7, -42, 'x'), 10 / 4, tostring(2 ^ 53)}",
    'return {tostring(1e15), tostring(123456789012345678), 1e300 == math.huge}',
    "return {type(redis.call('GET', 'none')), type(redis.call('TYPE', 'none'))}",
    "return #redis.call('XRANGE', 'none', '-', '+')",
    "return redis.call('SET', 'text', 1795457770802) and redis.call('GET', 'text')",
    "return redis.call('SET', 'text', 0.1) and redis.call('GET', 'text')",
    "return redis.call('SET', 'text', 1e20) and redis.call('GET', 'text')",
    "return redis.call('SET', 'text', {})",
    "return redis.call('NONSENSE')",
    "return {pcall(redis.call, 'XADD', 'text', '*', 'f', 'v')}",
    "return redis.sha1hex('subito')",
    "local a, b = ('12-34'):match('(%d+)-(%d+)') return {a, b, select('#', unpack({1, 2, 3}))}",
    'return {#ARGV, ARGV[1], KEYS[1]}',
    'this is not Lua',
  ];
  await both('SET', 'text', 'x');
  for (const script of scripts) await both('EVAL', script, 1, 'key', 'argument');
});

test('waiting for entries ends with an entry, an error, a time-out or CLIENT UNBLOCK', async () => {
  const waiting = new RealConnection(server.port);
  const heard: Value[] = [];
  const client = model.connect((value) => heard.push(value));
  const realId = String(await waiting.call('CLIENT', 'ID'));
  const read = ['XREADGROUP', 'GROUP', 'g', 'a', 'COUNT', 1, 'BLOCK', 0, 'STREAMS', 's', '>'];
  const wait = async (args: Args, end: () => Promise<unknown>) => {
    const expected = waiting.call(...args);
    // Redis has to be waiting before the end comes.
    const isWaiting = async () => /blocked_clients:1/.test(String(await real.call('INFO', 'clients')));
    while (!(await isWaiting())) await new Promise((resolve) => setTimeout(resolve, 1));
    model.execute(client, args.map(String));
    expect(heard).toEqual([]);
    await end();
    const shown = comparable(await expected, 'XREADGROUP');
    await vi.waitFor(() =>
      expect(heard.splice(0).map((value) => comparable(value, 'XREADGROUP'))).toEqual([shown]),
    );
  };
  await both('XGROUP', 'CREATE', 's', 'g', '0', 'MKSTREAM');
  await wait(read, () => both('XADD', 's', '1-1', 'f', 'v'));
  // Deleted before it was seen: an answer without entries.
  await wait(read, () =>
    both('EVAL', "redis.call('XADD', 's', '2-1', 'f', 'v') redis.call('XDEL', 's', '2-1')", 0),
  );
  await wait(read, () => both('XGROUP', 'DESTROY', 's', 'g'));
  await both('XGROUP', 'CREATE', 's', 'g', '$');
  await wait(read, () => both('DEL', 's'));
  await both('XGROUP', 'CREATE', 's', 'g', '0', 'MKSTREAM');
  await wait(read, () => both('FLUSHALL'));
  await both('XGROUP', 'CREATE', 's', 'g', '0', 'MKSTREAM');
  const unblock = async () => {
    expect(model.call('CLIENT', 'UNBLOCK', client.id)).toBe(await real.call('CLIENT', 'UNBLOCK', realId));
  };
  await wait(read, unblock);
  await wait(read.with(7, 20), async () => {});
  await wait(['XREAD', 'BLOCK', 0, 'STREAMS', 's', '$'], () => both('XADD', 's', '3-1', 'f', 'v'));
  waiting.close();
});

test('keys expire', async () => {
  await both('SET', 'text', 'x', 'PX', 1);
  await new Promise((resolve) => setTimeout(resolve, 20));
  await says('nil', 'GET', 'text');
  await says(OK, 'SET', 'text', 'y', 'NX');
  await says(1, 'PEXPIRE', 'text', 1);
  await new Promise((resolve) => setTimeout(resolve, 20));
  await says(0, 'EXISTS', 'text');
});
