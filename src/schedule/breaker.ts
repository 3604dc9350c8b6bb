/**
 * The circuit breaker of one model version on one provider. It sees batches, never single events, and only
 * what they say about the model.
 *
 *   closed    -> open       too many of the window's batches failed, or were slow; or several in a row
 *   open      -> half open  its time is over, and a batch asks
 *   half open -> closed     as many probes as are asked for came back well
 *   half open -> open       one did not, or did not come back; for a longer time
 *
 * Probes go out one at a time at first, and then as many at once as have come back, plus one: a model that
 * hangs holds no more than one worker. Each change begins a new generation, and what comes back of an
 * earlier one is not looked at.
 *
 * Opossum does the statistics of the window and holds the state; what it decides by itself is that the share
 * of failures opens it, and that a trial closes it or opens it again. It is told of batches that are done,
 * as calls that return or throw at once. Not used of it, and why:
 * - Its timers, for the clock is an argument: the window is turned on by hand (`rotateBucketController`),
 *   and the listener that would start the timer of the open state is taken off. Half open is a new instance,
 *   made in that state, whose window is empty.
 * - Its call as the batch's own: a success from before it opened would close it, one that hangs would keep
 *   it half open, and every call that it refuses would count among the fires.
 * - Its semaphore (a refusal counts as a failure) and its timeout. Its percentiles, which cost milliseconds.
 * Slow batches stand in its column `timeouts`, and their share is judged here.
 */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import CircuitBreaker from 'opossum';
import type { BreakerSettings } from '../infer/protocol.ts';
import type { Random } from '../random.ts';

export const BREAKER_DEFAULTS: BreakerSettings = {
  windowMs: 5000,
  volume: 10,
  failureRate: 0.5,
  slowRate: 0.5,
  slowFactor: 10,
  slowMsMin: 50,
  consecutive: 5,
  openMsMin: 250,
  openMsMax: 2000,
  probes: 3,
};

export type BreakerState = 'closed' | 'open' | 'half_open';

export interface BreakerOptions {
  readonly settings: BreakerSettings;
  /** A probe that takes longer has failed. */
  readonly probeMsMax: number;
  /** Milliseconds of a clock that only goes forward. */
  readonly now: () => number;
  readonly random: Random;
  /** `why`: in words, '' where the state says it all. */
  readonly onChange?: (state: BreakerState, why: string) => void;
}

/** What a batch said about the model. */
export interface Outcome {
  readonly failed: boolean;
  readonly slow: boolean;
}

/** Opossum adds all of them up for each failure. */
const BUCKETS = 5;
const FAULT = new Error('a batch failed');
/** Settles at once, where a promise would in a later microtask. */
const WELL = {
  // biome-ignore lint/suspicious/noThenProperty: opossum takes whatever has one for a promise.
  then(settled: () => void) {
    settled();
    return { catch() {} };
  },
} as unknown as Promise<void>;
const ignore = () => {};

/** The leave to ask the model, for one batch. Either `done` or `forget` is called, once. */
export class Permit {
  readonly generation: number;
  readonly sinceMs: number;
  readonly #breaker: Breaker;
  #settled = false;

  constructor(breaker: Breaker, generation: number, sinceMs: number) {
    this.#breaker = breaker;
    this.generation = generation;
    this.sinceMs = sinceMs;
  }

  get settled(): boolean {
    return this.#settled;
  }

  done(outcome: Outcome): void {
    this.#settle(outcome);
  }

  /** The batch said nothing about the model. */
  forget(): void {
    this.#settle(null);
  }

  #settle(outcome: Outcome | null): void {
    assert(!this.#settled, 'a permit is settled once');
    this.#settled = true;
    this.#breaker.settle(this, outcome);
  }
}

export class Breaker {
  readonly #options: BreakerOptions;
  readonly #bucketMs: number;
  #circuit: CircuitBreaker<[boolean], void>;
  #turns = new EventEmitter();
  #turnedMs: number;
  #generation = 0;
  /** Failed or slow ones since the last good one. */
  #bad = 0;
  #openUntilMs = 0;
  /** Times that it opened since it was well for long. */
  #openings = 0;
  #closedMs: number;
  /** Half open: permits that are out, and probes that came back well. */
  readonly #out: Permit[] = [];
  #good = 0;

  constructor(options: BreakerOptions) {
    this.#options = options;
    this.#bucketMs = options.settings.windowMs / BUCKETS;
    this.#turnedMs = options.now();
    this.#closedMs = this.#turnedMs;
    this.#circuit = this.#build(false);
  }

