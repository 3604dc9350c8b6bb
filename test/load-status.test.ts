// What `subito load` says of events in one word, by class of priority, and how it sends what it is told to.
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Packr } from 'msgpackr';
import { afterAll, describe, expect, test } from 'vitest';
import { WebSocketServer } from 'ws';
import { loadOptions } from '../src/commands/load.ts';
import { limitsDefault } from '../src/limits.ts';
import { Account } from '../src/load/account.ts';
import { type LoadOptions, loadDefaults } from '../src/load/options.ts';
import { priorityPattern } from '../src/load/priorities.ts';
import { formatReport } from '../src/load/report.ts';
import { type MakeWay, runLoad } from '../src/load/run.ts';
import { statusOf } from '../src/load/status.ts';
import { RedisWire } from '../src/redis/wire.ts';
import { startRedis } from './support/redis.ts';

const packr = new Packr({ useRecords: false });
const redis = await startRedis();
afterAll(() => redis.stop());

const base: LoadOptions = {
  ...loadDefaults,
  ...{ redisUrl: redis.url, ratePerS: 300, durationS: 0.5, warmupS: 0, timeoutS: 0.5, arrivals: 'uniform' },
  ...{ data: '{"level":1}', deadlineMs: 250, priority: '0:1,2:2', keyPrefix: 'big:', model: 'm' },
};

test.each([
  ['', 'ok'],
  ['degraded', 'degraded'],
  ['expired', 'expired'],
  ['superseded', 'superseded'],
  ['dead letter invalid', 'invalid'],
  ['dead letter failed', 'failed'],
  ['dead letter', 'refused'],
  ['HTTP 429 overloaded: more events are waiting', 'overloaded'],
  ['HTTP 504 deadline_exceeded', 'expired'],
  ['HTTP 503 model_unavailable', 'unavailable'],
  ['HTTP 500 internal: the model failed', 'failed'],
  ['HTTP 400 invalid_event: x', 'invalid'],
  ['HTTP 503', 'refused'],
  ['113 overloaded', 'overloaded'],
  ['114 deadline_exceeded', 'expired'],
  ['111 rate_limited', 'refused'],
  ['redis OOM', 'refused'],
  ['connection closed', 'refused'],
  ['outstanding_max', 'refused'],
  // Nobody who says something is silent.
  ['lost', 'refused'],
  ['ok', 'refused'],
])('the code %j is %s', (code, status) => {
  expect(statusOf(code)).toBe(status);
});

describe('classes of priority', () => {
  test('are dealt as evenly as their shares allow', () => {
    expect(priorityPattern('')).toEqual([]);
    expect(priorityPattern('1')).toEqual([1]);
    expect(priorityPattern('0:1,1:1,2:1')).toEqual([0, 1, 2]);
    expect(priorityPattern('0:2, 2:4')).toEqual([2, 0, 2, 2, 0, 2]);
  });

  test.each(['3', '0:0', '0:101', '0:1,0:2', 'x', '0;1', '0:1,', '-1'])('%j is refused', (text) => {
    expect(() => priorityPattern(text)).toThrow(/--priority is /);
  });

  test('have their own counts and latencies, and the whole has both', () => {
    const account = new Account({
      ...{ eventsMax: 100, warmupMs: 0, timeoutMs: 50, outstandingMax: 100 },
      pattern: [0, 2],
    });
    const codes = ['', 'expired', 'degraded', 'expired', '', 'HTTP 429 overloaded'];
    codes.forEach((code, seq) => {
      account.schedule(seq, seq, seq);
      account.settle(seq, seq + 4, code);
    });
    account.schedule(6, 6, 6);
    account.expire(100);
    // Late: it stays lost.
    account.settle(6, 101, '');
    expect(account.statuses).toEqual({ ok: 2, degraded: 1, expired: 2, overloaded: 1, lost: 1 });
    expect(account).toMatchObject({ answered: 3, lost: 1, late: 1, errorCount: 3 });
    expect(account.classes.map(({ priority, sent, statuses }) => [priority, sent, statuses])).toEqual([
      [0, 4, { ok: 2, degraded: 1, lost: 1 }],
      [2, 3, { expired: 2, overloaded: 1 }],
    ]);
    expect(account.classes.map(({ latencyMs }) => latencyMs.count)).toEqual([3, 0]);
  });

  test('are none where events name none', () => {
    const account = new Account({ eventsMax: 1, warmupMs: 0, timeoutMs: 1, outstandingMax: 1 });
    account.schedule(0, 0, 0);
    account.settle(0, 1, 'degraded');
    expect(account.classes).toEqual([]);
    expect(account.statuses).toEqual({ degraded: 1 });
  });
});

test('an account tells whoever watches of every event and all that is said', () => {
  const told: unknown[] = [];
  const watch = {
    due: (...what: unknown[]) => told.push(what),
    settled: (...what: unknown[]) => told.push(what),
  };
  const account = new Account({ eventsMax: 9, warmupMs: 5, timeoutMs: 9, outstandingMax: 1, watch });
  account.schedule(0, 1, 2);
  // Not sent: too many are outstanding.
  account.schedule(1, 2, 3);
  account.settle(0, 4, 'HTTP 504 deadline_exceeded', 3);
  expect(told).toEqual([
    [0, 1, 2],
    [0, 'expired', 4, 3],
  ]);
});

