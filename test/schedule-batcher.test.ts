// The batcher on a simulated clock: thousands of random schedules, every rule checked after every step.
import { expect, test } from 'vitest';
import { Batcher, type Lane, type Schedulable } from '../src/schedule/batcher.ts';
import { forSeeds, type Random } from './support/random.ts';

interface SimBatch extends Schedulable {
  readonly n: number;
  where: 'home' | 'running' | 'settling';
  /** Numbers of the rows inside. */
  content: number[];
  /** Rows that run alone. */
  alone: boolean;
}

function fail(message: string): never {
  throw new Error(message);
}

class Simulation {
  readonly random: Random;
  readonly workers: number;
  readonly batcher: Batcher<SimBatch>;
  readonly lanes: Lane<SimBatch>[] = [];
  readonly batches: SimBatch[] = [];
  readonly #laneOf = new Map<SimBatch, Lane<SimBatch>>();
  /** What happens later: a worker's answer, a settlement. */
  readonly #later: { atMs: number; run: () => void }[] = [];
  nowMs = 0;
  busy = 0;
  rowsIn = 0;
  readonly settledRows: number[] = [];
  readonly lastOfLane = new Map<Lane<SimBatch>, number>();

  constructor(random: Random) {
    this.random = random;
    this.workers = random.int(1, 4);
    this.batcher = new Batcher<SimBatch>(this.workers, (lane, batch) => this.#dispatched(lane, batch));
    for (let i = random.int(1, 3); i >= 0; i -= 1) this.#addLane(`lane ${i}`, i > 0);
  }

  #addLane(name: string, needsWorker: boolean): void {
    const rowsMax = this.random.int(1, 6);
    const batches: SimBatch[] = Array.from({ length: this.random.int(2, this.workers + 4) }, (_, i) => ({
      n: this.batches.length + i,
      rowsMax,
      rows: 0,
      deadlineMs: Number.POSITIVE_INFINITY,
      where: 'home',
      content: [],
      alone: false,
    }));
    this.batches.push(...batches);
    const lane = this.batcher.addLane(name, batches, needsWorker);
    for (const batch of batches) this.#laneOf.set(batch, lane);
    this.lanes.push(lane);
  }

  /** Puts rows in as intake does; stops where there is no room. */
  arrive(): void {
    const lane = this.random.pick(this.lanes);
    const direct = lane.needsWorker && this.random.chance(0.3);
    const room = this.batcher.freeRows(lane);
    const rows = this.random.int(1, 20);
    let taken = 0;
    let closedEarly = false;
    for (; taken < rows; taken += 1) {
      let batch = this.batcher.open(lane, direct);
      if (batch !== null && batch.rows > 0 && this.random.chance(0.05)) {
        this.batcher.close(lane);
        closedEarly = true;
        batch = this.batcher.open(lane, direct);
      }
      if (batch === null) break;
      batch.deadlineMs = Math.min(batch.deadlineMs, this.nowMs + this.random.int(1, 200));
      batch.content.push(this.rowsIn);
      this.rowsIn += 1;
      batch.rows += 1;
      this.batcher.added(lane);
    }
    if (!direct && !closedEarly && taken !== Math.min(rows, room))
      fail(`room for ${room} of ${rows} rows, took ${taken}`);
    if (direct && taken === 0 && lane.free.length > 0) fail('a request found no room beside a free batch');
    this.flush();
  }

  /** Rows that have to run alone: they may overtake the others. */
  arriveAlone(): void {
    const lane = this.random.pick(this.lanes);
    const spare = this.batcher.freeAlone(lane);
    if (lane.needsWorker && spare !== Math.max(0, lane.free.length - 1)) fail('the last batch is not kept');
    const batch = this.batcher.openSuspects(lane);
    if ((batch === null) !== (spare === 0)) fail('a batch was promised, and there was none');
    if (batch === null) return;
    batch.alone = true;
    for (let rows = this.random.int(1, batch.rowsMax); rows > 0; rows -= 1) {
      batch.content.push(this.rowsIn);
      batch.rows += 1;
      this.rowsIn += 1;
    }
    batch.deadlineMs = this.nowMs + this.random.int(1, 200);
    this.batcher.closeSuspects(lane);
    this.flush();
  }

  flush(): void {
    this.batcher.flush();
    this.check();
  }

