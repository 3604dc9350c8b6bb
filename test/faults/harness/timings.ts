/** Recovery times as they were measured, printed when a file of scenarios is done. */

interface Timing {
  readonly what: string;
  readonly ms: number;
  readonly promisedMs: number | null;
}

const timings: Timing[] = [];

export function measured(what: string, ms: number, promisedMs: number | null = null): void {
  timings.push({ what, ms, promisedMs });
}

export function printTimings(): void {
  for (const { what, ms, promisedMs } of timings) {
    const promised = promisedMs === null ? '' : ` (promised: at most ${promisedMs} ms)`;
    console.log(`  recovery: ${what}: ${Math.round(ms)} ms${promised}`);
  }
  timings.length = 0;
}
