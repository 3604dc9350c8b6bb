// The schedule stage under a load of any shape, on simulated time: intake, batcher, admission and runner are
// the engine's, wired as in src/engine.ts, and entries pass the real parser. Simulated are a stream (which
// hands out what it is asked for, a round trip later), workers (whose batches take a fixed time and one for
// each row) and Redis' confirmations (which come a little later).
import { followWallClock, nowMs } from '../../src/clock.ts';
import type { InferResult, InferTask } from '../../src/infer/protocol.ts';
import { Admission } from '../../src/schedule/admission.ts';
import { type Batch, resultOf } from '../../src/schedule/batch.ts';
import { Batcher, type Lane } from '../../src/schedule/batcher.ts';
import { Intake, type IntakeStream, type ModelLane } from '../../src/schedule/intake.ts';
import { BatchRunner } from '../../src/schedule/runner.ts';
import { RESULT, ROW, ROW_COLUMNS, STATUS } from '../../src/schedule/slab.ts';
import { addModelLane, addRejectLane, INTAKE_LIMITS, streamOf, withEntry } from '../support/batches.ts';
import { Random } from '../support/random.ts';
import { Clock } from './clock.ts';

/** Who sends to a stream: so many events a second at a time, and what each of them says. */
export interface Source {
  readonly perSecond: (ms: number) => number;
  readonly key?: (random: Random) => string;
  readonly priority?: (random: Random) => number;
}

export interface Shape {
  readonly seed: number;
  readonly sources: readonly Source[];
  /** Arrivals end then; what is left is worked off. */
  readonly ms: number;
  /** 0: none. */
  readonly deadlineMs: number;
  /** How much slower the workers are at a time. Default: 1. */
  readonly slower?: (ms: number) => number;
  readonly latestOnly?: boolean;
}

/** An event and what became of it. */
export interface Sent {
  readonly source: number;
  readonly key: string;
  readonly priority: number;
  readonly atMs: number;
  status: string;
  /** When that was confirmed. */
  doneMs: number;
  /** How often it was settled, and how often it was put to a worker. */
  settled: number;
  ran: number;
}

export const WORKERS = 2;
export const ROWS_MAX = 64;
const BATCH_MS = 4;
const ROW_MS = 0.25;
/** As the engine has them. */
const BATCHES = WORKERS + 8;
const ROUND_TRIP_MS = 0.3;
const SETTLE_MS = 2;
const READ_COUNT_MAX = 512;
const BLOCK_MS = 1000;
/** What is left when nothing comes any more has to be worked off within this. */
const DRAIN_MS_MAX = 60_000;

/** Events a second with full batches. */
export const CAPACITY = (WORKERS * ROWS_MAX * 1000) / batchMs(ROWS_MAX);

export function batchMs(rows: number): number {
  return BATCH_MS + ROW_MS * rows;
}

/** What the engine measured when it started. */
const PROFILE = [1, 2, 4, 8, 16, 32, 64].map((rows) => {
  return { rows, p50Ms: batchMs(rows), p99Ms: batchMs(rows) * 1.2 };
});

interface Parts {
  readonly batcher: Batcher<Batch>;
  readonly intake: Intake;
  readonly events: Map<string, Sent>;
}

/** A stream and the reader of it, as src/ingest/reader.ts asks. */
class SimReader {
  readonly #parts: Parts;
  readonly #stream: IntakeStream;
  readonly #unread: (readonly [id: string, fields: string[]])[] = [];
  #first = 0;
  #held: (readonly [id: string, fields: string[]])[] = [];
  #asked = 0;
  #unblock: NodeJS.Timeout | null = null;

  constructor(parts: Parts, stream: IntakeStream) {
    this.#parts = parts;
    this.#stream = stream;
  }

  get unread(): number {
    return this.#unread.length - this.#first + this.#held.length;
  }

