/**
 * A batch's way to a worker and back (infer/desk.ts), without the batch: the round trip by the clock, and
 * what it costs the main thread. Beside it the same as a task of piscina's.
 */
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
import { Desks } from '../../src/infer/desks.ts';
import type { DeskNews, InferTask } from '../../src/infer/protocol.ts';
import { type MicroCase, twinOnly } from './case.ts';

const task: InferTask = {
  slot: 0,
  slab: 0,
  shared: new SharedArrayBuffer(65_536),
  first: 0,
  rows: 64,
  apart: false,
};

export async function cases(): Promise<readonly MicroCase[]> {
  // As the pool has it.
  const piscina = new Piscina({
    filename: fileURLToPath(new URL('./hop-worker.ts', import.meta.url)),
    name: 'infer',
    minThreads: 1,
    maxThreads: 1,
    concurrentTasksPerWorker: 1,
    idleTimeout: Number.POSITIVE_INFINITY,
    atomics: 'disabled',
    recordTiming: false,
  });
  const desks = new Desks(() => {});
  await new Promise<void>((resolve) => {
    piscina.on('message', (news: DeskNews) => {
      desks.add(news, piscina.threads[0]!);
      resolve();
    });
  });
  // Nothing else keeps this process.
  piscina.threads[0]!.ref();
  const trips = (once: () => Promise<unknown>) =>
    twinOnly(async (batches) => {
      for (let i = 0; i < batches; i++) await once();
    });
  return [
    { name: 'over its desk', unit: 'batch', variants: trips(() => desks.run(task)) },
    {
      name: "as a task of piscina's",
      unit: 'batch',
      variants: trips(() => piscina.run(task)),
      close: () => void piscina.destroy(),
    },
  ];
}
