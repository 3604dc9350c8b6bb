// A thread that runs schedules: every `step`-th from `first` to `last`.
import { parentPort, workerData } from 'node:worker_threads';
import type { FaultName } from './faults.ts';
import { World } from './world.ts';

export interface Seeds {
  readonly first: number;
  readonly last: number;
  readonly step: number;
  readonly only: readonly FaultName[];
}

/** Of a seed that failed; or of one that did not, every now and then. */
export interface Progress {
  readonly seed: number;
  readonly failure: string | null;
  /** Sum over the schedules since the last report. */
  readonly events: number;
}

const TRACE_LINES = 400;
const REPORT_EVERY = 20;

/** Runs a schedule; tells how it failed, with its trace, or null. */
async function runSchedule(
  seed: number,
  only: readonly FaultName[],
): Promise<{ events: number; failure: string | null }> {
  try {
    const { events } = await new World(seed, null, only).run();
    return { events, failure: null };
  } catch {
    const lines: string[] = [];
    const world = new World(seed, (text) => lines.push(text), only);
    const failure = await world.run().then(
      () => 'it did not fail the second time: something in it does not follow the seed',
      (error: unknown) => (error as Error).stack,
    );
    const trace = lines.slice(-TRACE_LINES).join('\n');
    const text = `${failure}\nfaults:\n${world.faults.join('\n')}\ntrace:\n${trace}`;
    return { events: 0, failure: `seed ${seed}: ${text}` };
  }
}

const { first, last, step, only } = workerData as Seeds;
let total = 0;
for (let seed = first, count = 1; seed <= last; seed += step, count += 1) {
  const { events, failure } = await runSchedule(seed, only);
  total += events;
  if (failure === null && count % REPORT_EVERY !== 0 && seed + step <= last) continue;
  parentPort?.postMessage({ seed, failure, events: total } satisfies Progress);
  total = 0;
}
