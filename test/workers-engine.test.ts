// An engine that starts and ends workers as its load asks for, on a real Redis: no event is lost on the way.
import { rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, test } from 'vitest';
import { collectNotices, until } from './support/core.ts';
import { entriesOf, FIXTURE_MODELS, modelsDir, startTestEngine } from './support/engine.ts';

const WORKERS_MAX = 2;
const VERBOSE = process.env['SUBITO_TEST_VERBOSE'] !== undefined;
/** Takes as long as its events say, without the processor. */
const HANDLER = `
const cell = new Int32Array(new SharedArrayBuffer(4));
export const handler = {
  fields: [], predicts: [],
  create: () => ({
    decode(data, row) {
      if (data.ms > 0) Atomics.wait(cell, 0, 0, data.ms);
      row.x[0] = data.x;
    },
    encode: (outputs) => ({ y: outputs.y[0] }),
  }),
};`;

const notices = collectNotices();
const models = modelsDir({
  waiting: { from: join(FIXTURE_MODELS, 'no_batch'), manifest: 'name: waiting\nbatch: { max: 4 }\n' },
});
writeFileSync(join(models, 'waiting', 'handler.ts'), HANDLER);
afterAll(() => {
  notices.stop();
  rmSync(models, { recursive: true });
});

const told = () => notices.all.flatMap(({ code, message }) => (code === 'WORKERS' ? [message] : []));

test('a worker goes that has nothing to do, and another one comes when batches wait', async () => {
  const running = await startTestEngine(models, { workers: { min: 1, max: WORKERS_MAX } });
  const { client, engine } = running;
  let sent = 0;
  /** Adds events, so many in a millisecond, each of which takes so long, until there are so many workers. */
  const load = async (perMs: number, ms: number, workers: number) => {
    const beganMs = performance.now();
    const before = sent;
    const events = async () => {
      const all = client.multi();
      for (; sent - before < (performance.now() - beganMs) * perMs; sent++)
        all.xadd('events', '*', 'key', 'u', 'data', JSON.stringify({ x: sent, ms }));
      await all.exec();
      await sleep(20);
      return (engine.backend.stats() as { workers: number }).workers === workers;
    };
    await until(`${workers} workers`, events, 90_000);
    return performance.now() - beganMs;
  };
  const metrics = async () => (await fetch(`${engine.url}/metrics`)).text();
  try {
    // However fast a model is, there is one more than it needs at first.
    expect(await metrics()).toMatch(/^subito_workers 2$/m);
    const isMany = WORKERS_MAX > availableParallelism();
    expect(notices.codes().filter((code) => code === 'WORKERS_MANY')).toHaveLength(isMany ? 1 : 0);
    await load(0.05, 1, 1);
    expect(await metrics()).toMatch(/^subito_workers 1$/m);
    // More than one does, less than two do.
    const tookMs = await load(0.15, 10, 2);
    expect(told()).toMatchObject([
      expect.stringMatching(/^1 instead of 2, after .* s: without it below 50 % busy for 30 s/),
      expect.stringMatching(/^2 instead of 1, after .* s: \d+ % of the time busy, and rows have waited/),
    ]);
    await until('all are predicted', async () => (await client.xlen('predictions')) === sent, 30_000);
    const sources = (await entriesOf(client, 'predictions')).map(({ source }) => String(source));
    expect(new Set(sources).size).toBe(sent);
    expect(notices.codes()).not.toContain('WORKER_DIED');
    if (VERBOSE) process.stdout.write(`${tookMs.toFixed(0)} ms from load to two workers: ${told()[1]}\n`);
  } finally {
    await running.stop();
  }
}, 180_000);
