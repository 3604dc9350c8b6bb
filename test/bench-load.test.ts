// The benchmark's tools on a real Redis: the generator, what it watches with, the bare loop, the probe.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { EventRing, numberIn, prefixOf, RING } from '../bench/event-ring.ts';
import { type GeneratorPlan, generate } from '../bench/generator.ts';
import { Replies } from '../bench/replies.ts';
import { Runner } from '../bench/runner.ts';
import { added, field, fillStream, verifyOnce } from '../bench/streams.ts';
import { RedisReplyError } from '../src/redis/reply.ts';
import { RedisWire } from '../src/redis/wire.ts';
import { startRedis } from './support/redis.ts';

const redis = await startRedis();
const wire = await RedisWire.connect(redis.url);
const directory = mkdtempSync(join(tmpdir(), 'subito-bench-load-'));

afterAll(async () => {
  wire.close();
  await redis.stop();
  rmSync(directory, { recursive: true });
});

beforeEach(async () => {
  await wire.call(['FLUSHALL']);
});

type Entry = [id: string, fields: string[]];
const entriesOf = async (stream: string) => (await wire.call(['XRANGE', stream, '-', '+'])) as Entry[];

describe('prepared events', () => {
  const write = (pieces: readonly Buffer[], count: number) =>
    new Promise<void>((resolve, reject) => {
      let left = count;
      wire.write(Buffer.concat(pieces), count, (reply) => {
        if (reply instanceof RedisReplyError) reject(reply);
        else if (--left === 0) resolve();
      });
    });

  test('are named one after the other, lap after lap, whatever the pieces', async () => {
    const ring = new EventRing('events', 'b');
    let seq = 0;
    for (const count of [RING - 3, 7, RING, 2]) {
      const pieces = ring.commands(seq, count);
      expect(pieces.length).toBe((seq % RING) + count > RING ? 2 : 1);
      await write(pieces, count);
      seq += count;
    }
    const prefix = prefixOf('b');
    const numbers = (await entriesOf('events')).map(([, fields]) =>
      numberIn(Buffer.from(field(fields, 'event')!), prefix),
    );
    expect(numbers).toEqual(Array.from({ length: seq }, (_, i) => i));
    expect(() => ring.commands(0, RING + 1)).toThrow('10001 events at once');
  });

  test('are what a filled stream holds, apart from the names', async () => {
    await write(new EventRing('events', 'b').commands(0, 2000), 2000);
    await fillStream(wire, 'other', 2000);
    const all = (await entriesOf('events')).map(([, fields]) => fields.slice(0, 5).join(' '));
    expect(all.slice(0, 2000)).toEqual(all.slice(2000));
  });

  test('have numbers that only they have', () => {
    const prefix = prefixOf('b');
    const number = (name: string) => numberIn(Buffer.from(name), prefix);
    expect([number('b-0000012345'), number('c-0000012345')]).toEqual([12_345, -1]);
    expect([number('b-000001234'), number('b-00000x2345'), number('')]).toEqual([-1, -1, -1]);
  });
});

test('replies are counted however they are cut; the first error is kept', () => {
  const bytes = Buffer.from(
    '$15\r\n1760000000000-0\r\n:1\r\n$3\r\n-1-\r\n-OOM too much\r\n-ERR other\r\n:7\r\n',
  );
  for (let cut = 1; cut < bytes.length; cut++) {
    const replies = new Replies();
    replies.take(bytes, 0, cut);
    replies.take(bytes, cut, bytes.length);
    expect([cut, replies.count]).toEqual([cut, 6]);
    expect(replies.error).toBe('-OOM too much');
  }
});

