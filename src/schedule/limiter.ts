/**
 * How many rows of a model may be in hand at a time: an adaptive limit, by the gradient of what its batches
 * take. While they take what is usual, the limit grows until it no longer matters; when they take longer,
 * because somebody else has the processor or the device is hot, more rows in hand would only wait longer, and
 * it shrinks. What batches take is normalised by their size (timing.ts), so that a growing batch is no
 * slowdown.
 *
 * Pure. After the gradient limiter of Netflix' concurrency-limits, with batches for requests.
 */
import type { BatchTimes } from './timing.ts';

/** Slower by this much is still usual. */
const TOLERANCE = 1.5;
const GRADIENT_MIN = 0.5;
/** Of what a batch says, so much is believed at once. */
const SMOOTHING = 0.2;

export class Limiter {
  readonly #min: number;
  readonly #max: number;
  #rows: number;

  /** `min`: enough that every worker has a full batch. `max`: all rows there are. */
  constructor(min: number, max: number) {
    this.#min = Math.min(min, max);
    this.#max = max;
    this.#rows = max;
  }

  get rows(): number {
    return this.#rows;
  }

  /** A batch came back; `inHand` rows were there then. */
  observe(times: BatchTimes, inHand: number): void {
    const gradient = Math.min(1, Math.max(GRADIENT_MIN, TOLERANCE * times.gradient));
    const wanted = this.#rows * gradient + Math.sqrt(this.#rows);
    // A limit that nobody comes near says nothing, and must not grow by that.
    if (wanted > this.#rows && inHand < this.#rows / 2 && this.#rows < this.#max) return;
    const next = this.#rows * (1 - SMOOTHING) + wanted * SMOOTHING;
    this.#rows = Math.min(this.#max, Math.max(this.#min, next));
  }
}