  append(id: string, fields: string[]): void {
    this.#unread.push([id, fields]);
    if (this.#unblock !== null) this.#answer();
  }

  kick(): void {
    if (this.#held.length > 0) this.#take();
    else this.read();
  }

  read(): void {
    if (this.#asked > 0 || this.#held.length > 0) return;
    this.#asked = Math.min(READ_COUNT_MAX, this.#parts.intake.demand(this.#stream));
    if (this.#asked <= 0) return;
    if (this.#first < this.#unread.length) this.#answer();
    else this.#unblock = setTimeout(() => this.#answer(), BLOCK_MS);
  }

  /** What is there now is on its way. */
  #answer(): void {
    if (this.#unblock !== null) clearTimeout(this.#unblock);
    this.#unblock = null;
    const end = Math.min(this.#first + this.#asked, this.#unread.length);
    const reply = this.#unread.slice(this.#first, end);
    this.#first = end;
    setTimeout(() => {
      this.#held = reply;
      this.#take();
    }, ROUND_TRIP_MS);
  }

  #take(): void {
    const { intake, batcher } = this.#parts;
    intake.received(nowMs());
    let taken = 0;
    for (const [id, fields] of this.#held) {
      if (!withEntry(id, fields, (buffer, entry) => intake.take(this.#stream, buffer, entry, 1))) break;
      taken += 1;
    }
    this.#held = this.#held.slice(taken);
    batcher.flush();
    if (this.#held.length > 0) return;
    this.#asked = 0;
    setImmediate(() => this.read());
  }
}

export class OverloadWorld {
  readonly clock = new Clock();
  readonly events: Sent[] = [];
  readonly #byId = new Map<string, Sent>();
  readonly #shape: Shape;
  readonly #random: Random;
  readonly intake: Intake;
  readonly admission: Admission<Batch>;
  readonly lane: ModelLane;
  readonly #readers: readonly SimReader[];
  readonly #batches: ReadonlyMap<number, Batch>;
  #running = 0;

  constructor(shape: Shape) {
    this.#shape = shape;
    this.#random = new Random(shape.seed);
    const batcher: Batcher<Batch> = new Batcher<Batch>(
      WORKERS,
      (lane, batch) => runner.run(lane, batch),
      (lane, rows) => this.admission.costMs(lane, rows),
    );
    this.admission = new Admission<Batch>({ batcher, workers: () => WORKERS });
    const { deadlineMs, latestOnly = false } = shape;
    const sizes = { rowsMax: ROWS_MAX, batches: BATCHES, arenaBytes: 8192 };
    this.lane = addModelLane(batcher, { name: 'm', ...sizes, deadlineMs, latestOnly });
    this.#batches = new Map(this.lane.all.map((batch) => [batch.slab, batch]));
    this.admission.addLane(this.lane, PROFILE);
    const rejects = addRejectLane(batcher, 128, 3);
    const { admission, lane } = this;
    this.intake = new Intake({ ...INTAKE_LIMITS, batcher, admission, lanes: [lane], rejects });
    const { intake } = this;
    const runner: BatchRunner = new BatchRunner({
      batcher,
      streamNames: shape.sources.map((_, i) => `s${i}`),
      infer: (task) => this.#infer(task),
      settle: (batch) => this.#settle(batch, () => runner.settled(batch)),
      admission,
      onFreeRows: (of, rows, ms) => {
        intake.released(of, rows, ms);
        const isLate = (late: Lane<Batch>, batch: Batch) => admission.isLate(late, batch, nowMs());
        batcher.isLate = intake.shedding ? isLate : null;
        for (const reader of this.#readers) reader.kick();
      },
    });
    for (const one of [lane, rejects]) runner.addLane(one);
    const parts = { batcher, intake, events: this.#byId };
    this.#readers = shape.sources.map((_, i) => new SimReader(parts, streamOf(lane, i)));
  }

  /** Runs the load, and then until everything is settled; false when that does not come about. */
  async run(): Promise<boolean> {
    const restore = this.clock.install(() => this.#random.next());
    followWallClock();
    try {
      for (const reader of this.#readers) reader.read();
      const tick = () => {
        this.#arrive();
        if (this.clock.nowMs < this.#shape.ms) setTimeout(tick, 1);
      };
      tick();
      const isDone = () => this.clock.nowMs > this.#shape.ms && this.#left() === 0;
      return await this.clock.run(this.#shape.ms + DRAIN_MS_MAX, isDone);
    } finally {
      restore();
      followWallClock();
    }
  }

  #left(): number {
    return this.intake.rowsInFlight + this.#readers.reduce((sum, { unread }) => sum + unread, 0);
  }

  /** Of this millisecond. */
  #arrive(): void {
    const { clock } = this;
    for (const [source, { perSecond, key, priority }] of this.#shape.sources.entries()) {
      const count = poisson(this.#random, perSecond(clock.nowMs) / 1000);
      for (let i = 0; i < count; i += 1) {
        const id = `${Math.floor(clock.wallMs)}-${this.events.length}`;
        const event: Sent = {
          source,
          key: key?.(this.#random) ?? `k${this.#random.int(1, 2000)}`,
          priority: priority?.(this.#random) ?? 1,
          atMs: clock.nowMs,
          status: '',
          doneMs: Number.NaN,
          settled: 0,
          ran: 0,
        };
        this.events.push(event);
        this.#byId.set(id, event);
        const fields = ['key', event.key, 'data', '1', 'priority', String(event.priority)];
        this.#readers[source]?.append(id, fields);
      }
    }
  }

  async #infer({ slab, first, rows }: InferTask): Promise<InferResult> {
    this.#running += 1;
    if (this.#running > WORKERS) throw new Error('more batches than workers');
    const ms = batchMs(rows) * (this.#shape.slower?.(this.clock.nowMs) ?? 1);
    // Batches of one size differ a little.
    await new Promise((resolve) => setTimeout(resolve, ms * (0.95 + 0.1 * this.#random.next())));
    this.#running -= 1;
    const batch = this.#batches.get(slab) as Batch;
    for (let row = first; row < first + rows; row += 1) {
      const at = row * ROW_COLUMNS;
      batch.table[at + ROW.result] = RESULT.ok;
      batch.table[at + ROW.outLength] = 0;
      this.#eventOf(batch, row).ran += 1;
    }
    return { inferUs: ms * 1000, runUs: ms * 1000, spill: null };
  }

  #settle(batch: Batch, settled: () => void): void {
    setTimeout(() => {
      for (let row = 0; row < batch.rows; row += 1) {
        const event = this.#eventOf(batch, row);
        event.status = STATUS[resultOf(batch, row)] as string;
        event.doneMs = this.clock.nowMs;
        event.settled += 1;
      }
      settled();
    }, SETTLE_MS);
  }

  #eventOf(batch: Batch, row: number): Sent {
    return this.#byId.get(batch.id(row)) as Sent;
  }
}

/** Knuth's, in parts that do not underflow. */
function poisson(random: Random, mean: number): number {
  const limit = Math.exp(-mean);
  let count = 0;
  for (let product = random.next(); product > limit; product *= random.next()) count += 1;
  return count;
}

export interface Figures {
  readonly offered: number;
  readonly answered: number;
  /** Answered before the deadline, by a second of the time in which they arrived. */
  readonly goodput: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Part of the offered that was not answered in time. */
  readonly lost: number;
  readonly byStatus: Readonly<Record<string, number>>;
}

/** Of the events that arrived from `fromMs` to `toMs`; goodput by when they were answered. */
export function figuresOf(
  events: readonly Sent[],
  deadlineMs: number,
  fromMs: number,
  toMs: number,
  wanted: (event: Sent) => boolean = () => true,
): Figures {
  const of = events.filter(wanted);
  const isGood = ({ status, doneMs, atMs }: Sent) => status === 'ok' && doneMs - atMs <= deadlineMs;
  const offered = of.filter(({ atMs }) => atMs >= fromMs && atMs < toMs);
  const answered = offered.filter(({ status }) => status === 'ok');
  const waits = answered.map(({ atMs, doneMs }) => doneMs - atMs).sort((a, b) => a - b);
  const good = of.filter((e) => isGood(e) && e.doneMs >= fromMs && e.doneMs < toMs).length;
  const byStatus: Record<string, number> = {};
  for (const { status } of offered) byStatus[status] = (byStatus[status] ?? 0) + 1;
  return {
    offered: offered.length,
    answered: answered.length,
    goodput: (good * 1000) / (toMs - fromMs),
    p50Ms: waits[Math.floor(waits.length * 0.5)] ?? Number.NaN,
    p99Ms: waits[Math.floor(waits.length * 0.99)] ?? Number.NaN,
    lost: 1 - offered.filter(isGood).length / offered.length,
    byStatus,
  };
}
