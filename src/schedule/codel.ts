/**
 * Tells a standing queue from a burst, as CoDel does: by the shortest wait within an interval. A burst is
 * worked off and leaves some event that hardly waited; where none is found for a whole interval, more comes
 * than can be served, and waiting longer helps nobody. Pure.
 */

const INTERVAL_MS = 100;
/** Nothing had to be refused for so long: it is over. */
const CALM_MS = 500;

export class Codel {
  #intervalStartMs = Number.NEGATIVE_INFINITY;
  #leastShare = Number.POSITIVE_INFINITY;
  #busyMs = Number.NEGATIVE_INFINITY;
  /** More comes than can be served in time. */
  shedding = false;

  /**
   * An event was read after it had waited in the stream for `share` of the time that it has; `shareMax` of it
   * is too much.
   */
  waited(share: number, shareMax: number, nowMs: number): void {
    if (nowMs - this.#intervalStartMs >= INTERVAL_MS) {
      // An interval without events is no sign of waiting.
      const isOver = nowMs - this.#intervalStartMs < 2 * INTERVAL_MS;
      if (isOver && this.#leastShare > shareMax && Number.isFinite(this.#leastShare)) {
        this.shedding = true;
        this.#busyMs = nowMs;
      }
      this.#intervalStartMs = nowMs;
      this.#leastShare = Number.POSITIVE_INFINITY;
    }
    this.#leastShare = Math.min(this.#leastShare, share);
  }

  /** An event had to be refused, or there was no room for it. */
  refused(nowMs: number): void {
    this.#busyMs = nowMs;
  }

  /** Looked at now and then: whether it is over. */
  check(nowMs: number): boolean {
    if (this.shedding && nowMs - this.#busyMs > CALM_MS) this.shedding = false;
    return this.shedding;
  }
}
