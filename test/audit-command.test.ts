// `subito audit` as a process: which streams, bad input, waiting, a long stream in little memory; and beside
// an engine under load.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { auditStream } from '../src/ledger/audit.ts';
import { type EntryId, IdTable, idText, parseId } from '../src/ledger/ids.ts';
import { Progress } from '../src/ledger/progress.ts';
import type { AuditReport } from '../src/ledger/report.ts';
import { ageText, grouped } from '../src/ledger/table.ts';
import { connectControl } from '../src/redis/control.ts';
import { startCluster } from './support/cluster.ts';
import { endpointOf, until } from './support/core.ts';
import { MLP, modelsDir, startTestEngine } from './support/engine.ts';
import { AUDITED, counts, LedgerByHand, offences, subito } from './support/ledger.ts';
import { Random } from './support/random.ts';

let ledger: LedgerByHand;
const dir = mkdtempSync(join(tmpdir(), 'subito-audit-'));
beforeAll(async () => {
  ledger = await LedgerByHand.start();
});
beforeEach(() => ledger.clear());
afterAll(async () => {
  rmSync(dir, { recursive: true });
  await ledger.stop();
});

const audit = (...args: string[]) => subito(['audit', '--redis', ledger.server.url, ...args]);

function configFile(text: string): string {
  const file = join(dir, 'subito.yaml');
  writeFileSync(file, text);
  return file;
}

test('a clean ledger: a table, exit code 0, nothing on stderr', async () => {
  const ids = await ledger.deliver(1234);
  for (const id of ids.slice(1)) await ledger.settle(id);
  const { code, out, err } = await audit();
  expect({ code, err }).toEqual({ code: 0, err: '' });
  const lines = out.split('\n').map((line) => line.replace(/ \d+ (ms|s|min)$/, ' AGE'));
  expect(lines[0]).toBe(`events, group subito, up to ${ids.at(-1)}`);
  expect(lines[1]).toMatch(/^ {2}STATE +ENTRIES +OLDEST +AGE$/);
  expect(lines[2]).toMatch(/^ {2}unread +0 +- +-$/);
  expect(lines[3]).toMatch(new RegExp(`^ {2}pending +1 +${ids[0]} +AGE$`));
  expect(lines[4]).toMatch(new RegExp(`^ {2}predicted, ok +1,233 +${ids[1]} +AGE$`));
  expect(lines.slice(5)).toEqual([expect.stringMatching(/^ {2}all +1,234$/), '  clean', '']);
});

test('partitions and several streams: all, one partition, one stream', async () => {
  const file = configFile(`
redis: { url: "${ledger.server.url}" }
streams:
  - { name: plays, partitions: 2, predictions: plays-out, deadletters: plays-dead }
  - { name: skips, predictions: skips-out, deadletters: skips-dead }
`);
  const { redis } = ledger;
  for (const stream of ['plays:{0}', 'plays:{1}', 'skips']) {
    await redis.xgroup('CREATE', stream, 'subito', '0', 'MKSTREAM');
    await redis.xadd(stream, '7-0', 'key', 'k');
  }
  await redis.xreadgroup('GROUP', 'subito', 'c', 'NOACK', 'STREAMS', 'plays:{1}', '>');
  const streams = async (...names: string[]) => {
    const { code, out } = await subito(['audit', '--config', file, '--json', ...names]);
    const found = JSON.parse(out) as { streams: { stream: string; clean: boolean; predictions: string }[] };
    return [code, ...found.streams.map((each) => `${each.stream} ${each.predictions} ${each.clean}`)];
  };
  const [first, second, other] = [
    'plays:{0} plays-out:{0} true',
    'plays:{1} plays-out:{1} false',
    'skips skips-out true',
  ];
  expect(await streams()).toEqual([1, first, second, other]);
  expect(await streams('plays:{0}', 'skips')).toEqual([0, first, other]);
  expect(await streams('plays')).toEqual([1, first, second]);
});

