/**
 * Every event of a run: when it was due, what became of it and when. What the figures of this suite are made
 * of. Pure: times are ms since the start of the run.
 */
import type { Watch } from '../../src/load/account.ts';
import { isGood, STATUSES, type Status } from '../../src/load/status.ts';
import { percentileOf } from '../statistics.ts';

const LOST = STATUSES.indexOf('lost');

export class EventTable implements Watch {
  readonly #dueMs: Float64Array;
  readonly #sentMs: Float64Array;
  /** NaN: nothing was said. */
  readonly #settledMs: Float64Array;
  readonly #entryMs: Float64Array;
  readonly #status: Uint8Array;
  #count = 0;

  constructor(eventsMax: number) {
    this.#dueMs = new Float64Array(eventsMax);
    this.#sentMs = new Float64Array(eventsMax);
    this.#settledMs = new Float64Array(eventsMax).fill(Number.NaN);
    this.#entryMs = new Float64Array(eventsMax).fill(-1);
    this.#status = new Uint8Array(eventsMax).fill(LOST);
  }

  /** Events sent. */
  get count(): number {
    return this.#count;
  }

  due(seq: number, dueMs: number, nowMs: number): void {
    if (seq !== this.#count) throw new Error(`event ${seq} sent after event ${this.#count - 1}`);
    this.#count++;
    this.#dueMs[seq] = dueMs;
    this.#sentMs[seq] = nowMs;
  }

  /** The first outcome is the outcome. */
  settled(seq: number, status: Status, nowMs: number, entryMs: number): void {
    if (!Number.isNaN(this.#settledMs[seq]!)) return;
    this.#settledMs[seq] = nowMs;
    this.#entryMs[seq] = entryMs;
    this.#status[seq] = STATUSES.indexOf(status);
  }

  dueMs(seq: number): number {
    return this.#dueMs[seq]!;
  }

  settledMs(seq: number): number {
    return this.#settledMs[seq]!;
  }

  status(seq: number): Status {
    return STATUSES[this.#status[seq]!]!;
  }

  /** From the time it was due until its outcome was seen; NaN: none was. */
  latencyMs(seq: number): number {
    return this.#settledMs[seq]! - this.#dueMs[seq]!;
  }

  /** How late the generator was. */
  lateMs(seq: number): number {
    return this.#sentMs[seq]! - this.#dueMs[seq]!;
  }

  /**
   * By the clock that deadlines go by: of a stream from the id of the event's entry to that of its outcome,
   * else from the time it was due to the answer.
   */
  agedMs(seq: number): number {
    const entryMs = this.#entryMs[seq]!;
    return entryMs >= 0 ? entryMs : this.latencyMs(seq);
  }

  /** Answered, and in time. */
  isTimely(seq: number, deadlineMs: number): boolean {
    return isGood(this.status(seq)) && this.agedMs(seq) <= deadlineMs;
  }
}

/** Events due from `fromMs` to before `toMs`; of one class, where `of` is given. */
export interface Window {
  readonly fromMs: number;
  readonly toMs: number;
  readonly of?: (seq: number) => boolean;
}

export interface Summary {
  readonly seconds: number;
  readonly sent: number;
  readonly counts: Readonly<Record<Status, number>>;
  /** Answered within the deadline. */
  readonly timely: number;
  readonly timelyPerS: number;
  /** Of the answered (ok, degraded), ms from the time each was due; NaN of none. */
  readonly p50: number;
  readonly p99: number;
  /** The same by the clock that deadlines go by. */
  readonly p99Aged: number;
  /** How late the generator itself was, contained in p50 and p99. */
  readonly p99Late: number;
}

export function summaryOf(events: EventTable, window: Window, deadlineMs: number): Summary {
  const counts = Object.fromEntries(STATUSES.map((status) => [status, 0])) as Record<Status, number>;
  const [latencies, aged, late]: [number[], number[], number[]] = [[], [], []];
  let [sent, timely] = [0, 0];
  for (const seq of within(events, window)) {
    sent++;
    const status = events.status(seq);
    counts[status]++;
    late.push(events.lateMs(seq));
    if (events.isTimely(seq, deadlineMs)) timely++;
    if (!isGood(status)) continue;
    latencies.push(events.latencyMs(seq));
    aged.push(events.agedMs(seq));
  }
  const at = (values: number[], percent: number) => percentileOf(values, percent);
  for (const values of [latencies, aged, late]) values.sort((a, b) => a - b);
  const seconds = (window.toMs - window.fromMs) / 1000;
  return {
    ...{ seconds, sent, counts, timely },
    timelyPerS: timely / seconds,
    p50: at(latencies, 50),
    p99: at(latencies, 99),
    p99Aged: at(aged, 99),
    p99Late: at(late, 99),
  };
}

export function* within(events: EventTable, { fromMs, toMs, of = () => true }: Window): Generator<number> {
  for (let seq = 0; seq < events.count; seq++) {
    const dueMs = events.dueMs(seq);
    if (dueMs >= toMs) return;
    if (dueMs >= fromMs && of(seq)) yield seq;
  }
}

/**
 * How long after `fromMs` the first event was due from which on all to the end are as `isNormal` wants them:
 * 0, where all are. Null: the last one was not, or there were none.
 */
export function normalAfterMs(
  events: EventTable,
  fromMs: number,
  isNormal: (seq: number) => boolean,
  toMs = Number.POSITIVE_INFINITY,
): number | null {
  let since: number | null = null;
  let isFirst = true;
  for (const seq of within(events, { fromMs, toMs })) {
    if (!isNormal(seq)) since = null;
    else if (since === null) since = isFirst ? 0 : events.dueMs(seq) - fromMs;
    isFirst = false;
  }
  return since;
}

export interface Slice {
  /** Its middle, seconds since the start. */
  readonly atS: number;
  readonly timelyPerS: number;
  readonly sentPerS: number;
  readonly p99: number;
}

/** The run in slices of `sliceMs`, by the time events were due. */
export function courseOf(events: EventTable, endMs: number, sliceMs: number, deadlineMs: number): Slice[] {
  return Array.from({ length: Math.floor(endMs / sliceMs) }, (_, i) => {
    const window = { fromMs: i * sliceMs, toMs: (i + 1) * sliceMs };
    const { timelyPerS, sent, seconds, p99 } = summaryOf(events, window, deadlineMs);
    return { atS: ((i + 0.5) * sliceMs) / 1000, timelyPerS, sentPerS: sent / seconds, p99 };
  });
}