describe('the generator', { timeout: 30_000 }, () => {
  const plan = (more: Partial<GeneratorPlan> = {}): GeneratorPlan => ({
    ...{ redisUrl: redis.url, stream: 'bare:events', predictions: 'bare:predictions', batch: 'g' },
    ...{ ratePerS: 2000, seconds: 1, warmupS: 0.5, observe: true, gapMs: 0.5, seed: 1 },
    ...more,
  });
  const startBare = () =>
    Runner.start(
      [new URL('../bench/e2e/bare-loop.ts', import.meta.url).pathname, redis.url],
      async (output) => output.includes('ready\n'),
    );

  test('sends what is due and sees each prediction of the bare loop once', async () => {
    const bare = await startBare();
    try {
      let started = 0;
      const report = await generate(plan(), () => {
        started++;
      });
      expect(started).toBe(1);
      // Poisson: 3,000 within five standard deviations.
      expect(Math.abs(report.due - 3000)).toBeLessThan(5 * Math.sqrt(3000));
      expect(await added(wire, 'bare:events')).toBe(report.due);
      expect([report.missing, report.duplicates]).toEqual([0, 0]);
      expect(report.latency!.count).toBeGreaterThan(1500);
      expect(report.latency!.count).toBeLessThan(report.due);
      const { p50, p99, max } = report.latency!;
      expect(p50).toBeGreaterThan(report.late!.p50);
      expect(p99).toBeGreaterThanOrEqual(p50);
      expect(max).toBeGreaterThanOrEqual(report.curve.at(-1)![1]);
      const eventOf = (fields: readonly string[]) => String(Number(field(fields, 'event')!.slice(2)));
      const named = (fields: readonly string[]) => `g-${eventOf(fields)}`;
      expect(await verifyOnce(wire, 'bare:predictions', 'g', report.due, named)).toBeNull();
      // What the bare loop read it has acknowledged.
      expect(((await wire.call(['XPENDING', 'bare:events', 'bare'])) as unknown[])[0]).toBe(0);
    } finally {
      await bare.stop();
    }
  });

  test('charges a loop that stood still for the time', async () => {
    const bare = await startBare();
    try {
      const report = await generate(plan({ ratePerS: 500 }), () => {
        setTimeout(() => bare.pause(), 700);
        setTimeout(() => bare.resume(), 1100);
      });
      expect(report.missing).toBe(0);
      // Some 400 of the last 1000 ms: an open loop goes on sending meanwhile.
      expect(report.latency!.p90).toBeGreaterThan(200);
      expect(report.late!.p90).toBeLessThan(200);
    } finally {
      await bare.stop();
    }
  });

  test('charges itself for what it sent late', async () => {
    const bare = await startBare();
    try {
      // Woken five times a second: half of the events are late by more than about 100 ms.
      const report = await generate(plan({ gapMs: 200 }));
      expect(report.late!.p50).toBeGreaterThan(60);
      expect(report.latency!.p50).toBeGreaterThan(report.late!.p50);
    } finally {
      await bare.stop();
    }
  });

  test('only sends when nobody watches', async () => {
    const report = await generate(plan({ observe: false, stream: 'events' }));
    expect(report).toMatchObject({ latency: null, late: null, curve: [], missing: 0 });
    expect(report.sent).toBe(report.due);
    expect(await added(wire, 'events')).toBe(report.due);
  });

  test('fails when Redis refuses', async () => {
    await wire.call(['SET', 'events', 'no stream']);
    await expect(generate(plan({ observe: false, stream: 'events' }))).rejects.toThrow(/failed.*WRONGTYPE/);
  });
});

