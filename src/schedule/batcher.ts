/**
 * Work-conserving batching. A free worker takes the most pressing batch at once, however small; while all
 * workers are busy the batches fill. So an idle engine adds no delay, and a loaded one batches by itself.
 *
 * A batch goes round: free -> open (takes rows) -> ready (full, or its arena is) -> running -> settling ->
 * free. An open batch may go to running directly. The batches of a model are a lane; within it, rows of
 * different urgency or from different places (a stream, the sockets) do not mix: they are queues, each with
 * at most one open batch. When there is more work than workers:
 *
 * - between classes of urgency, time is shared 16 : 4 : 1, so the least one goes on too;
 * - within a class it is shared equally between the places that rows come from, however many they send;
 * - of one place, the batch with the earliest deadline is next, whatever its model.
 *
 * Shares are of the workers' time: what a batch will cost is charged when it is dispatched (stride
 * scheduling). Who had nothing to do does not save up.
 *
 * Pure: no clock, no IO; `dispatch` does the work.
 */
import assert from 'node:assert/strict';
import { Shares } from './shares.ts';

export interface Schedulable {
  readonly rowsMax: number;
  rows: number;
  /** Of them, those that a worker was given; set by `dispatch`. Left out: all. */
  readonly live?: number;
  /** Unix milliseconds. */
  deadlineMs: number;
}

/** Of a class of events (0 somebody listens, 1 soon, 2 whenever there is time) in the workers' time. */
export const WEIGHTS: readonly number[] = [16, 4, 1];
/** The place of rows that each run alone, whichever stream they came from. */
export const SUSPECTS = -2;

export interface Queue<B extends Schedulable> {
  readonly lane: Lane<B>;
  readonly priority: number;
  /** Index of the stream, ORIGIN_DIRECT or SUSPECTS. */
  readonly source: number;
  open: B | null;
  /** Oldest first. */
  readonly ready: B[];
  /** Number of the dispatch before which it last got a batch. */
  lastUse: number;
}

/** The batches of one model. */
export interface Lane<B extends Schedulable> {
  readonly name: string;
  /** False: its batches need no worker (rejected events on their way to the dead letters). */
  readonly needsWorker: boolean;
  readonly free: B[];
  /** Made when the first row comes that belongs there. */
  readonly queues: Queue<B>[];
  /** Takes rows that have to run apart from one another, until the next flush. */
  suspects: B | null;
  /** Every batch of the lane, wherever it is on its way. */
  readonly all: readonly B[];
}

/**
 * The last free batch of a lane is kept for requests that wait on a socket, so that a backlog cannot shut
 * them out.
 */
const RESERVED_FOR_DIRECT = 1;
/** And so many for each class that is more urgent, while there are events of it. */
const RESERVED_PER_CLASS = 2;
/** A queue that has had no batch for so many dispatches has gone quiet: nothing is kept for it. */
const QUIET_DISPATCHES = 256;
const DIRECT = -1;

export class Batcher<B extends Schedulable> {
  readonly #lanes: Lane<B>[] = [];
  readonly #queues: Queue<B>[] = [];
  readonly #dispatch: (lane: Lane<B>, batch: B) => void;
  readonly #costOf: (lane: Lane<B>, rows: number) => number;
  readonly #classes = new Shares(WEIGHTS);
  /** By class, then by source. */
  readonly #sources = WEIGHTS.map(() => new Shares());
  /** Below zero for a moment when one that has left gives its last batch back. */
  #workersIdle: number;
  #dispatches = 0;
  /** Those of a queue's batches that come too late; the newest one that does not is next. */
  isLate: ((lane: Lane<B>, batch: B) => boolean) | null = null;

  /** `costOf`: a worker's time, in any unit that is the same for all lanes. Default: one for each row. */
  constructor(
    workers: number,
    dispatch: (lane: Lane<B>, batch: B) => void,
    costOf: (lane: Lane<B>, rows: number) => number = (_, rows) => rows,
  ) {
    this.#workersIdle = workers;
    this.#dispatch = dispatch;
    this.#costOf = costOf;
  }