test('a Redis Cluster: each partition is looked at where it is', { timeout: 60_000 }, async () => {
  const cluster = await startCluster();
  try {
    const client = cluster.connect();
    for (let part = 0; part < 4; part += 1) {
      await client.xgroup('CREATE', `events:{${part}}`, 'subito', '0', 'MKSTREAM');
      const id = await client.xadd(`events:{${part}}`, '*', 'key', 'k');
      await client.xadd(`predictions:{${part}}`, '*', 'source', id!, 'status', 'ok');
      await client.xgroup('SETID', `events:{${part}}`, 'subito', id!);
      await client.xadd(`events:{${part}}`, '*', 'key', 'k');
    }
    const file = configFile(`
redis: { cluster: [${cluster.urls.map((url) => JSON.stringify(url)).join(', ')}] }
streams: [{ name: events, partitions: 4 }]
`);
    const { code, out, err } = await subito(['audit', '--config', file, '--json']);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    const { streams } = JSON.parse(out) as { streams: AuditReport[] };
    expect(streams.map(counts)).toEqual(Array.from({ length: 4 }, () => ({ ok: 1, unread: 1 })));
  } finally {
    await cluster.stop();
  }
});

describe('bad input', () => {
  test.each([
    [['evnts'], 2, /USAGE: evnts is no configured input stream; did you mean events\?/],
    [['--wait', '0'], 2, /USAGE: .*--wait.*whole number from 1/],
    [['--wait', 'long'], 2, /USAGE: .*--wait.*whole number from 1/],
    [['--colour'], 2, /USAGE: unknown option '--colour'/],
    [['--config', 'none.yaml'], 2, /CONFIG_NOT_FOUND: .*none\.yaml/],
    [['--redis', 'redis://127.0.0.1:1'], 1, /REDIS_UNREACHABLE: .*127\.0\.0\.1:1/],
    [['--redis', 'here'], 2, /CONFIG_INVALID: redis\.url/],
  ])('%j', async (args, code, text) => {
    const ran = await audit(...args);
    expect(ran).toMatchObject({ code, out: '' });
    expect(ran.err).toMatch(text);
    expect(ran.err.trim().split('\n')).toHaveLength(1);
  });

  test('an embedded Redis that does not run', async () => {
    const ran = await subito([
      'audit',
      '--config',
      configFile(`redis: { embedded: { dir: "${dir}/none" } }`),
    ]);
    expect(ran.code).toBe(1);
    expect(ran.err).toContain('REDIS_UNREACHABLE');
  });

  test.each(['events', 'predictions', 'deadletters'])('%s is no stream', async (key) => {
    await ledger.redis.del(key);
    await ledger.redis.set(key, 'x');
    if (key !== 'events') await ledger.append();
    const { code, err } = await audit();
    expect(code).toBe(1);
    expect(err).toContain(`STREAM_UNUSABLE: ${key}: WRONGTYPE`);
  });

  test('ids that no clock gives', async () => {
    await ledger.redis.xadd('events', `${2n ** 53n}-0`, 'key', 'k');
    const { code, err } = await audit();
    expect(code).toBe(1);
    expect(err).toMatch(/STREAM_UNUSABLE: events: the entry id 9007199254740992-0 is beyond/);
  });
});

describe('--wait', () => {
  test('ends when all that was there has been settled, whatever comes after', async () => {
    const ids = [...(await ledger.deliver(2)), await ledger.append()];
    let done = false;
    const waiting = audit('--wait', '60', '--json').finally(() => {
      done = true;
    });
    // This process has one, too.
    const controls = async () =>
      String(await ledger.redis.client('LIST')).split('name=subito:control').length;
    await until('it asks Redis', async () => (await controls()) === 3, 20_000);
    await sleep(1500);
    expect(done).toBe(false);
    await ledger.redis.xreadgroup('GROUP', 'subito', 'c', 'STREAMS', 'events', '>');
    await ledger.append();
    for (const id of ids) await ledger.settle(id);
    const { code, out } = await waiting;
    expect(code).toBe(0);
    const { streams } = JSON.parse(out) as { streams: { entries: number; horizon: string }[] };
    expect(streams).toMatchObject([{ entries: 3, horizon: ids[2] }]);
  });

  test('time is up: exit code 1, and what is left', async () => {
    await ledger.deliver(2);
    await ledger.append();
    const { code, out, err } = await audit('--wait', '1');
    expect(code).toBe(1);
    expect(out).toContain('clean');
    expect(err).toContain('LEDGER_UNFINISHED: after 1 s events has 1 unread and 2 pending');
  });
});