describe('a process under test', { timeout: 30_000 }, () => {
  const start = (name: string, text: string) => {
    const path = join(directory, name);
    writeFileSync(path, text);
    return Runner.start([path], async (output) => output.includes('ready\n'));
  };

  test('tells of its threads and their collections; a busy thread is told from one at rest', async () => {
    const runner = await start(
      'threads.mjs',
      `import { isMainThread, parentPort, Worker } from 'node:worker_threads';
       if (isMainThread) {
         new Worker(new URL(import.meta.url)).once('message', () => process.stdout.write('ready\\n'));
       } else {
         let kept = [];
         setInterval(() => { kept = Array.from({ length: 100_000 }, (_, i) => ({ i })); }, 5);
         setTimeout(() => parentPort.postMessage(0), 300);
       }
       setInterval(() => {}, 1000);`,
    );
    try {
      const report = (await runner.probe())!;
      expect(report.threads.map(({ main }) => main)).toEqual([true, false]);
      const [main, worker] = report.threads;
      expect(worker!.gcCount).toBeGreaterThan(0);
      expect(worker!.gcMaxMs).toBeGreaterThan(0);
      expect(worker!.gcMaxMs).toBeLessThanOrEqual(worker!.gcMs + 1e-9);
      const { threadsUs, userUs } = runner.cpu();
      expect(threadsUs.get(worker!.tid)!).toBeGreaterThan(50_000);
      expect(threadsUs.get(main!.tid)!).toBeGreaterThan(0);
      expect(userUs).toBeGreaterThan(50_000);
      expect(runner.residentBytes()).toBeGreaterThan(10_000_000);
    } finally {
      await runner.stop();
    }
    expect(runner.ended).toBe(true);
  });

  test('has its model runs counted, wherever they run', async () => {
    const peer = new URL('../bench/peers/session.ts', import.meta.url).href;
    const model = new URL('../bench/models/mlp/1/model.onnx', import.meta.url).pathname;
    const runner = await start(
      'session.mjs',
      `import { loadModel } from ${JSON.stringify(peer)};
       await loadModel(${JSON.stringify(model)}, 128);
       process.stdout.write('ready\\n');
       setInterval(() => {}, 1000);`,
    );
    try {
      const { threads, addons } = (await runner.probe())!;
      // Warming up: twenty times one row and 128.
      expect(threads[0]!.runCount).toBe(40);
      expect(threads[0]!.runCpuUs).toBeGreaterThan(100);
      expect(addons.some((name) => name.startsWith('onnxruntime'))).toBe(true);
    } finally {
      await runner.stop();
    }
  });

  test('has its heaps looked at, before and after their garbage is collected, in every thread', async () => {
    const runner = await start(
      'heap.mjs',
      `import { isMainThread, parentPort, Worker } from 'node:worker_threads';
       globalThis.litter = Array.from({ length: 1e6 }, (_, i) => ({ i }));
       globalThis.litter = null;
       if (isMainThread) {
         const worker = new Worker(new URL(import.meta.url));
         worker.once('message', () => process.stdout.write('ready\\n'));
       } else {
         parentPort.postMessage(0);
         setInterval(() => {}, 1000);
       }`,
    );
    try {
      await sleep(1100);
      const before = (await runner.probe())!.threads;
      const after = (await runner.probe('collect'))!.threads;
      expect(before.map(({ main }) => main)).toEqual([true, false]);
      for (const [i, { heapUsed, heapTotal }] of after.entries()) {
        expect(heapUsed).toBeLessThan(before[i]!.heapUsed - 10_000_000);
        expect(heapUsed).toBeGreaterThan(1_000_000);
        expect(heapTotal).toBeGreaterThanOrEqual(heapUsed);
      }
    } finally {
      await runner.stop();
    }
  });

  test('may be another program than Node: seen from outside alone, and ended like any other', async () => {
    const busy = 'echo ready; while :; do :; done';
    const runner = await Runner.start(['-c', busy], async (output) => output.includes('ready\n'), {
      program: 'sh',
    });
    try {
      expect(await runner.probe()).toBeNull();
      const before = runner.cpu();
      await sleep(300);
      const { userUs, sysUs } = runner.cpu();
      expect(userUs + sysUs).toBeGreaterThan(before.userUs + before.sysUs);
      expect(runner.residentBytes()).toBeGreaterThan(100_000);
      runner.pause();
    } finally {
      await runner.stop();
    }
    expect(runner.ended).toBe(true);
    const none = Runner.start([], async () => false, { program: '/no/such/program' });
    await expect(none).rejects.toThrow(/ended at once:\n.*ENOENT/);
  });

  test('that ends at once is an error with what it said', async () => {
    await expect(start('broken.mjs', `console.error('no such thing'); process.exit(3);`)).rejects.toThrow(
      /ended at once:\nno such thing/,
    );
  });
});
