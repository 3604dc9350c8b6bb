// Engines under every fault that we could think of, on simulated time over a model of Redis: thousands of
// schedules, each from one seed, on as many threads as there are processors. In the end each event has
// exactly one outcome, nothing is pending, and nothing was trimmed that was not settled.
//
//   SUBITO_SIMULATION_SCHEDULES=n        so many instead of the usual ones
//   SUBITO_SIMULATION_FAULTS=kill,cut    with these faults only (simulation/faults.ts)
//   SUBITO_SIMULATION_SEED=n             that schedule only, with a trace of all that happens
import { writeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import type { FaultName } from './simulation/faults.ts';
import type { Progress, Seeds } from './simulation/worker.ts';
import { World } from './simulation/world.ts';

const SCHEDULES = Number(process.env['SUBITO_SIMULATION_SCHEDULES'] ?? 1200);
const SEED = process.env['SUBITO_SIMULATION_SEED'];
const FAULTS = (process.env['SUBITO_SIMULATION_FAULTS'] ?? '')
  .split(',')
  .filter((name) => name !== '') as FaultName[];

/** Resolves with the events that were simulated; rejects with the first schedule that failed. */
async function runAll(schedules: number): Promise<number> {
  const threads = Math.min(availableParallelism(), schedules);
  let events = 0;
  let running = threads;
  const workers: Worker[] = [];
  const all = new Promise<number>((resolve, reject) => {
    for (let i = 0; i < threads; i += 1) {
      const workerData: Seeds = { first: 1 + i, last: schedules, step: threads, only: FAULTS };
      const worker = new Worker(new URL('./simulation/worker.ts', import.meta.url), {
        workerData,
        execArgv: [],
      });
      workers.push(worker);
      worker.on('message', (progress: Progress) => {
        events += progress.events;
        if (progress.failure !== null) reject(new Error(progress.failure));
      });
      worker.on('error', reject);
      worker.on('exit', () => {
        running -= 1;
        if (running === 0) resolve(events);
      });
    }
  });
  try {
    return await all;
  } finally {
    for (const worker of workers) await worker.terminate();
  }
}

test('each event has exactly one outcome, whatever goes wrong', { timeout: 24 * 3_600_000 }, async () => {
  if (SEED === undefined) expect(await runAll(SCHEDULES)).toBeGreaterThan(SCHEDULES);
  else await new World(Number(SEED), (text) => writeSync(1, `${text}\n`), FAULTS).run();
});
