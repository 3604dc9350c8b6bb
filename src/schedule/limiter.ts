/**
 * How many rows of a model may wait while more comes than can be served: an adaptive limit, by a gradient.
 * What a batch takes by itself is known (timing.ts), for its size and as things are now; so the time from
 * taking its oldest row to its answer, over that, says how long rows wait in this engine. While they wait for
 * more than a batch or two, the limit shrinks a little with each batch: more rows would wait, not run. When a
 * worker found nothing to do, there were too few, for events come in bursts, and it grows at once. So it
 * settles where workers are hardly ever idle, and no higher.
 *
 * Pure.
 */

/** Times what a batch takes by itself: it, one that runs before it, and part of one. */
const TIMES_WANTED = 3;
/** Of the limit, with each batch that had waited too long. */
const SHRINK = 0.005;
/** Idle at about one batch in a hundred, the two are in balance. */
const GROW = 0.4;

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

  /**
   * A batch came back: `times` as long after its oldest row was taken as it takes by itself. `starved`: there
   * is nothing for its worker to do now.
   */
  observe(times: number, starved: boolean): void {
    if (starved) this.#rows = Math.min(this.#max, this.#rows * (1 + GROW));
    else if (times > TIMES_WANTED) this.#rows = Math.max(this.#min, this.#rows * (1 - SHRINK));
  }
}
