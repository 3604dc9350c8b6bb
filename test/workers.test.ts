// What the engine sees of its workers, what it tells of their number; and batches among workers that come
// and go.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { scaleWorkers, tellProcessors, workOf } from '../src/engine/workers.ts';
import { Batch, ORIGIN_DIRECT } from '../src/schedule/batch.ts';
import { Batcher, type Lane, type Queue, type Schedulable } from '../src/schedule/batcher.ts';
import { collectNotices, until } from './support/core.ts';
import { forSeeds, type Random } from './support/random.ts';

const notices = collectNotices();
afterEach(() => {
  notices.all.length = 0;
});

function batchOf(changes: object): Batch {
  const batch = new Batch({ rowsMax: 4, layout: null, slab: 0, keyBytesMax: 8, eventIdBytesMax: 8 });
  return Object.assign(batch, changes);
}

test('work that is done, work in hand, and who has waited longest', () => {
  const none = { busyUs: 0, batchRows: 0 };
  expect(workOf([], none, 1000)).toEqual({ busyMs: 0, rows: 0, oldestMs: 0 });
  const running = batchOf({ rows: 2, running: true, dispatchedMs: 900 });
  const settling = batchOf({ rows: 2, running: false, dispatchedMs: 700 });
  const waiting = batchOf({ rows: 2 });
  waiting.readMs.set([960, 990]);
  const direct = batchOf({ rows: 1 });
  direct.origin[0] = ORIGIN_DIRECT;
  direct.arrivedMs[0] = 985;
  const empty = batchOf({});
  const done = { busyUs: 50_000, batchRows: 7 };
  const lanes = [{ all: [running, settling, empty] }, { all: [direct] }];
  expect(workOf(lanes, done, 1000)).toEqual({ busyMs: 150, rows: 7, oldestMs: 15 });
  expect(workOf([...lanes, { all: [waiting] }], done, 1000)).toEqual({ busyMs: 150, rows: 7, oldestMs: 40 });
  // Once it has run and been settled, its memory says nothing of that.
  settling.reset();
  settling.rows = 1;
  settling.readMs[0] = 950;
  expect(workOf([{ all: [settling] }], done, 1000)).toEqual({ busyMs: 50, rows: 7, oldestMs: 50 });
});

test('more workers than processors are told once', () => {
  tellProcessors(2, 2);
  tellProcessors(1, 4);
  expect(notices.all).toEqual([]);
  tellProcessors(8, 2);
  tellProcessors(2, 1);
  expect(notices.all.map(({ code, message }) => `${code} ${message}`)).toEqual([
    'WORKERS_MANY workers.max is 8, and there are 2 processors: more workers do no more work',
    'WORKERS_MANY workers.max is 2, and there are 1 processor: more workers do no more work',
  ]);
});

/** A pool that cannot be lived without: always busy. */
class BusyPool {
  readonly threadsMin = 1;
  readonly threadsMax = 2;
  readonly asked: number[] = [];
  threads = 1;
  changing = false;
  onWorkers: (change: 1 | -1) => void = () => {};
  readonly #fails: boolean;

  constructor(fails: boolean) {
    this.#fails = fails;
  }