describe('a long stream', () => {
  const EVENTS = 200_000;

  /** Made by Redis itself; the outcomes are not in the order of their events. */
  async function fill(): Promise<void> {
    const make = `for i = tonumber(ARGV[1]), tonumber(ARGV[1]) + 9999 do
      local s = 1000 + (i % 16 < 8 and i + 8 or i - 8)
      redis.call('XADD', KEYS[1], (1000 + i) .. '-0', 'key', 'k', 'data', ARGV[2])
      redis.call('XADD', KEYS[2], '*', 'source', s .. '-0', 'key', 'k', 'status', 'ok', 'outputs', ARGV[2])
    end`;
    for (let from = 0; from < EVENTS; from += 10_000) {
      await ledger.redis.eval(make, 2, 'events', 'predictions', from, 'x'.repeat(200));
    }
    await ledger.redis.xgroup('SETID', 'events', 'subito', `${1000 + EVENTS}-0`);
  }

  test('is audited in little memory, and tells how far it is', { timeout: 120_000 }, async () => {
    await fill();
    // A heap that holds the program and a few pages, not a few hundred bytes for each of 200,000 entries.
    const running = subito(['audit', '--redis', ledger.server.url], ['--max-old-space-size=40']);
    const paused = pauseInMidst(async () => {
      return /name=subito:control .*cmd=xrange /.test((await ledger.redis.client('LIST')) as string);
    });
    const { code, out, err } = await running;
    await paused;
    expect({ code, out }).toMatchObject({ code: 0, out: expect.stringMatching(/predicted, ok +200,000/) });
    const line = /^events: reading (outcomes|events), [\d,]+ of 400,000 entries \(\d+%\)$/;
    const lines = err.trim().split('\n');
    expect(lines.length).toBeGreaterThan(0);
    for (const each of lines) expect(each).toMatch(line);

    const quiet = await subito(['audit', '--redis', ledger.server.url, '--quiet']);
    expect(quiet).toMatchObject({ code: 0, err: '' });

    let arraysBytes = 0;
    const before = process.memoryUsage().arrayBuffers;
    const report = await auditStream(ledger.control, {
      ...AUDITED,
      onProgress: () => {
        arraysBytes = Math.max(arraysBytes, process.memoryUsage().arrayBuffers - before);
      },
    });
    expect(report.clean).toBe(true);
    // 43 bytes each at the most, and what the connection has in hand or has not been collected yet.
    expect(arraysBytes).toBeLessThan(EVENTS * 43 + (48 << 20));
  });

  /** So that it lasts for longer than it takes to say something. */
  async function pauseInMidst(inMidst: () => Promise<boolean>): Promise<void> {
    await until('the audit reads', inMidst, 30_000);
    await ledger.redis.client('PAUSE', 2500, 'ALL');
  }
});