  addLane(name: string, batches: readonly B[], needsWorker = true): Lane<B> {
    const lane: Lane<B> = {
      name,
      needsWorker,
      free: [...batches],
      queues: [],
      suspects: null,
      all: batches,
    };
    this.#lanes.push(lane);
    return lane;
  }

  queue(lane: Lane<B>, source: number, priority: number): Queue<B> {
    for (const queue of lane.queues) {
      if (queue.source === source && queue.priority === priority) return queue;
    }
    const lastUse = this.#dispatches - QUIET_DISPATCHES;
    const queue = { lane, source, priority, open: null, ready: [], lastUse };
    lane.queues.push(queue);
    if (lane.needsWorker) this.#queues.push(queue);
    return queue;
  }

  /** Rows that this queue may still take. */
  freeRows(queue: Queue<B>): number {
    const { open, lane } = queue;
    let rows = open === null ? 0 : open.rowsMax - open.rows;
    const { free } = lane;
    for (let i = free.length - this.#spareBatches(queue); i < free.length; i += 1) {
      rows += (free[i] as B).rowsMax;
    }
    return rows;
  }

  /** Rows of the queue that no worker has yet. */
  rowsOf({ open, ready }: Queue<B>): number {
    let rows = open?.rows ?? 0;
    for (const batch of ready) rows += batch.rows;
    return rows;
  }

  /** Of all lanes that need workers. */
  get queues(): readonly Queue<B>[] {
    return this.#queues;
  }

  get workersIdle(): number {
    return this.#workersIdle;
  }

  /** Batches that may still be taken for rows that have to run alone. */
  freeAlone(lane: Lane<B>): number {
    return Math.max(0, lane.free.length - (lane.needsWorker ? RESERVED_FOR_DIRECT : 0));
  }

  /** Opens a batch for rows that have to run alone, or null when none can be spared. */
  openSuspects(lane: Lane<B>): B | null {
    assert(lane.suspects === null);
    if (this.freeAlone(lane) > 0) lane.suspects = lane.free.pop() as B;
    return lane.suspects;
  }

  /** Puts it in line. */
  closeSuspects(lane: Lane<B>): void {
    assert(lane.suspects !== null && lane.suspects.rows > 0);
    this.queue(lane, SUSPECTS, 1).ready.push(lane.suspects);
    lane.suspects = null;
  }

