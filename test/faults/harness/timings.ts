/** Recovery times as they were measured, printed when a file of scenarios is done. */

import { LONG } from './forms.ts';

interface Timing {
  readonly what: string;
  readonly ms: number;
  readonly promisedMs: number | null;
}

const timings: Timing[] = [];

export function measured(what: string, ms: number): void {
  timings.push({ what, ms, promisedMs: null });
}

/** Throws when it took longer than promised; the short form leaves room for tests that run beside it. */
export function measuredPromise(what: string, ms: number, promisedMs: number): void {
  timings.push({ what, ms, promisedMs });
  const limitMs = LONG ? promisedMs : 3 * promisedMs + 5000;
  if (ms > limitMs) throw new Error(`${what}: ${Math.round(ms)} ms, promised are ${promisedMs}`);
}

export function printTimings(): void {
  for (const { what, ms, promisedMs } of timings) {
    const promised = promisedMs === null ? '' : ` (promised: at most ${promisedMs} ms)`;
    console.log(`  recovery: ${what}: ${Math.round(ms)} ms${promised}`);
  }
  timings.length = 0;
}