  async scale(threads: number): Promise<void> {
    this.asked.push(threads);
    this.changing = true;
    await sleep(50);
    this.changing = false;
    if (this.#fails) throw new Error('one more worker: no such file');
    this.threads = threads;
    this.onWorkers(1);
    this.onWorkers(-1);
  }
}

test.each([
  [
    false,
    'info',
    /^2 instead of 1, after 0\.\d s: 100 % of the time busy, and rows have waited \d+ ms for one$/,
  ],
  [true, 'warn', /^1 as before, 2 could not be: .*no such file; tried again after 5 s at the earliest$/],
])(
  'a change is told with its reason (the start fails: %s)',
  async (fails, level, says) => {
    const pool = new BusyPool(fails);
    const beganMs = performance.now();
    const waiting = batchOf({ rows: 1 });
    const totals = {
      get busyUs() {
        return (performance.now() - beganMs) * 1000;
      },
      batchRows: 0,
    };
    let serving = false;
    const calls: string[] = [];
    const batcher = {
      workerAdded: () => calls.push('added'),
      workerRemoved: () => calls.push('removed'),
      flush: () => calls.push('flush'),
    };
    const stop = scaleWorkers({
      pool,
      batcher,
      lanes: [{ all: [waiting] }],
      totals,
      targetMs: 10,
      now: () => 500,
      isServing: () => serving,
    });
    await sleep(600);
    expect(pool.asked).toEqual([]);
    serving = true;
    const told = () => notices.all.filter(({ code }) => code === 'WORKERS');
    await until('it is told', () => told().length > 0, 20_000);
    expect(told()).toMatchObject([{ level, message: expect.stringMatching(says) }]);
    // Not again and again.
    await sleep(1000);
    stop();
    expect(pool.asked).toEqual([2]);
    expect(calls).toEqual(level === 'info' ? ['added', 'flush', 'removed'] : []);
  },
  30_000,
);

interface SimBatch extends Schedulable {
  readonly n: number;
}

/** A batcher whose workers come, and go when their batch is back, as those of a pool do. */
class Coming {
  readonly random: Random;
  readonly batcher: Batcher<SimBatch>;
  readonly lane: Lane<SimBatch>;
  /** True: it is to go. By the batch that it has. */
  readonly busy = new Map<SimBatch, boolean>();
  readonly queue: Queue<SimBatch>;
  idle: number;
  ran = 0;

  constructor(random: Random) {
    this.random = random;
    this.idle = random.int(1, 3);
    this.batcher = new Batcher<SimBatch>(this.idle, (_lane, batch) => {
      if (this.idle === 0) throw new Error('a batch was given out, and nobody is free');
      this.idle -= 1;
      this.busy.set(batch, false);
    });
    const batches = Array.from({ length: 8 }, (_, n) => ({ n, rowsMax: 2, rows: 0, deadlineMs: n }));
    this.lane = this.batcher.addLane('m', batches);
    this.queue = this.batcher.queue(this.lane, -1, 0);
  }

  step(): void {
    const what = this.random.int(0, 3);
    if (what === 0) this.#arrive();
    else if (what === 1) this.#answer();
    else if (what === 2) {
      this.idle += 1;
      this.batcher.workerAdded();
    } else this.#leave();
    this.batcher.flush();
    const { ready, open } = this.queue;
    const waits = ready.length > 0 || (open !== null && open.rows > 0);
    if (waits && this.idle > 0) throw new Error('a batch waits beside a free worker');
  }

  #arrive(): void {
    const batch = this.batcher.open(this.queue);
    if (batch === null) return;
    batch.rows += 1;
    this.batcher.added(this.queue);
  }

  #answer(): void {
    const [first] = this.busy;
    if (first === undefined) return;
    const [batch, leaves] = first;
    this.busy.delete(batch);
    if (leaves) this.batcher.workerRemoved();
    else this.idle += 1;
    this.batcher.workerFreed();
    batch.rows = 0;
    this.ran += 1;
    this.batcher.release(this.lane, batch);
  }

  #leave(): void {
    const stays = [...this.busy].filter(([, leaves]) => !leaves);
    if (this.idle + stays.length <= 1) return;
    if (this.idle > 0 && this.random.chance(0.5)) {
      this.idle -= 1;
      this.batcher.workerRemoved();
    } else if (stays.length > 0) this.busy.set(this.random.pick(stays)[0], true);
  }
}

test('2,000 random schedules: each worker has one batch at most, and none waits beside a free one', () => {
  let ran = 0;
  forSeeds(2000, (random) => {
    const coming = new Coming(random);
    for (let i = 0; i < 60; i++) coming.step();
    ran += coming.ran;
  });
  expect(ran).toBeGreaterThan(10_000);
});
