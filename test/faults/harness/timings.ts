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
  for (const what of new Set(timings.map((timing) => timing.what))) {
    const same = timings.filter((timing) => timing.what === what);
    const times = same.map(({ ms }) => Math.round(ms)).sort((a, b) => a - b);
    const [least, most] = [times[0], times.at(-1)];
    const ms = times.length === 1 ? `${most} ms` : `${least} to ${most} ms, ${times.length} times`;
    const promisedMs = same[0]?.promisedMs ?? null;
    const promised = promisedMs === null ? '' : ` (promised: at most ${promisedMs} ms)`;
    console.log(`  recovery: ${what}: ${ms}${promised}`);
  }
  timings.length = 0;
}