  #dispatched(lane: Lane<SimBatch>, batch: SimBatch): void {
    if (batch.where !== 'home') fail(`batch ${batch.n} was dispatched while ${batch.where}`);
    if (batch.rows === 0) fail('an empty batch was dispatched');
    if (this.#laneOf.get(batch) !== lane) fail('a batch was dispatched for another lane');
    batch.where = 'running';
    for (const row of batch.alone ? [] : batch.content) {
      if (row <= (this.lastOfLane.get(lane) ?? -1)) fail('rows of a lane ran out of order');
      this.lastOfLane.set(lane, row);
    }
    if (!lane.needsWorker) {
      this.#settle(lane, batch);
      return;
    }
    this.busy += 1;
    if (this.busy > this.workers) fail('more batches run than there are workers');
    for (const other of this.lanes) {
      const next = other.ready[0] ?? other.open;
      if (other === lane || !other.needsWorker || next === null || next === undefined || next.rows === 0)
        continue;
      if (next.deadlineMs < batch.deadlineMs) fail('an earlier deadline of another lane was passed over');
    }
    this.#after(this.random.int(1, 30), () => {
      this.busy -= 1;
      this.batcher.workerFreed();
      this.#settle(lane, batch);
      this.flush();
    });
  }

  #settle(lane: Lane<SimBatch>, batch: SimBatch): void {
    batch.where = 'settling';
    this.#after(this.random.int(0, 20), () => {
      this.settledRows.push(...batch.content);
      batch.content = [];
      batch.alone = false;
      batch.rows = 0;
      batch.deadlineMs = Number.POSITIVE_INFINITY;
      batch.where = 'home';
      this.batcher.release(lane, batch);
      this.check();
    });
  }

  #after(ms: number, run: () => void): void {
    this.#later.push({ atMs: this.nowMs + ms, run });
    this.#later.sort((a, b) => a.atMs - b.atMs);
  }

  /** Moves the clock to the next thing that happens; false when nothing is left. */
  step(): boolean {
    const next = this.#later.shift();
    if (next === undefined) return false;
    this.nowMs = next.atMs;
    next.run();
    return true;
  }

  check(): void {
    for (const lane of this.lanes) {
      const waiting = lane.ready.length > 0 || (lane.open !== null && lane.open.rows > 0);
      if (waiting && (this.busy < this.workers || !lane.needsWorker)) fail('rows wait beside a free worker');
      const home = [...lane.free, ...lane.ready, ...(lane.open === null ? [] : [lane.open])];
      if (new Set(home).size !== home.length) fail('a batch is in two states');
      const mine = this.batches.filter((batch) => this.#laneOf.get(batch) === lane);
      for (const batch of mine)
        if (home.includes(batch) !== (batch.where === 'home')) fail(`batch ${batch.n} is lost`);
      for (const batch of lane.free) if (batch.rows !== 0) fail('a free batch has rows');
      for (const batch of lane.ready) if (batch.rows === 0) fail('a ready batch has no rows');
      if (lane.open !== null && lane.open.rows >= lane.open.rowsMax) fail('a full batch is still open');
    }
  }
}

test('5,000 random schedules: work-conserving, earliest deadline first, nothing lost, nothing twice', () => {
  forSeeds(5000, (random) => {
    const simulation = new Simulation(random);
    for (let i = random.int(5, 60); i > 0; i -= 1) {
      if (random.chance(0.4)) simulation.arrive();
      else if (random.chance(0.2)) simulation.arriveAlone();
      else simulation.step();
    }
    while (simulation.step());
    const { settledRows, rowsIn, lanes, batches } = simulation;
    if (new Set(settledRows).size !== rowsIn || settledRows.length !== rowsIn)
      fail('a row was lost or came twice');
    const free = lanes.reduce((sum, lane) => sum + lane.free.length, 0);
    if (free !== batches.length) fail(`${free} of ${batches.length} batches came back`);
  });
});

const batch = (rowsMax: number): Schedulable => ({ rowsMax, rows: 0, deadlineMs: Number.POSITIVE_INFINITY });

test('a backlog of a stream leaves the last batch to requests', () => {
  const batcher = new Batcher<Schedulable>(0, () => {});
  const lane = batcher.addLane('m', [batch(2), batch(2), batch(2)]);
  expect(batcher.freeRows(lane)).toBe(4);
  for (let i = 0; i < 4; i += 1) {
    const open = batcher.open(lane, false) as Schedulable;
    open.rows += 1;
    batcher.added(lane);
  }
  expect(batcher.freeRows(lane)).toBe(0);
  expect(batcher.open(lane, false)).toBeNull();
  expect(batcher.open(lane, true)).not.toBeNull();
});

test('the last batch, once open for a request, takes no rows of a stream while there is no other', () => {
  const batches = [0, 1].map(() => ({ rows: 0, rowsMax: 4, deadlineMs: 1 }));
  const running: Schedulable[] = [];
  const batcher = new Batcher<Schedulable>(0, (_lane, batch) => running.push(batch));
  const lane = batcher.addLane('m', batches);
  const full = batcher.open(lane, false)!;
  full.rows = 4;
  batcher.added(lane);
  expect(batcher.open(lane, false)).toBeNull();
  const last = batcher.open(lane, true)!;
  last.rows = 1;
  batcher.added(lane);
  expect([batcher.open(lane, false), batcher.freeRows(lane)]).toEqual([null, 0]);
  expect(batcher.open(lane, true)).toBe(last);
  // The other batch comes back: now it is the one that is kept.
  batcher.workerFreed();
  batcher.flush();
  expect(running).toEqual([full]);
  full.rows = 0;
  batcher.release(lane, full);
  expect(batcher.freeRows(lane)).toBe(3);
  expect(batcher.open(lane, false)).toBe(last);
});

test('misuse is a bug and says so', () => {
  const batcher = new Batcher<Schedulable>(1, () => {});
  const lane = batcher.addLane('m', [batch(2), batch(2)]);
  expect(() => batcher.close(lane)).toThrow();
  batcher.open(lane, true);
  expect(() => batcher.close(lane)).toThrow('an empty batch is never closed');
  expect(() => batcher.release(lane, lane.free[0] as Schedulable)).toThrow();
});
