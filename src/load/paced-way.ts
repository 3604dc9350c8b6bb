/**
 * Another way, kept to the rate that the engines suggest, as a well-behaved producer would be: events that
 * are due wait for their turn. Their latency still runs from the time at which they were due.
 */
import { createPacer, type Pacer, PacerError } from '../client/pacing.ts';
import { hintsKey } from '../redis/keys.ts';
import { RedisWire } from '../redis/wire.ts';
import type { LoadOptions } from './options.ts';
import type { Settle, Way } from './way.ts';

/** What the pacer did in a run. */
export interface PacingReport {
  /** What the hints said last. */
  readonly hint: string;
  /** Events/s; null: no limit. */
  readonly ratePerS: number | null;
  /** Events that had to wait, and milliseconds: on average of these, and the longest. */
  readonly waited: number;
  readonly waitMsMean: number;
  readonly waitMsMax: number;
  /** Events that were given up: their turn did not come in time, or too many waited. */
  readonly givenUp: number;
}

export class PacedWay implements Way {
  readonly #inner: Way;
  readonly #options: LoadOptions;
  readonly #settle: Settle;
  #wire: RedisWire | null = null;
  readonly #pacer: Pacer;
  #flushing = false;

  constructor(inner: Way, options: LoadOptions, settle: Settle) {
    this.#inner = inner;
    this.#options = options;
    this.#settle = settle;
    const { outstandingMax, timeoutS } = options;
    this.#pacer = createPacer({
      read: () => this.#read(),
      waitersMax: outstandingMax,
      // The other half is for the answer.
      waitMsMax: timeoutS * 500,
    });
  }

  get notes(): readonly string[] {
    return this.#inner.notes;
  }

  async open(): Promise<void> {
    await this.#inner.open();
    this.#wire = await RedisWire.connect(this.#options.redisUrl);
  }

  send(seq: number): void {
    this.#pacer.turn().then(
      () => {
        this.#inner.send(seq);
        this.#flushSoon();
      },
      (error: unknown) => this.#settle(seq, error instanceof PacerError ? error.code : String(error)),
    );
  }

  /** What was due has been asked turns for; what got them goes out together. */
  flush(): void {}

  async close(): Promise<void> {
    this.#wire?.close();
    await this.#inner.close();
  }

  pacing(): PacingReport {
    const { hint, ratePerS, waits, waitedMs, waitedMsMax, timeouts, refusals } = this.#pacer.state;
    return {
      hint,
      ratePerS: ratePerS === Number.POSITIVE_INFINITY ? null : ratePerS,
      waited: waits,
      waitMsMean: waits === 0 ? 0 : waitedMs / waits,
      waitMsMax: waitedMsMax,
      givenUp: timeouts + refusals,
    };
  }

  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    setImmediate(() => {
      this.#flushing = false;
      this.#inner.flush();
    });
  }

  async #read(): Promise<Record<string, string>> {
    const reply = await this.#wire?.call(['HGETALL', hintsKey(this.#options.stream)]);
    const hash: Record<string, string> = {};
    if (!Array.isArray(reply)) return hash;
    for (let i = 0; i + 1 < reply.length; i += 2) hash[String(reply[i])] = String(reply[i + 1]);
    return hash;
  }
}
