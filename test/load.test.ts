// `subito load` against real, small servers: Redis with an echo consumer, WebSocket, HTTP.

import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Packr } from 'msgpackr';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import type { WebSocket } from 'ws';
import { WebSocketServer } from 'ws';
import { loadFlags, loadOptions } from '../src/commands/load.ts';
import type { LoadOptions } from '../src/load/options.ts';
import { loadDefaults } from '../src/load/options.ts';
import { formatReport } from '../src/load/report.ts';
import { runLoad } from '../src/load/run.ts';
import { RedisWire } from '../src/redis/wire.ts';
import { startRedis } from './support/redis.ts';

const packr = new Packr({ useRecords: false });
const redis = await startRedis();
const cleanups: (() => unknown)[] = [];

/** Short, and wide enough in time for a busy machine. */
const base: LoadOptions = {
  ...loadDefaults,
  redisUrl: redis.url,
  ratePerS: 300,
  durationS: 1,
  warmupS: 0.2,
  featuresBytes: 16,
};

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

afterAll(() => redis.stop());

type Consume = (id: string, fields: Map<string, string>, index: number) => Promise<unknown> | undefined;

/** Reads `events` from its end, one reply at a time, and hands each entry to `consume`. */
async function consumer(consume: (wire: RedisWire) => Consume): Promise<void> {
  const reader = await RedisWire.connect(redis.url);
  const writer = await RedisWire.connect(redis.url);
  await writer.call(['FLUSHALL']);
  cleanups.push(() => {
    reader.close();
    writer.close();
  });
  const each = consume(writer);
  let last = '0-0';
  let index = 0;
  const loop = async () => {
    for (;;) {
      const reply = await reader.call(['XREAD', 'BLOCK', '5000', 'STREAMS', 'events', last]);
      const entries = (reply as [string, [string, string[]][]][] | null)?.[0]?.[1] ?? [];
      for (const [id, flat] of entries) {
        last = id;
        const fields = new Map<string, string>();
        for (let i = 0; i < flat.length; i += 2) fields.set(flat[i]!, flat[i + 1]!);
        each(id, fields, index++)?.catch(() => {});
      }
    }
  };
  // Ends with the test, when its connection is closed.
  loop().catch(() => {});
}

const predict = (wire: RedisWire, source: string, event: string, status = 'ok') =>
  wire.call(['XADD', 'predictions', '*', 'source', source, 'event', event, 'status', status]);

