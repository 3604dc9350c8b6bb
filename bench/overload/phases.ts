/** An open loop whose rate changes: calm, too much, calm. Pure. */
import type { Random } from '../../src/random.ts';

export interface Phase {
  readonly seconds: number;
  readonly ratePerS: number;
}

/** Milliseconds at which each phase ends. */
export function endsOf(phases: readonly Phase[]): number[] {
  let at = 0;
  return phases.map(({ seconds }) => {
    at += seconds * 1000;
    return at;
  });
}

/** Poisson arrivals: the next one's time on each call, ms since the start; Infinity after the last phase. */
export function phasedArrivals(phases: readonly Phase[], random: Random): () => number {
  const ends = endsOf(phases);
  let at = 0;
  let phase = 0;
  return () => {
    while (phase < phases.length) {
      const next = at - (Math.log(1 - random()) * 1000) / phases[phase]!.ratePerS;
      if (next < ends[phase]!) {
        at = next;
        return at;
      }
      // What comes after a moment does not depend on what came before it: each phase begins anew.
      at = ends[phase]!;
      phase++;
    }
    return Number.POSITIVE_INFINITY;
  };
}