  get state(): BreakerState {
    if (this.#circuit.opened) return 'open';
    return this.#circuit.halfOpen ? 'half_open' : 'closed';
  }

  /** Until it lets a batch through again; 0 when it does. */
  get openForMs(): number {
    return this.#circuit.opened ? Math.max(0, this.#openUntilMs - this.#options.now()) : 0;
  }

  /** Not closed, or about to be no longer: the last two batches went wrong. */
  get isInDoubt(): boolean {
    return !this.#circuit.closed || this.#bad > 1;
  }

  /** Null: the model is not to be asked now. */
  request(): Permit | null {
    const nowMs = this.#options.now();
    const circuit = this.#circuit;
    if (circuit.closed) return new Permit(this, this.#generation, nowMs);
    if (circuit.opened) {
      if (nowMs < this.#openUntilMs) return null;
      this.#halfOpen();
    }
    return this.#probe(nowMs);
  }

  /** Called by the permit. */
  settle(permit: Permit, outcome: Outcome | null): void {
    if (permit.generation !== this.#generation) return;
    if (this.#circuit.halfOpen) this.#probed(permit, outcome);
    else if (outcome !== null) this.#count(outcome);
  }

  #probe(nowMs: number): Permit | null {
    const { probes } = this.#options.settings;
    const [oldest] = this.#out;
    if (oldest !== undefined && nowMs - oldest.sinceMs > this.#options.probeMsMax) {
      this.#tell(true);
      return null;
    }
    const most = Math.min(this.#good + 1, probes - this.#good);
    if (this.#out.length >= most) return null;
    const permit = new Permit(this, this.#generation, nowMs);
    this.#out.push(permit);
    return permit;
  }

  #probed(permit: Permit, outcome: Outcome | null): void {
    const at = this.#out.indexOf(permit);
    assert(at >= 0);
    this.#out.splice(at, 1);
    if (outcome === null) return;
    if (outcome.failed || outcome.slow) this.#tell(true);
    else {
      this.#good += 1;
      if (this.#good === this.#options.settings.probes) this.#tell(false);
    }
  }

  #count({ failed, slow }: Outcome): void {
    const { consecutive, volume, slowRate } = this.#options.settings;
    this.#turn();
    this.#bad = failed || slow ? this.#bad + 1 : 0;
    this.#tell(failed);
    const circuit = this.#circuit;
    if (circuit.opened) return;
    if (this.#bad >= consecutive) {
      circuit.open();
      return;
    }
    if (!slow || failed) return;
    const { window } = circuit.status;
    window[0]!.timeouts += 1;
    let [fires, timeouts] = [0, 0];
    for (const bucket of window) {
      fires += bucket.fires;
      timeouts += bucket.timeouts;
    }
    if (fires >= volume && timeouts > slowRate * fires) circuit.open();
  }

  /** A call that has returned, or thrown. Opossum may change its state before this returns. */
  #tell(failed: boolean): void {
    this.#circuit.fire(failed).catch(ignore);
  }

  /** Drops from the window what is too old for it. */
  #turn(): void {
    const due = Math.floor((this.#options.now() - this.#turnedMs) / this.#bucketMs);
    if (due <= 0) return;
    this.#turnedMs += due * this.#bucketMs;
    for (let i = Math.min(due, BUCKETS); i > 0; i -= 1) this.#turns.emit('rotate');
  }

  #build(halfOpen: boolean): CircuitBreaker<[boolean], void> {
    const { windowMs, volume, failureRate } = this.#options.settings;
    this.#turns = new EventEmitter();
    const options = {
      timeout: false,
      errorThresholdPercentage: failureRate * 100,
      volumeThreshold: volume,
      rollingCountTimeout: windowMs,
      rollingCountBuckets: BUCKETS,
      rollingPercentilesEnabled: false,
      enableSnapshots: false,
      rotateBucketController: this.#turns,
      // Which its types leave out.
      ...(halfOpen ? { state: { closed: false, halfOpen: true } } : {}),
    } as const;
    const circuit = new CircuitBreaker((failed: boolean): Promise<void> => {
      if (failed) throw FAULT;
      return WELL;
    }, options);
    // Its own start the timer that would half open it.
    circuit.removeAllListeners('open');
    circuit.on('open', () => this.#opened());
    circuit.on('close', () => this.#closed());
    return circuit;
  }

  #opened(): void {
    const { settings, now, random } = this.#options;
    const { openMsMin, openMsMax } = settings;
    const nowMs = now();
    const why = this.#reason();
    if (this.#closedMs >= 0 && nowMs - this.#closedMs >= openMsMax) this.#openings = 0;
    this.#openings += 1;
    const most = Math.min(openMsMax, openMsMin * 2 ** this.#openings);
    this.#openUntilMs = nowMs + openMsMin + random() * (most - openMsMin);
    this.#closedMs = -1;
    this.#change(why);
  }

  #halfOpen(): void {
    this.#good = 0;
    this.#turnedMs = this.#options.now();
    this.#circuit = this.#build(true);
    this.#change('');
  }

  #closed(): void {
    this.#closedMs = this.#options.now();
    this.#turnedMs = this.#closedMs;
    this.#change('');
  }

  #change(why: string): void {
    this.#generation += 1;
    this.#bad = 0;
    this.#out.length = 0;
    this.#options.onChange?.(this.state, why);
  }

  /** Why it opens now. */
  #reason(): string {
    if (this.#closedMs < 0) return 'a trial batch failed, was slow or did not come back';
    const { consecutive, windowMs } = this.#options.settings;
    if (this.#bad >= consecutive) return `${this.#bad} batches in a row failed or were slow`;
    const { fires, failures, timeouts } = this.#circuit.stats;
    return `of ${fires} batches within ${windowMs} ms ${failures} failed and ${timeouts} were slow`;
  }
}
