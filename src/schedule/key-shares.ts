/**
 * Which keys take more than their part while there is not enough for all. Keys are hashed into buckets, so
 * that their number does not matter; what a bucket was given is forgotten with a half-life.
 */
const BUCKETS = 512;
const HALF_LIFE_MS = 1000;
const STEP_MS = 100;
/** A bucket with less than this part of all is not counted as one that wants a share. */
const ACTIVE_SHARE = 0.001;

export class KeyShares {
  readonly #given = new Float64Array(BUCKETS);
  #total = 0;
  #active = 0;
  #stepMs = Number.NEGATIVE_INFINITY;

  /** Takes note of an event that was admitted. */
  admitted(bucket: number): void {
    this.#given[bucket]! += 1;
    this.#total += 1;
  }

  /** Whether it has had more than an equal share of late. */
  isAbove(bucket: number, nowMs: number): boolean {
    this.#forget(nowMs);
    if (this.#active === 0) return false;
    return (this.#given[bucket] as number) > this.#total / this.#active;
  }

  #forget(nowMs: number): void {
    const passedMs = nowMs - this.#stepMs;
    if (passedMs < STEP_MS) return;
    this.#stepMs = nowMs;
    const factor = 0.5 ** (passedMs / HALF_LIFE_MS);
    this.#total *= factor;
    this.#active = 0;
    for (let i = 0; i < BUCKETS; i += 1) {
      const given = (this.#given[i] as number) * factor;
      this.#given[i] = given;
      if (given > this.#total * ACTIVE_SHARE && given > 0) this.#active += 1;
    }
  }
}

/** FNV-1a. */
export function bucketOf(bytes: Uint8Array, start: number, end: number): number {
  let hash = 0x811c9dc5;
  for (let i = start; i < end; i += 1) hash = Math.imul(hash ^ (bytes[i] as number), 0x01000193);
  return (hash >>> 0) % BUCKETS;
}