test('via stream: deadline, priority and prefix are fields of the entry', async () => {
  const report = await runLoad(base);
  expect(report).toMatchObject({ statuses: { lost: 150 }, sent: 150 });
  expect(report.classes.map(({ priority, sent }) => [priority, sent])).toEqual([
    [0, 50],
    [2, 100],
  ]);
  expect(formatReport(report)).toMatch(/outcomes {2}lost 150\n[\s\S]*priority 2: sent 100 {3}lost 100\n/);
  const wire = await RedisWire.connect(redis.url);
  const entries = (await wire.call(['XRANGE', 'events', '-', '+'])) as [string, string[]][];
  wire.close();
  expect(entries).toHaveLength(150);
  const fields = entries.map(([, flat]) => Object.fromEntries(flat.map((name, i) => [name, flat[i + 1]])));
  expect(entries[0]![1].filter((_, i) => i % 2 === 0)).toEqual([
    'key',
    'priority',
    'model',
    'deadline_ms',
    'data',
    'event',
  ]);
  expect(fields.slice(0, 4).map(({ key, priority }) => [key, priority])).toEqual([
    ['big:0', '2'],
    ['big:1', '0'],
    ['big:2', '2'],
    ['big:3', '2'],
  ]);
  expect(fields[0]).toMatchObject({ deadline_ms: '250', model: 'm' });
});

test('two runs that begin together are told apart', async () => {
  const names = new Set<string>();
  const makeWay: MakeWay = (run) => {
    names.add(run);
    return { open: async () => {}, send: () => {}, flush: () => {}, close: async () => {}, notes: [] };
  };
  const short = { ...base, durationS: 0.1, timeoutS: 0.01 };
  await Promise.all([1, 2, 3].map(() => runLoad(short, { makeWay })));
  expect(names.size).toBe(3);
  // With the number of an event behind it, it fits into the engine's limit.
  for (const name of names) expect(name.length + 1 + 8).toBeLessThanOrEqual(limitsDefault.eventIdBytesMax);
});

test.each(['msgpack', 'json'] as const)('via ws, %s: they stand in the frame', async (encoding) => {
  const frames: Record<string, unknown>[] = [];
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: ([first]) => first! });
  await once(server, 'listening');
  server.on('connection', (socket) => {
    const send = (frame: object) =>
      socket.send(encoding === 'json' ? JSON.stringify(frame) : packr.pack(frame));
    socket.on('message', (bytes: Buffer) => {
      const frame = encoding === 'json' ? JSON.parse(bytes.toString()) : packr.unpack(bytes);
      if (frame.t === 'hello') return send({ t: 'welcome', id: frame.id });
      frames.push(frame);
      return send({ t: 'pred', id: frame.id, st: frame.priority === 0 ? 'ok' : 'degraded', d: {} });
    });
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const report = await runLoad({ ...base, via: 'ws', url, encoding, perConnectionPerS: 1000 });
  for (const socket of server.clients) socket.terminate();
  server.close();
  expect(report).toMatchObject({ answered: 150, statuses: { ok: 50, degraded: 100 }, errors: {} });
  const first = frames.find(({ id }) => id === 1);
  expect(first).toMatchObject({ key: 'big:0', deadline: 250, priority: 2, model: 'm', d: { level: 1 } });
});

test('via http: they are parameters; an answer of the ladder is told from the model’s own', async () => {
  const seen: Record<string, unknown>[] = [];
  const server = createServer((request, response) => {
    if (request.method === 'GET') {
      response.end('{}');
      return;
    }
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const { parameters } = JSON.parse(Buffer.concat(parts).toString());
      seen.push(parameters);
      const status = parameters.priority === 0 ? 'ok' : 'degraded';
      response.end(`{"model_name":"m","parameters":{"status":"${status}"},"outputs":[]}`);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const report = await runLoad({ ...base, via: 'http', url });
  server.closeAllConnections();
  server.close();
  expect(report).toMatchObject({ answered: 150, statuses: { ok: 50, degraded: 100 } });
  expect(seen).toContainEqual({ key: 'big:0', deadline_ms: 250, priority: 2 });
});

describe('options', () => {
  test.each([
    [{ deadlineMs: -1 }, /--deadline is -1/],
    [{ deadlineMs: 1.5 }, /--deadline must be a whole number/],
    [{ priority: '7' }, /--priority is 7: classes are 0 to 2/],
    [{ keyPrefix: 'a"b' }, /--key-prefix must be letters/],
    [{ keyPrefix: 'x'.repeat(41) }, /--key-prefix must be/],
  ] as [Partial<LoadOptions>, RegExp][])('%j is refused', async (over, message) => {
    await expect(runLoad({ ...base, ...over })).rejects.toThrow(message);
  });

  test('come from the command line', () => {
    expect(loadOptions({ deadline: '250', priority: '0:1,2:1', keyPrefix: 'small:' })).toMatchObject({
      ...{ deadlineMs: 250, priority: '0:1,2:1', keyPrefix: 'small:' },
    });
    expect(() => loadOptions({ deadline: '1.5' })).toThrow('--deadline must be a whole number');
  });
});
