/**
 * The open loop: when each event is due is decided in advance, from the rate and a seed, and never from how
 * the server is doing. Pure: clock and randomness are arguments.
 */
import type { Random } from '../random.ts';

export const ARRIVALS = ['poisson', 'uniform'] as const;
export type ArrivalKind = (typeof ARRIVALS)[number];

/** Gives the next arrival time on each call, in ms since the start of the run, never decreasing. */
export function arrivals(kind: ArrivalKind, ratePerS: number, random: Random): () => number {
  const gapMs = 1000 / ratePerS;
  let at = 0;
  let index = 0;
  // Multiplying instead of adding keeps a long uniform run from drifting.
  if (kind === 'uniform') return () => index++ * gapMs;
  return () => {
    at += -Math.log(1 - random()) * gapMs;
    return at;
  };
}

/** Hands out arrivals as they fall due, late ones included: a late generator catches up, it does not skip. */
export class OpenLoop {
  readonly #arrival: () => number;
  readonly #endMs: number;
  #nextMs: number;
  #seq = 0;

  /** Arrivals from `endMs` (ms since the start) on are not made. */
  constructor(arrival: () => number, endMs: number) {
    this.#arrival = arrival;
    this.#endMs = endMs;
    this.#nextMs = arrival();
  }

  /** When the next arrival is due, ms since the start; Infinity after the last. */
  get nextMs(): number {
    return this.#nextMs < this.#endMs ? this.#nextMs : Number.POSITIVE_INFINITY;
  }

  /** Arrivals handed out so far. */
  get count(): number {
    return this.#seq;
  }

  /** Calls `send` for each arrival due at `nowMs`, in order. */
  pump(nowMs: number, send: (seq: number, scheduledMs: number) => void): void {
    while (this.#nextMs <= nowMs && this.#nextMs < this.#endMs) {
      send(this.#seq++, this.#nextMs);
      this.#nextMs = this.#arrival();
    }
  }

  /** No arrivals from here on. */
  stop(): void {
    this.#nextMs = Number.POSITIVE_INFINITY;
  }
}