test('beside an engine under load, with short predictions and a trimmed input', {
  timeout: 120_000,
}, async () => {
  const running = await startTestEngine(modelsDir({ mlp: { from: MLP } }), {
    streams: [{ name: 'events', model: 'mlp', predictions_max: 3000 }],
  });
  const { client, redis } = running;
  const control = await connectControl({ endpoint: endpointOf(redis), commandMsMax: 10_000 });
  try {
    let producing = true;
    const features = Buffer.alloc(256);
    const produced = (async () => {
      for (let round = 0; producing; round += 1) {
        const pipeline = client.pipeline();
        for (let n = 0; n < 100; n += 1) {
          pipeline.xadd('events', '*', 'key', `k${n}`, n % 10 === 9 ? 'colour' : 'features', features);
        }
        await pipeline.exec();
        const [pending] = (await client.xpending('events', 'subito')) as [number, string | null];
        if (round % 20 === 19 && pending === 0) await client.xtrim('events', 'MAXLEN', '~', 8000);
        await sleep(20);
      }
    })();
    for (let round = 0; round < 25; round += 1) {
      const report = await auditStream(control, AUDITED);
      expect(offences(report), `round ${round}`).toEqual({});
      await sleep(60);
    }
    producing = false;
    await produced;
    const ran = await subito(['audit', '--redis', redis.url, '--wait', '60', '--json']);
    expect(ran.err).toBe('');
    const { clean, streams } = JSON.parse(ran.out) as { clean: boolean; streams: never[] };
    expect([ran.code, clean]).toEqual([0, true]);
    expect(counts(streams[0]!)).toMatchObject({ ok: expect.any(Number), invalid: expect.any(Number) });
  } finally {
    control.close();
    await running.stop();
  }
});

test('ids in a table are sorted with their tags, and found', () => {
  const seed = Date.now() % 1_000_000;
  const random = new Random(seed);
  const ids: (EntryId & { tag: number })[] = [];
  const table = new IdTable();
  for (let n = 0; n < 5000; n += 1) {
    const id = { ms: random.int(0, 900), seq: random.int(0, 3), tag: random.int(0, 8) };
    ids.push(id);
    table.push(id, id.tag);
  }
  table.sort();
  ids.sort((a, b) => a.ms - b.ms || a.seq - b.seq || a.tag - b.tag);
  expect(table.texts(), `seed ${seed}`).toEqual(ids.map(idText));
  expect(ids.map((_, place) => table.tag(place))).toEqual(ids.map(({ tag }) => tag));
  for (const id of ids) {
    expect(table.indexOf(id)).toBe(ids.findIndex(({ ms, seq }) => ms === id.ms && seq === id.seq));
  }
  expect(table.indexOf({ ms: 901, seq: 0 })).toBe(-1);
  expect(new IdTable().indexOf({ ms: 1, seq: 0 })).toBe(-1);
});

test.each([
  ['0-0', { ms: 0, seq: 0 }],
  ['1795343094820-12', { ms: 1_795_343_094_820, seq: 12 }],
  ['9007199254740991-9007199254740991', { ms: 2 ** 53 - 1, seq: 2 ** 53 - 1 }],
  ['9007199254740992-0', null],
  ['0-9007199254740993', null],
  ['', null],
  ['5', null],
  ['5-', null],
  ['-5', null],
  ['5-5-5', null],
  ['5.5-1', null],
  [' 5-5', null],
])('%j as an entry id', (text, id) => {
  expect(parseId(text)).toEqual(id);
  expect(parseId(Buffer.from(text))).toEqual(id);
});

test.each([
  [true, ['\r\x1b[K100', '\r\x1b[K200', '\r\x1b[K']],
  [false, ['2000\n', '4000\n']],
])('progress, on a terminal: %s', (live, expected) => {
  const written: string[] = [];
  let nowMs = 0;
  const progress = new Progress({ write: (text) => written.push(text), live, now: () => nowMs });
  const untilMs = live ? 250 : 5000;
  for (; nowMs < untilMs; nowMs += 10) progress.say(() => String(nowMs));
  progress.clear();
  progress.clear();
  expect(written).toEqual(expected);
});

test('numbers and ages for people', () => {
  expect([0, 999, 1000, 1_234_567].map(grouped)).toEqual(['0', '999', '1,000', '1,234,567']);
  const ages = [0, 1999, 2000, 119_999, 120_000, 7_200_000, 172_799_999, 172_800_000].map(ageText);
  expect(ages).toEqual(['0 ms', '1999 ms', '2 s', '119 s', '2 min', '2 h', '47 h', '2 d']);
});
