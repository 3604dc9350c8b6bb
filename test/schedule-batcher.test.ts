// The batcher on a simulated clock: thousands of random schedules, every rule checked after every step.
import { expect, test } from 'vitest';
import { Batcher, type Lane, type Queue, type Schedulable } from '../src/schedule/batcher.ts';
import { forSeeds, type Random } from './support/random.ts';

interface SimBatch extends Schedulable {
  readonly n: number;
  where: 'home' | 'running' | 'settling';
  /** Numbers of the rows inside. */
  content: number[];
  /** Rows that run alone. */
  alone: boolean;
  queue: Queue<SimBatch> | null;
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
  readonly lastOf = new Map<Queue<SimBatch>, number>();

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
      queue: null,
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
    const queue = this.batcher.queue(lane, direct ? -1 : this.random.int(0, 1), this.random.int(0, 2));
    const room = this.batcher.freeRows(queue);
    const rows = this.random.int(1, 20);
    let taken = 0;
    let closedEarly = false;
    for (; taken < rows; taken += 1) {
      let batch = this.batcher.open(queue);
      if (batch !== null && batch.rows > 0 && this.random.chance(0.05)) {
        this.batcher.close(queue);
        closedEarly = true;
        batch = this.batcher.open(queue);
      }
      if (batch === null) break;
      batch.queue = queue;
      batch.deadlineMs = Math.min(batch.deadlineMs, this.nowMs + this.random.int(1, 200));
      batch.content.push(this.rowsIn);
      this.rowsIn += 1;
      batch.rows += 1;
      this.batcher.added(queue);
    }
    if (!closedEarly && taken !== Math.min(rows, room))
      fail(`room for ${room} of ${rows} rows, took ${taken}`);
    const hasNone = direct && queue.priority === 0 && queue.ready.length === 0 && taken === 0;
    if (hasNone && lane.free.length > 0) fail('a request found no room beside a free batch');
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
      const queue = batch.queue as Queue<SimBatch>;
      if (row <= (this.lastOf.get(queue) ?? -1)) fail('rows of a queue ran out of order');
      this.lastOf.set(queue, row);
    }
    if (!lane.needsWorker) {
      this.#settle(lane, batch);
      return;
    }
    this.busy += 1;
    if (this.busy > this.workers) fail('more batches run than there are workers');
    for (const other of this.lanes) {
      if (other === lane || !other.needsWorker || batch.queue === null) continue;
      const { source, priority } = batch.queue;
      const next = other.queues.find((one) => one.source === source && one.priority === priority);
      const first = next?.ready[0] ?? next?.open ?? null;
      if (first !== null && first.rows > 0 && first.deadlineMs < batch.deadlineMs)
        fail('an earlier deadline of another model was passed over');
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
      batch.queue = null;
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
      const ready = lane.queues.flatMap((queue) => queue.ready);
      const open = lane.queues.flatMap((queue) => queue.open ?? []);
      const waiting = ready.length > 0 || open.some(({ rows }) => rows > 0);
      if (waiting && (this.busy < this.workers || !lane.needsWorker)) fail('rows wait beside a free worker');
      const home = [...lane.free, ...ready, ...open];
      if (new Set(home).size !== home.length) fail('a batch is in two states');
      const mine = this.batches.filter((batch) => this.#laneOf.get(batch) === lane);
      for (const batch of mine)
        if (home.includes(batch) !== (batch.where === 'home')) fail(`batch ${batch.n} is lost`);
      for (const batch of lane.free) if (batch.rows !== 0) fail('a free batch has rows');
      for (const batch of ready) if (batch.rows === 0) fail('a ready batch has no rows');
      for (const batch of open) if (batch.rows >= batch.rowsMax) fail('a full batch is still open');
    }
  }
}

