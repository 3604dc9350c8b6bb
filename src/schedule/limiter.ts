/**
 * How many rows of a model may wait while more comes than can be served: an adaptive limit, by the gradient of
 * how long rows are in hand. What a batch takes when nothing is ahead of it is known (timing.ts), for its size
 * and as things are now; so the time from taking its oldest row to its answer, over that, says how many
 * batches were ahead of it. Too many, and the limit shrinks: more rows in hand would wait, not run. Too few
 * to keep the workers busy, and it grows.
 *
 * Pure. After the gradient limiter of Netflix' concurrency-limits, with batches for requests.
 */

/** Times what a batch takes by itself: it, one that runs before it, and part of one. */
const TIMES_WANTED = 3;
const GRADIENT_MIN = 0.5;
/** Of what a batch says, so much is believed at once. */
const SMOOTHING = 0.2;

export class Limiter {
  readonly #min: number;
  readonly #max: number;
  #rows: number;

  /** `min`: enough that every worker has a batch and the next one. `max`: all rows there are. */
  constructor(min: number, max: number) {
    this.#min = Math.min(min, max);
    this.#max = max;
    this.#rows = max;
  }

  get rows(): number {
    return this.#rows;
  }

  /** A batch came back: `times` as long after its oldest row was taken as it takes by itself. */
  observe(times: number): void {
    const gradient = Math.min(1, Math.max(GRADIENT_MIN, TIMES_WANTED / Math.max(1, times)));
    const wanted = this.#rows * gradient + Math.sqrt(this.#rows);
    const next = this.#rows + (wanted - this.#rows) * SMOOTHING;
    this.#rows = Math.min(this.#max, Math.max(this.#min, next));
  }
}