describe('via stream', () => {
  test('counts every answer once and measures both latencies', async () => {
    const seen: Map<string, string>[] = [];
    await consumer((wire) => (id, fields) => {
      seen.push(new Map(fields));
      return predict(wire, id, fields.get('event')!);
    });
    const report = await runLoad({ ...base, model: 'genre' });
    expect(report).toMatchObject({
      lost: 0,
      duplicates: 0,
      errors: {},
      ok: true,
      warnings: expect.anything(),
    });
    expect(report.answered).toBe(report.sent);
    // 300 expected in the measured second, standard deviation 17.
    expect(Math.abs(report.sent - 300)).toBeLessThan(90);
    expect(report.latencyMs.p50).toBeGreaterThan(0);
    expect(report.entryLatencyMs.count).toBe(report.answered);
    expect([...seen[0]!.keys()]).toEqual(['key', 'model', 'features', 'event']);
    expect(seen[0]!.get('features')).toHaveLength(16);
    expect(new Set(seen.map((fields) => fields.get('key'))).size).toBe(100);
    expect(formatReport(report)).toContain('from entry id');
  });

  test('tells duplicates, dead letters, other outcomes and losses apart', async () => {
    let lost = 0;
    let dead = 0;
    let shed = 0;
    let twice = 0;
    await consumer((wire) => (id, fields, index) => {
      const event = fields.get('event')!;
      if (index % 10 === 1) {
        lost++;
        return undefined;
      }
      if (index % 10 === 2) {
        dead++;
        return wire.call([
          'XADD',
          'deadletters',
          '*',
          'event',
          event,
          'reason',
          'invalid',
          'detail',
          'x: no',
        ]);
      }
      if (index % 10 === 3) {
        shed++;
        return predict(wire, id, event, 'shed');
      }
      if (index % 10 === 4) {
        twice++;
        void predict(wire, id, event);
      }
      return predict(wire, id, event);
    });
    const report = await runLoad({
      ...base,
      warmupS: 0,
      timeoutS: 0.5,
      data: '{"energy":0.5}',
      featuresBytes: 0,
    });
    expect(report.lost).toBe(lost);
    expect(report.errors).toEqual({ 'dead letter invalid': dead, shed });
    expect(report.notes).toEqual(['the first dead letter says: invalid x: no']);
    expect(report.duplicates).toBe(twice);
    expect(report.answered).toBe(report.sent - lost - dead - shed);
    expect(report.ok).toBe(false);
  });

  test('a stalled consumer shows in full', async () => {
    let open = Date.now() + 1e9;
    await consumer((wire) => (id, fields, index) => {
      if (index === 0) open = Date.now() + 700;
      const wait = Math.max(0, open - Date.now());
      const answer = () => predict(wire, id, fields.get('event')!);
      return new Promise((resolve) => setTimeout(resolve, wait)).then(answer);
    });
    const report = await runLoad({ ...base, warmupS: 0 });
    expect(report.latencyMs.p99).toBeGreaterThan(600);
    expect(report.lost).toBe(0);
  });

  test('an interrupted run drains and reports', async () => {
    // Some answers are on their way whenever it is interrupted.
    await consumer((wire) => async (id, fields) => {
      await sleep(500);
      return predict(wire, id, fields.get('event')!);
    });
    const stop = new AbortController();
    const report = await runLoad(
      { ...base, durationS: 600, timeoutS: 30 },
      {
        stop: stop.signal,
        // Looked at once a second; the connection and the warm-up come first, whatever time they take.
        onTick: (_elapsedMs, _interval, { answered }) => {
          if (answered > 0) stop.abort();
        },
      },
    );
    expect(report.durationS).toBeLessThan(600);
    expect(report).toMatchObject({ lost: 0, answered: report.sent, ok: true });
  });

  test('nobody answers: not ok', async () => {
    await consumer(() => () => undefined);
    const report = await runLoad({ ...base, timeoutS: 0.2, durationS: 0.3 });
    expect(report).toMatchObject({ answered: 0, ok: false });
    expect(report.lost).toBe(report.sent);
  });

  test('refused by Redis: the error code is the outcome', async () => {
    const wire = await RedisWire.connect(redis.url);
    cleanups.push(() => wire.close());
    await wire.call(['FLUSHALL']);
    await wire.call(['SET', 'events', 'a string']);
    const report = await runLoad({ ...base, durationS: 0.3 });
    expect(report.errors).toEqual({ 'redis WRONGTYPE': report.sent });
  });
});

/** A gateway's WebSocket side, as far as a test needs it. */
async function gateway(
  onFrame: (socket: WebSocket, frame: Record<string, unknown>) => void,
): Promise<string> {
  const server = createServer((_request, response) => response.writeHead(404).end());
  const sockets = new WebSocketServer({
    server,
    path: '/ws',
    handleProtocols: (offered) => [...offered][0]!,
  });
  sockets.on('connection', (socket) => {
    const json = socket.protocol.endsWith('json');
    socket.on('message', (bytes: Buffer) => {
      const frame = json ? JSON.parse(bytes.toString()) : packr.unpack(bytes);
      if (frame.t === 'hello') reply(socket, { t: 'welcome', id: frame.id, ping: 25_000 });
      else onFrame(socket, frame);
    });
  });
  return listen(server, () => {
    for (const socket of sockets.clients) socket.terminate();
  });
}

