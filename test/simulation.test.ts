// Engines under every fault that we could think of, on simulated time over a model of Redis: thousands of
// schedules, each from one seed. In the end each event has exactly one outcome.
//
//   SUBITO_SIMULATION_SCHEDULES=n   so many instead of the usual ones
//   SUBITO_TEST_SEED=n              that schedule only, with a trace of what happened
import { writeSync } from 'node:fs';
import { expect, test } from 'vitest';
import { World } from './simulation/world.ts';

const SCHEDULES = Number(process.env['SUBITO_SIMULATION_SCHEDULES'] ?? 1000);
const ONLY = process.env['SUBITO_TEST_SEED'];
const TRACE_LINES = 400;

/** Runs a schedule; throws with its trace when it does not end well. */
async function runSchedule(seed: number): Promise<void> {
  try {
    await new World(seed, null).run();
  } catch {
    const lines: string[] = [];
    const world = new World(seed, (text) => lines.push(text));
    const failure = await world.run().then(
      () => 'it did not fail the second time: something in it is not deterministic',
      (error: unknown) => (error as Error).stack,
    );
    const trace = lines.slice(-TRACE_LINES).join('\n');
    throw new Error(`seed ${seed}: ${failure}\nfaults:\n${world.faults.join('\n')}\ntrace:\n${trace}`);
  }
}

test('each event has exactly one outcome, whatever goes wrong', { timeout: 3_600_000 }, async () => {
  if (ONLY !== undefined) {
    const world = new World(Number(ONLY), (text) => writeSync(1, `${text}\n`));
    await world.run();
    return;
  }
  for (let seed = 1; seed <= SCHEDULES; seed += 1) {
    await runSchedule(seed);
    // Vitest wants to hear from this process now and then.
    if (seed % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  expect(SCHEDULES).toBeGreaterThan(0);
});
