/**
 * What became of each event, by its number. Pure: times are arguments, ms since the start of the run.
 *
 * An event is outstanding from the moment it was due until it is answered, refused (an error code) or lost
 * (no answer within the timeout). Its latency runs from the time it was DUE, so a generator that was late, or
 * that had to wait for a stalled server, is charged for it: no coordinated omission. An answer after the
 * timeout leaves the event lost and is counted as late. A second answer is a duplicate; there must be none.
 */

import type { Histogram } from 'hdr-histogram-js';
import { build } from 'hdr-histogram-js';

/** Nine bytes an event are kept for the whole run, so that duplicates are found however late they come. */
export const EVENTS_MAX = 20_000_000;

const STATE = { unsent: 0, outstanding: 1, answered: 2, refused: 3, lost: 4 } as const;

export interface Percentiles {
  readonly count: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** Microseconds, three digits, up to an hour. */
function histogram(): Histogram {
  return build({
    bitBucketSize: 32,
    lowestDiscernibleValue: 1,
    highestTrackableValue: 3_600_000_000,
    numberOfSignificantValueDigits: 3,
  }) as Histogram;
}

const record = (into: Histogram, ms: number) =>
  into.recordValue(Math.min(3_600_000_000, Math.max(0, Math.round(ms * 1000))));

function percentiles(of: Histogram): Percentiles {
  // An empty histogram would report its own bounds.
  if (of.totalCount === 0) return { count: 0, p50: 0, p90: 0, p99: 0, p999: 0, max: 0 };
  // It answers with the upper edge of a bucket, which may lie above the largest value in it.
  const at = (percentile: number) => Math.min(of.getValueAtPercentile(percentile), of.maxValue) / 1000;
  return {
    count: of.totalCount,
    p50: at(50),
    p90: at(90),
    p99: at(99),
    p999: at(99.9),
    max: of.maxValue / 1000,
  };
}

export interface AccountOptions {
  /** No more events than this will be scheduled. */
  readonly eventsMax: number;
  /** Events due before this are sent and watched but not measured. */
  readonly warmupMs: number;
  readonly timeoutMs: number;
  /** Beyond this many unanswered events, new ones are refused here (`outstanding_max`) and not sent. */
  readonly outstandingMax: number;
}

export interface Interval {
  readonly sent: number;
  readonly answered: number;
  readonly p50: number;
  readonly p99: number;
}

export class Account {
  readonly #options: AccountOptions;
  readonly #dueMs: Float64Array;
  readonly #state: Uint8Array;
  readonly #latency = histogram();
  readonly #entry = histogram();
  readonly #lateness = histogram();
  readonly #interval = histogram();
  /** Every event before this number is settled or lost. */
  #oldest = 0;
  #next = 0;
  #intervalSent = 0;
  #lastAnswerMs = 0;

  /** Of measured events. */
  sent = 0;
  answered = 0;
  lost = 0;
  late = 0;
  readonly errors = new Map<string, number>();
  /** Of all events, warm-up included. */
  duplicates = 0;
  outstanding = 0;
  /** Answers that carried no event of this run. */
  strangers = 0;

  constructor(options: AccountOptions) {
    this.#options = options;
    this.#dueMs = new Float64Array(options.eventsMax);
    this.#state = new Uint8Array(options.eventsMax);
  }

  /** Takes up the next event. False: too many are outstanding, or the run is too long; do not send it. */
  schedule(seq: number, dueMs: number, nowMs: number): boolean {
    if (seq !== this.#next) throw new Error(`event ${seq} scheduled after event ${this.#next - 1}`);
    if (seq >= this.#options.eventsMax) return false;
    this.#next++;
    this.#dueMs[seq] = dueMs;
    const measured = this.#measured(seq);
    if (measured) record(this.#lateness, nowMs - dueMs);
    if (this.outstanding >= this.#options.outstandingMax) {
      this.#state[seq] = STATE.refused;
      if (measured) this.#count('outstanding_max');
      return false;
    }
    this.#state[seq] = STATE.outstanding;
    this.outstanding++;
    this.#intervalSent++;
    if (measured) this.sent++;
    return true;
  }

  /** `code` is '' for a good answer, else why it is none. `entryMs`: the latency from the entry id, or -1. */
  settle(seq: number, nowMs: number, code: string, entryMs = -1): void {
    if (!(seq >= 0 && seq < this.#next)) {
      this.strangers++;
      return;
    }
    const state = this.#state[seq];
    if (state === STATE.answered || state === STATE.refused) {
      this.duplicates++;
      return;
    }
    this.#state[seq] = code === '' ? STATE.answered : STATE.refused;
    const measured = this.#measured(seq);
    if (state === STATE.lost) {
      if (measured) this.late++;
      return;
    }
    this.outstanding--;
    const latencyMs = nowMs - this.#dueMs[seq]!;
    if (code === '') record(this.#interval, latencyMs);
    if (!measured) return;
    this.#lastAnswerMs = nowMs;
    if (code !== '') {
      this.#count(code);
      return;
    }
    this.answered++;
    record(this.#latency, latencyMs);
    if (entryMs >= 0) record(this.#entry, entryMs);
  }

  /** Declares lost what has been outstanding for longer than the timeout. Call it now and then. */
  expire(nowMs: number): void {
    while (this.#oldest < this.#next) {
      const seq = this.#oldest;
      if (this.#state[seq] === STATE.outstanding) {
        if (nowMs - this.#dueMs[seq]! <= this.#options.timeoutMs) return;
        this.#state[seq] = STATE.lost;
        this.outstanding--;
        if (this.#measured(seq)) this.lost++;
      }
      this.#oldest++;
    }
  }

  /** What happened since the last call, for the progress line. */
  interval(): Interval {
    const { count, p50, p99 } = percentiles(this.#interval);
    const sent = this.#intervalSent;
    this.#interval.reset();
    this.#intervalSent = 0;
    return { sent, answered: count, p50, p99 };
  }

  get errorCount(): number {
    let total = 0;
    for (const count of this.errors.values()) total += count;
    return total;
  }

  /** From the time an event was due to its answer, ms. */
  get latency(): Percentiles {
    return percentiles(this.#latency);
  }

  /** From the entry id in the input stream (the server's clock, whole ms) to the answer, ms. */
  get entryLatency(): Percentiles {
    return percentiles(this.#entry);
  }

  /** From the time an event was due to its sending: the generator's own delay, ms. */
  get lateness(): Percentiles {
    return percentiles(this.#lateness);
  }

  /** When the last measured event was answered, ms since the start. */
  get lastAnswerMs(): number {
    return this.#lastAnswerMs;
  }

  #measured(seq: number): boolean {
    return this.#dueMs[seq]! >= this.#options.warmupMs;
  }

  #count(code: string): void {
    // A server may put anything into a code; a hundred kinds are enough to know.
    const known = this.errors.has(code) || this.errors.size < 100 ? code : 'other';
    this.errors.set(known, (this.errors.get(known) ?? 0) + 1);
  }
}
