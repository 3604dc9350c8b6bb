/**
 * What became of each event, by its number. Pure: times are arguments, ms since the start of the run.
 *
 * An event is outstanding from the moment it was due until it is answered, refused (an error code) or lost
 * (no answer within the timeout). Its latency runs from the time it was DUE, so a generator that was late, or
 * that had to wait for a stalled server, is charged for it: no coordinated omission. An answer after the
 * timeout leaves the event lost and is counted as late. A second answer is a duplicate; there must be none.
 */

import { isGood, type Status, type StatusCounts, statusOf } from './status.ts';
import { type ClassFigures, histogram, type Percentiles, percentiles, record, Tally } from './tally.ts';

/** Nine bytes an event are kept for the whole run, so that duplicates are found however late they come. */
export const EVENTS_MAX = 20_000_000;

const STATE = { unsent: 0, outstanding: 1, answered: 2, refused: 3, lost: 4 } as const;

/** Is told of every event, warm-up included; times are ms since the start of the run. */
export interface Watch {
  /** It is about to be sent. */
  due(seq: number, dueMs: number, nowMs: number): void;
  /** Something was said about it, for whatever time. `entryMs`: the latency from its entry id, or -1. */
  settled(seq: number, status: Status, nowMs: number, entryMs: number): void;
}

export interface AccountOptions {
  /** No more events than this will be scheduled. */
  readonly eventsMax: number;
  /** Events due before this are sent and watched but not measured. */
  readonly warmupMs: number;
  readonly timeoutMs: number;
  /** Beyond this many unanswered events, new ones are refused here (`outstanding_max`) and not sent. */
  readonly outstandingMax: number;
  /** Classes of priority in the order in which events have them; empty or left out: there are none. */
  readonly pattern?: readonly number[];
  readonly watch?: Watch;
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
  readonly #all = new Tally();
  /** By priority; empty: events name none. */
  readonly #classes: ReadonlyMap<number, Tally>;
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
    const classes = [...new Set(options.pattern)].sort();
    this.#classes = new Map(classes.map((priority) => [priority, new Tally()]));
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
      if (measured) {
        this.#count('outstanding_max');
        this.#each(seq, (tally) => tally.settle('refused', 0));
      }
      return false;
    }
    this.#state[seq] = STATE.outstanding;
    this.outstanding++;
    this.#intervalSent++;
    if (measured) this.sent++;
    if (measured) this.#each(seq, (tally) => tally.sent++);
    this.#options.watch?.due(seq, dueMs, nowMs);
    return true;
  }

  /**
   * `code` is '' for a good answer, `degraded` for the ladder's, else why there is none. `entryMs`: the
   * latency from the entry id, or -1.
   */
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
    const status = statusOf(code);
    const good = isGood(status);
    this.#options.watch?.settled(seq, status, nowMs, entryMs);
    this.#state[seq] = good ? STATE.answered : STATE.refused;
    const measured = this.#measured(seq);
    if (state === STATE.lost) {
      if (measured) this.late++;
      return;
    }
    this.outstanding--;
    const latencyMs = nowMs - this.#dueMs[seq]!;
    if (good) record(this.#interval, latencyMs);
    if (!measured) return;
    this.#lastAnswerMs = nowMs;
    this.#each(seq, (tally) => tally.settle(status, latencyMs));
    if (!good) {
      this.#count(code);
      return;
    }
    this.answered++;
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
        if (this.#measured(seq)) {
          this.lost++;
          this.#each(seq, (tally) => tally.lose());
        }
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
    return this.#all.latency;
  }

  /** Of measured events; what was lost stays lost, however late an answer comes. */
  get statuses(): StatusCounts {
    return this.#all.statuses;
  }

  /** Empty when events name no priority. */
  get classes(): readonly ClassFigures[] {
    return [...this.#classes].map(([priority, { sent, statuses, latency }]) => ({
      ...{ priority, sent, statuses },
      latencyMs: latency,
    }));
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

  #each(seq: number, call: (tally: Tally) => void): void {
    call(this.#all);
    const { pattern = [] } = this.#options;
    const tally = this.#classes.get(pattern[seq % pattern.length]!);
    if (tally !== undefined) call(tally);
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