  /** The batch that takes the queue's next row, or null when there is none. */
  open(queue: Queue<B>): B | null {
    if (queue.open !== null) return queue.open;
    if (this.#spareBatches(queue) === 0) return null;
    queue.open = queue.lane.free.pop() as B;
    return queue.open;
  }

  /** No row was put into it after all: others may have it, unless it had some before. */
  closeEmpty(queue: Queue<B>): void {
    const { open, lane } = queue;
    if (open === null || open.rows > 0) return;
    queue.open = null;
    lane.free.push(open);
  }

  /** A row was put into the open batch. */
  added(queue: Queue<B>): void {
    const { open } = queue;
    // For every row: an assertion would make an array of its arguments each time.
    if (open === null || open.rows > open.rowsMax) assert.fail('a row was put where there is none');
    queue.lastUse = this.#dispatches;
    if (open.rows === open.rowsMax) this.close(queue);
  }

  /** The open batch takes no more rows. */
  close(queue: Queue<B>): void {
    const { open } = queue;
    assert(open !== null && open.rows > 0, 'an empty batch is never closed');
    queue.ready.push(open);
    queue.open = null;
  }

  /** Gives work to every free worker. Called after rows came in together, and when a worker is free again. */
  flush(): void {
    for (const lane of this.#lanes) {
      if (lane.suspects !== null) this.closeSuspects(lane);
      if (!lane.needsWorker) this.#drain(lane);
    }
    while (this.#workersIdle > 0) {
      const queue = this.#mostPressing();
      if (queue === null) return;
      const { lane } = queue;
      const batch = this.#take(queue);
      this.#workersIdle -= 1;
      this.#dispatches += 1;
      const { rows } = batch;
      this.#dispatch(lane, batch);
      // What was too late costs no worker's time: who is charged for it all the same would stay too late.
      const { live = rows } = batch;
      const cost = live > 0 ? this.#costOf(lane, live) : 0;
      this.#classes.charge(queue.priority, cost);
      this.#sources[queue.priority]?.charge(queue.source, cost);
    }
  }

  workerFreed(): void {
    this.#workersIdle += 1;
  }

  /** A settled batch comes back empty. */
  release(lane: Lane<B>, batch: B): void {
    assert(batch.rows === 0 && !lane.free.includes(batch));
    lane.free.push(batch);
  }

  /** Free batches that it may have. */
  #spareBatches(queue: Queue<B>): number {
    const { lane, source, priority } = queue;
    const { length } = lane.free;
    if (!lane.needsWorker) return length;
    let kept = source === DIRECT ? 0 : RESERVED_FOR_DIRECT;
    let others = 1;
    let urgent = 0;
    let isFirst = true;
    for (const other of lane.queues) {
      const holdsAny = other.open !== null || other.ready.length > 0;
      if (other.priority === priority && holdsAny) isFirst = false;
      if (other === queue || this.isQuiet(other)) continue;
      if (other.priority < priority) urgent |= 1 << other.priority;
      else if (other.priority === priority && other.source !== SUSPECTS) others += 1;
    }
    // A class without any may have one all the same: without work to offer it would never be next.
    const first = isFirst ? Math.min(1, length - kept) : 0;
    for (; urgent !== 0; urgent &= urgent - 1) kept += RESERVED_PER_CLASS;
    const spare = Math.max(0, first, length - kept);
    if (others === 1) return spare;
    // A place may have its part of what there is for the class; one batch at least.
    const held = queue.ready.length + (queue.open === null ? 0 : 1);
    const part = Math.max(1, Math.floor((lane.all.length - kept) / others));
    return Math.min(spare, Math.max(0, part - held));
  }

  /** Nothing has come for it of late. */
  isQuiet({ lastUse }: Queue<B>): boolean {
    return this.#dispatches - lastUse >= QUIET_DISPATCHES;
  }

  #drain(lane: Lane<B>): void {
    for (const queue of lane.queues) {
      while (hasWork(queue)) this.#dispatch(lane, this.#take(queue));
    }
  }

  /** Ready batches of a queue run before the open one. */
  #take(queue: Queue<B>): B {
    const { ready, lane } = queue;
    const [oldest] = ready;
    // Whoever waits for late ones loses more than they do.
    const isNewest = oldest !== undefined && this.isLate?.(lane, oldest) === true;
    const batch = (isNewest ? ready.pop() : ready.shift()) ?? queue.open;
    assert(batch !== null);
    if (batch === queue.open) queue.open = null;
    return batch;
  }

  #mostPressing(): Queue<B> | null {
    const queues = this.#queues;
    for (const queue of queues) {
      if (!hasWork(queue)) continue;
      this.#classes.offer(queue.priority);
      this.#sources[queue.priority]?.offer(queue.source);
    }
    const priority = this.#classes.choose();
    if (priority === null) return null;
    const source = this.#sources[priority]?.choose();
    for (const other of this.#sources) other.endRound();
    let best: Queue<B> | null = null;
    let bestMs = Number.POSITIVE_INFINITY;
    for (const queue of queues) {
      if (queue.priority !== priority || queue.source !== source || !hasWork(queue)) continue;
      const { deadlineMs } = queue.ready[0] ?? (queue.open as B);
      if (best === null || deadlineMs < bestMs) {
        best = queue;
        bestMs = deadlineMs;
      }
    }
    return best;
  }

  /** Another worker takes batches from now on. */
  workerAdded(): void {
    this.#workersIdle += 1;
  }

  /** One that had none has left; or `workerFreed` is about to be told of one that takes no other. */
  workerRemoved(): void {
    this.#workersIdle -= 1;
  }
}

function hasWork({ ready, open }: Queue<Schedulable>): boolean {
  return ready.length > 0 || (open !== null && open.rows > 0);
}