function reply(socket: WebSocket, frame: Record<string, unknown>): void {
  socket.send(socket.protocol.endsWith('json') ? JSON.stringify(frame) : packr.pack(frame));
}

async function listen(server: ReturnType<typeof createServer>, onClose = () => {}): Promise<string> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanups.push(() => {
    onClose();
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test('observe push: entry id to pushed frame, credit returned', async () => {
  const channels = new Map<string, { socket: WebSocket; credit: number; seq: number }>();
  const url = await gateway((socket, frame) => {
    const ch = frame['ch'] as string;
    if (frame['t'] === 'sub') {
      channels.set(ch, { socket, credit: frame['credit'] as number, seq: 0 });
      reply(socket, { t: 'subd', id: frame['id'], ch, seq: 0 });
    } else if (frame['t'] === 'flow') channels.get(ch)!.credit += frame['credit'] as number;
  });
  await consumer(() => (_id, fields) => {
    const ch = `key:${fields.get('key')}`;
    const channel = channels.get(ch)!;
    // Without credit the prediction is not sent, and the run would report it lost.
    if (channel.credit-- > 0) {
      reply(channel.socket, { t: 'pred', ch, seq: ++channel.seq, re: fields.get('event'), st: 'ok' });
    }
    return undefined;
  });
  // One key: more events than its first credit.
  const report = await runLoad({ ...base, url, observe: 'push', keys: 1, ratePerS: 500 });
  expect(report).toMatchObject({ lost: 0, duplicates: 0, ok: true, observe: 'push' });
  expect(report.answered).toBeGreaterThan(256);
  expect(report.entryLatencyMs.count).toBeGreaterThan(0);
});

test.each(['msgpack', 'json'] as const)('via ws, %s: answered by id, errors by code', async (encoding) => {
  const frames: Record<string, unknown>[] = [];
  let limited = 0;
  const url = await gateway((socket, frame) => {
    frames.push(frame);
    if (frames.length % 100 === 0) {
      limited++;
      reply(socket, { t: 'error', id: frame['id'], code: 111, msg: 'rate_limited', retry: true });
    } else reply(socket, { t: 'pred', id: frame['id'], re: frame['eid'], st: 'ok', d: {} });
  });
  const report = await runLoad({ ...base, via: 'ws', url, model: 'genre', encoding, warmupS: 0 });
  expect(report.notes).toEqual([]);
  expect(report).toMatchObject({ lost: 0, duplicates: 0 });
  expect(report.errors).toEqual({ '111 rate_limited': limited });
  expect(frames[0]).toMatchObject({ t: 'event', key: 'load-0', model: 'genre', via: 'direct' });
  expect((frames[0]!['d'] as { features: number[] }).features).toHaveLength(4);
});

test('via ws raises the connections to what the rate needs, and says so', async () => {
  const url = await gateway((socket, frame) => reply(socket, { t: 'pred', id: frame['id'], st: 'ok' }));
  const options = { ...base, url, via: 'ws', model: 'm', connections: 1, ratePerS: 400 } as const;
  const report = await runLoad(options);
  expect(report.notes[0]).toMatch(/^10 connections instead of 1/);
  expect(report.ok).toBe(true);
});

test('via http: tensors as the metadata names them, status codes counted', async () => {
  const bodies: { id: string; inputs: unknown[]; parameters: unknown }[] = [];
  const paths = new Set<string>();
  let busy = 0;
  let unknown = 0;
  const server = createServer((request, response) => {
    if (request.method === 'GET') {
      response.end(JSON.stringify({ inputs: [{ name: 'tempo', datatype: 'FP64', shape: [-1, 1] }] }));
      return;
    }
    paths.add(request.url!);
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      bodies.push(JSON.parse(Buffer.concat(parts).toString()));
      const nth = bodies.length;
      const refusal = { error: `event ${nth}: no such\nmodel`, code: 'unknown_model' };
      if (nth % 50 === 0) busy++;
      if (nth % 50 === 1) unknown++;
      response.writeHead(nth % 50 === 0 ? 503 : nth % 50 === 1 ? 404 : 200);
      response.end(nth % 50 === 1 ? JSON.stringify(refusal) : '{}');
    });
  });
  const url = await listen(server);
  const data = '{"tempo":120,"name":"é","tags":["a","b"]}';
  const options = { ...base, url, via: 'http', model: 'm@3', data, featuresBytes: 0, warmupS: 0 } as const;
  const report = await runLoad(options);
  const answered = report.sent - busy - unknown;
  // The reason that came first stands for all of its kind.
  const errors = { 'HTTP 503': busy, 'HTTP 404 unknown_model: event 1: no such model': unknown };
  expect(report).toMatchObject({ lost: 0, errors, answered });
  expect([...paths]).toEqual(['/v2/models/m/versions/3/infer']);
  expect(bodies[0]!.inputs).toEqual([
    { name: 'tempo', datatype: 'FP64', shape: [1, 1], data: [120] },
    { name: 'name', datatype: 'BYTES', shape: [1], data: ['é'] },
    { name: 'tags', datatype: 'BYTES', shape: [1, 2], data: ['a', 'b'] },
  ]);
});

