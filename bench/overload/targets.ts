/** What is promised, beside what was measured. Pure. */
import { percent, whole } from '../text.ts';

export interface Target {
  /** What is looked at: 'goodput, stream at 200 %'. */
  readonly name: string;
  /** What it should be, in words. */
  readonly wanted: string;
  readonly measured: string;
  readonly reached: boolean;
}

/** Shares of something: higher is better. NaN is never reached. */
export function atLeast(name: string, share: number, least: number): Target {
  return {
    name,
    wanted: `at least ${percent(least)}`,
    measured: Number.isNaN(share) ? 'none' : percent(share),
    reached: share >= least,
  };
}

/** Shares of something: lower is better. */
export function atMost(name: string, share: number, most: number): Target {
  return {
    name,
    wanted: `at most ${percent(most)}`,
    measured: Number.isNaN(share) ? 'none' : percent(share),
    reached: share <= most,
  };
}

/** A time against another one of the same run. */
export function timesAtMost(name: string, quotient: number, most: number): Target {
  return {
    name,
    wanted: `at most ${most} times`,
    measured: Number.isNaN(quotient) ? 'none' : `${quotient.toFixed(2)} times`,
    reached: quotient <= most,
  };
}

/** Null: it did not happen. */
export function withinMs(name: string, ms: number | null, most: number): Target {
  return {
    name,
    wanted: `within ${whole(most)} ms`,
    measured: ms === null || Number.isNaN(ms) ? 'not seen' : `${ms < 100 ? ms.toFixed(1) : whole(ms)} ms`,
    reached: ms !== null && ms <= most,
  };
}

export function none(name: string, count: number): Target {
  return { name, wanted: 'none', measured: whole(count), reached: count === 0 };
}

/** `what`: what was found, in words. */
export function holds(name: string, wanted: string, reached: boolean, what: string): Target {
  return { name, wanted, measured: what, reached };
}

/** Of a duration for `--check`, where higher is better: 1 at once, 0.5 at the limit, 0 never. */
export function promptness(ms: number | null, limitMs: number): number {
  return ms === null ? 0 : limitMs / (limitMs + ms);
}

export const verdict = ({ reached }: Target) => (reached ? 'reached' : 'NOT reached');