test('5,000 random schedules: work-conserving, by deadline among equals, nothing lost, nothing twice', () => {
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

/** Puts a full batch into the queue, if there is room. */
function fill(batcher: Batcher<Schedulable>, queue: Queue<Schedulable>, deadlineMs = 0): boolean {
  const open = batcher.open(queue);
  if (open === null) return false;
  open.deadlineMs = deadlineMs;
  while (queue.open !== null) {
    open.rows += 1;
    batcher.added(queue);
  }
  return true;
}

test('a backlog of a stream leaves the last batch to requests', () => {
  const batcher = new Batcher<Schedulable>(0, () => {});
  const lane = batcher.addLane('m', [batch(2), batch(2), batch(2)]);
  const stream = batcher.queue(lane, 0, 1);
  expect(batcher.freeRows(stream)).toBe(4);
  expect([fill(batcher, stream), fill(batcher, stream)]).toEqual([true, true]);
  expect(batcher.freeRows(stream)).toBe(0);
  expect(batcher.open(stream)).toBeNull();
  expect(batcher.open(batcher.queue(lane, -1, 0))).not.toBeNull();
});

/** As workers that take one time unit a row: what was run, by queue, in so many dispatches. */
function served(dispatches: number, offered: readonly { source: number; priority: number; rows: number }[]) {
  const rows = new Map<Queue<Schedulable>, number>();
  const running: { lane: Lane<Schedulable>; batch: Schedulable }[] = [];
  const batcher = new Batcher<Schedulable>(1, (lane, batch) => running.push({ lane, batch }));
  const owner = new Map<Schedulable, Queue<Schedulable>>();
  const queues = offered.map(({ source, priority, rows: rowsMax }, i) => {
    const lane = batcher.addLane(
      `m${i}`,
      Array.from({ length: 6 }, () => batch(rowsMax)),
    );
    return batcher.queue(lane, source, priority);
  });
  for (let i = 0; i < dispatches; i += 1) {
    for (const queue of queues) {
      for (const one of queue.lane.free) owner.set(one, queue);
      while (fill(batcher, queue)) {}
    }
    batcher.flush();
    const { lane, batch: done } = running.pop()!;
    const queue = owner.get(done)!;
    rows.set(queue, (rows.get(queue) ?? 0) + done.rows);
    done.rows = 0;
    batcher.release(lane, done);
    batcher.workerFreed();
  }
  const all = [...rows.values()].reduce((sum, one) => sum + one, 0);
  return queues.map((queue) => (rows.get(queue) ?? 0) / all);
}

test('time is shared 16 : 4 : 1 between classes that all have more than enough', () => {
  const shares = served(
    2100,
    [0, 1, 2].map((priority) => ({ source: 0, priority, rows: 4 })),
  );
  for (const [i, weight] of [16, 4, 1].entries()) expect(shares[i]).toBeCloseTo(weight / 21, 2);
});

test('within a class time is shared equally between places, whatever the size of their batches', () => {
  const shares = served(1100, [
    { source: 0, priority: 1, rows: 10 },
    { source: 1, priority: 1, rows: 1 },
  ]);
  expect(shares[0]).toBeCloseTo(0.5, 2);
});

test('who had nothing to do does not save up', () => {
  const order: string[] = [];
  const names = new Map<Lane<Schedulable>, string>();
  const batcher = new Batcher<Schedulable>(1, (lane, done) => {
    order.push(names.get(lane)!);
    done.rows = 0;
    batcher.release(lane, done);
  });
  const [a, b] = ['a', 'b'].map((name, source) => {
    const lane = batcher.addLane(name, [batch(1), batch(1), batch(1), batch(1), batch(1), batch(1)]);
    names.set(lane, name);
    return batcher.queue(lane, source, 1);
  });
  for (let i = 0; i < 100; i += 1) {
    fill(batcher, a!);
    batcher.flush();
    batcher.workerFreed();
  }
  order.length = 0;
  for (let i = 0; i < 4; i += 1) {
    fill(batcher, a!);
    fill(batcher, b!);
  }
  for (let i = 0; i < 8; i += 1) {
    batcher.flush();
    batcher.workerFreed();
  }
  expect(order.slice(0, 4).sort()).toEqual(['a', 'a', 'b', 'b']);
});

test('of batches that come too late the newest is next', () => {
  const order: number[] = [];
  const batcher = new Batcher<Schedulable>(0, (_lane, { deadlineMs }) => order.push(deadlineMs));
  const queue = batcher.queue(batcher.addLane('m', [batch(1), batch(1), batch(1), batch(1)]), 0, 1);
  for (const ms of [1, 2, 3]) fill(batcher, queue, ms);
  batcher.isLate = (_lane, { deadlineMs }) => deadlineMs < 3;
  for (let i = 0; i < 3; i += 1) batcher.workerFreed();
  batcher.flush();
  expect(order).toEqual([3, 2, 1]);
});

test('a class leaves batches to more urgent ones, and a place to others, while there are any', () => {
  const batcher = new Batcher<Schedulable>(0, () => {});
  const lane = batcher.addLane(
    'm',
    Array.from({ length: 9 }, () => batch(1)),
  );
  const slow = batcher.queue(lane, 0, 2);
  const urgent = batcher.queue(lane, 0, 0);
  const other = batcher.queue(lane, 1, 2);
  expect(batcher.freeRows(slow)).toBe(8);
  fill(batcher, urgent);
  // One for requests, two for the urgent ones.
  expect(batcher.freeRows(slow)).toBe(5);
  fill(batcher, other);
  // Half of what there is for the class.
  while (fill(batcher, slow)) {}
  expect(slow.ready).toHaveLength(3);
  while (fill(batcher, urgent)) {}
  expect(urgent.ready).toHaveLength(4);
  expect(batcher.freeRows(batcher.queue(lane, -1, 0))).toBe(1);
});

test('a class without a batch may have one, whatever more urgent ones hold', () => {
  const batcher = new Batcher<Schedulable>(0, () => {});
  const batches = Array.from({ length: 6 }, () => batch(1));
  const lane = batcher.addLane('m', batches);
  const [urgent, least] = [batcher.queue(lane, 0, 0), batcher.queue(lane, 0, 2)];
  for (let i = 0; i < 4; i += 1) fill(batcher, urgent);
  expect(batcher.freeRows(least)).toBe(1);
  expect(fill(batcher, least)).toBe(true);
  expect(batcher.freeRows(least)).toBe(0);
  // The last one is for requests.
  expect(fill(batcher, urgent)).toBe(false);
  const between = batcher.queue(lane, 0, 1);
  expect([batcher.freeRows(between), batcher.freeRows(batcher.queue(lane, -1, 0))]).toEqual([0, 1]);
});

test('a batch of which no row was run costs its class nothing', () => {
  const order: number[] = [];
  const batcher = new Batcher<Schedulable>(0, ({ name }, one) => {
    order.push(Number(name));
    if (name === '2') Object.assign(one, { live: 0 });
  });
  const queues = [0, 2].map((priority) => {
    const lane = batcher.addLane(
      String(priority),
      Array.from({ length: 12 }, () => batch(1)),
    );
    return batcher.queue(lane, 0, priority);
  });
  for (let i = 0; i < 10; i += 1) for (const queue of queues) fill(batcher, queue);
  for (let i = 0; i < 11; i += 1) {
    batcher.workerFreed();
    batcher.flush();
  }
  expect(order).toEqual([0, ...Array(10).fill(2)]);
});

test('misuse is a bug and says so', () => {
  const batcher = new Batcher<Schedulable>(1, () => {});
  const lane = batcher.addLane('m', [batch(2), batch(2)]);
  const queue = batcher.queue(lane, -1, 0);
  expect(() => batcher.close(queue)).toThrow();
  batcher.open(queue);
  expect(() => batcher.close(queue)).toThrow('an empty batch is never closed');
  expect(() => batcher.release(lane, lane.free[0] as Schedulable)).toThrow();
});