test('without a warm-up the first events are not late', async () => {
  const options = { ...base, durationS: 0.2, ratePerS: 1000, warmupS: 0, arrivals: 'uniform' } as const;
  const run = async () => {
    const report = await runLoad(options, {
      makeWay: (_run, settle) => ({
        open: async () => {},
        send: (seq) => settle(seq, ''),
        flush: () => {},
        close: async () => {},
        notes: [],
      }),
    });
    expect(report).toMatchObject({ sent: 200, answered: 200 });
    return report.latenessMs.p90;
  };
  // It was a quarter of them, by the time that a thread takes to start; every time, which a busy machine is
  // not.
  let least = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 5 && least >= 10; i += 1) least = Math.min(least, await run());
  expect(least).toBeLessThan(10);
});

describe('options', () => {
  test.each([
    [
      { redisUrl: 'redis://user:secret@db.example.com:6379' },
      /points at db\.example\.com:6379.*--allow-remote/,
    ],
    [{ via: 'http', model: 'm', url: 'http://10.0.0.1' }, /--allow-remote/],
    [{ via: 'http' }, /needs --model/],
    [{ ratePerS: 0 }, /--rate is 0/],
    [{ ratePerS: Number.NaN }, /--rate is NaN/],
    [{ featuresBytes: 0 }, /say what the events carry/],
    [{ data: '[1]', featuresBytes: 0 }, /must be a JSON object/],
    [{ data: '{}' }, /only one of/],
    [{ ratePerS: 1e6, durationS: 1000 }, /lower --rate or --duration/],
  ] as [Partial<LoadOptions>, RegExp][])('%j is refused', async (over, message) => {
    await expect(runLoad({ ...base, ...over })).rejects.toThrow(message);
  });

  test('a refusal never shows the password', async () => {
    const url = 'redis://user:secret@db.example.com:6379';
    await expect(runLoad({ ...base, redisUrl: url })).rejects.not.toThrow(/secret/);
  });

  test('text of the command line becomes numbers; every flag is read', () => {
    expect(loadOptions({})).toEqual(loadDefaults);
    expect(loadOptions({ rate: '2.5e3', keys: '7' })).toMatchObject({ ratePerS: 2500, keys: 7 });
    expect(() => loadOptions({ rate: 'fast' })).toThrow(/--rate is not a number: fast/);
    expect(() => loadOptions({ featuresBytes: '1.5' })).toThrow(/--features-bytes must be a whole number/);
    expect(loadFlags.map(([flags]) => flags.split(' ')[0])).toContain('--allow-remote');
  });
});
