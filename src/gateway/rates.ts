/** A token bucket on a clock that is handed in: `capacity` at once, `perSecond` in the long run. */
export class TokenBucket {
  readonly #capacity: number;
  readonly #perMs: number;
  #tokens: number;
  #atMs: number;

  constructor(capacity: number, perSecond: number, nowMs: number) {
    this.#capacity = capacity;
    this.#perMs = perSecond / 1000;
    this.#tokens = capacity;
    this.#atMs = nowMs;
  }

  /** Takes one token, or answers the milliseconds until there is one; 0 means taken. */
  take(nowMs: number): number {
    // A clock that is set back must not empty the bucket for the length of the step.
    const passedMs = Math.max(0, nowMs - this.#atMs);
    this.#tokens = Math.min(this.#capacity, this.#tokens + passedMs * this.#perMs);
    this.#atMs = nowMs;
    if (this.#tokens >= 1) {
      this.#tokens -= 1;
      return 0;
    }
    return Math.max(1, Math.ceil((1 - this.#tokens) / this.#perMs));
  }

  /** Nothing was taken for so long that a new bucket would behave the same. */
  full(nowMs: number): boolean {
    return this.#tokens + (nowMs - this.#atMs) * this.#perMs >= this.#capacity;
  }
}

/** One bucket per address, for new connections; addresses that went quiet are forgotten. */
export class AddressRates {
  readonly #perSecond: number;
  readonly #addressesMax: number;
  readonly #buckets = new Map<string, TokenBucket>();

  constructor(perSecond: number, addressesMax = 65_536) {
    this.#perSecond = perSecond;
    this.#addressesMax = addressesMax;
  }

  /** 0, or the milliseconds until this address may connect again. */
  take(address: string, nowMs: number): number {
    let bucket = this.#buckets.get(address);
    if (bucket === undefined) {
      if (this.#buckets.size >= this.#addressesMax) this.forget(nowMs);
      // Still full: more addresses at once than we can tell apart. Refusing all of them would be worse.
      if (this.#buckets.size >= this.#addressesMax) return 0;
      bucket = new TokenBucket(this.#perSecond, this.#perSecond, nowMs);
      this.#buckets.set(address, bucket);
    }
    return bucket.take(nowMs);
  }

  forget(nowMs: number): void {
    for (const [address, bucket] of this.#buckets) {
      if (bucket.full(nowMs)) this.#buckets.delete(address);
    }
  }

  get size(): number {
    return this.#buckets.size;
  }
}
