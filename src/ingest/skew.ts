/**
 * How far the engine's clock is ahead of that of a stream's server, which makes the entry ids. Deadlines
 * count from an entry's id; two machines' clocks may well differ by more than a deadline.
 *
 * A server's time lies somewhere between question and answer: so of the last questions the one with the
 * shortest way counts, and half of its way is how much it may be wrong by. What is less than that is no
 * difference at all.
 */
import { nowMs } from '../clock.ts';
import type { Control } from '../redis/control.ts';

const WINDOW = 16;
/** Of the server's own answer: it says whole microseconds, ids say whole milliseconds. */
const ROUNDING_MS = 1;

/** Asks once. While the server does not answer, what is known stays. */
export async function watchClock(control: Control, stream: string, skew: ClockSkew): Promise<void> {
  const askedMs = nowMs();
  const serverMs = await control.serverMs(stream).catch(() => null);
  if (serverMs !== null) skew.observe(askedMs, serverMs, nowMs());
}

interface Sample {
  readonly aheadMs: number;
  readonly wayMs: number;
}

export class ClockSkew {
  readonly #samples: Sample[] = [];
  /** Unix milliseconds to add to what the server says; 0 while no difference is seen. */
  aheadMs = 0;

  /** The server was asked at `askedMs` and its answer came at `answeredMs`, by our clock. */
  observe(askedMs: number, serverMs: number, answeredMs: number): void {
    const wayMs = answeredMs - askedMs;
    if (!(wayMs >= 0)) return;
    const aheadMs = askedMs + wayMs / 2 - serverMs;
    const samples = this.#samples;
    // A clock was set: what was seen before is no longer so.
    const best = shortest(samples);
    if (best !== null && Math.abs(aheadMs - best.aheadMs) > (wayMs + best.wayMs) / 2 + ROUNDING_MS) {
      samples.length = 0;
    }
    samples.push({ aheadMs, wayMs });
    if (samples.length > WINDOW) samples.shift();
    const { aheadMs: seenMs, wayMs: seenWayMs } = shortest(samples) as Sample;
    this.aheadMs = Math.abs(seenMs) <= seenWayMs / 2 + ROUNDING_MS ? 0 : seenMs;
  }

  /** The server is another one now. */
  reset(): void {
    this.#samples.length = 0;
    this.aheadMs = 0;
  }
}

function shortest(samples: readonly Sample[]): Sample | null {
  return samples.reduce<Sample | null>((a, b) => (a === null || b.wayMs < a.wayMs ? b : a), null);
}
