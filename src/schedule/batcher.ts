/**
 * Work-conserving batching. A free worker takes the batch with the earliest deadline at once, however small;
 * while all workers are busy the batches fill. So an idle engine adds no delay, and a loaded one batches by
 * itself.
 *
 * A batch goes round: free -> open (takes rows) -> ready (full, or its arena is) -> running -> settling ->
 * free. An open batch may go to running directly; one for a row that has to run alone goes from free to
 * ready. Each lane belongs to one model; at most one of its batches
 * is open.
 *
 * Pure: no clock, no IO; `dispatch` does the work. Sizes and deadlines are read from the batches themselves.
 */
import assert from 'node:assert/strict';

export interface Schedulable {
  readonly rowsMax: number;
  rows: number;
  /** Unix milliseconds. */
  deadlineMs: number;
}

/** The batches of one model. */
export interface Lane<B extends Schedulable> {
  readonly name: string;
  /** False: its batches need no worker (rejected events on their way to the dead letters). */
  readonly needsWorker: boolean;
  readonly free: B[];
  open: B | null;
  /** The open batch was the last free one: while there is no other, it takes direct rows only. */
  openReserved: boolean;
  readonly ready: B[];
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

/** The open batch is kept for direct rows. */
function isKept({ openReserved, free }: Lane<Schedulable>): boolean {
  return openReserved && free.length < RESERVED_FOR_DIRECT;
}

export class Batcher<B extends Schedulable> {
  readonly #lanes: Lane<B>[] = [];
  readonly #dispatch: (lane: Lane<B>, batch: B) => void;
  /** Below zero for a moment when one that has left gives its last batch back. */
  #workersIdle: number;

  constructor(workers: number, dispatch: (lane: Lane<B>, batch: B) => void) {
    this.#workersIdle = workers;
    this.#dispatch = dispatch;
  }

  addLane(name: string, batches: readonly B[], needsWorker = true): Lane<B> {
    const lane: Lane<B> = {
      name,
      needsWorker,
      free: [...batches],
      open: null,
      openReserved: false,
      ready: [],
      suspects: null,
      all: batches,
    };
    this.#lanes.push(lane);
    return lane;
  }

  /** Rows that a stream may still put into this lane. */
  freeRows(lane: Lane<B>): number {
    const reserved = lane.needsWorker ? RESERVED_FOR_DIRECT : 0;
    let rows = lane.open === null || isKept(lane) ? 0 : lane.open.rowsMax - lane.open.rows;
    for (let i = reserved; i < lane.free.length; i += 1) rows += (lane.free[i] as B).rowsMax;
    return rows;
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
    lane.ready.push(lane.suspects);
    lane.suspects = null;
  }

  /** The batch that takes the lane's next row, or null when there is none. */
  open(lane: Lane<B>, direct: boolean): B | null {
    if (lane.open !== null) return isKept(lane) && !direct ? null : lane.open;
    const isReserved = lane.needsWorker && lane.free.length <= RESERVED_FOR_DIRECT;
    if (lane.free.length === 0 || (isReserved && !direct)) return null;
    lane.openReserved = isReserved;
    lane.open = lane.free.pop() as B;
    return lane.open;
  }

  /** A row was put into the open batch. */
  added(lane: Lane<B>): void {
    const { open } = lane;
    // For every row: an assertion would make an array of its arguments each time.
    if (open === null || open.rows > open.rowsMax) assert.fail('a row was put where there is none');
    if (open.rows === open.rowsMax) this.close(lane);
  }

  /** The open batch takes no more rows. */
  close(lane: Lane<B>): void {
    assert(lane.open !== null && lane.open.rows > 0, 'an empty batch is never closed');
    lane.ready.push(lane.open);
    lane.open = null;
  }

  /** Gives work to every free worker. Called after rows came in together, and when a worker is free again. */
  flush(): void {
    for (const lane of this.#lanes) {
      if (lane.suspects !== null) this.closeSuspects(lane);
      if (!lane.needsWorker) this.#drain(lane);
    }
    while (this.#workersIdle > 0) {
      const lane = this.#earliest();
      if (lane === null) return;
      this.#workersIdle -= 1;
      this.#dispatch(lane, this.#take(lane));
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

  #drain(lane: Lane<B>): void {
    while (lane.ready.length > 0 || (lane.open !== null && lane.open.rows > 0)) {
      this.#dispatch(lane, this.#take(lane));
    }
  }

  /** Ready batches of a lane run in the order in which they filled; the open one last. */
  #next(lane: Lane<B>): B | null {
    if (lane.ready.length > 0) return lane.ready[0] as B;
    return lane.open !== null && lane.open.rows > 0 ? lane.open : null;
  }

  #take(lane: Lane<B>): B {
    const batch = lane.ready.shift() ?? lane.open;
    assert(batch !== null);
    if (batch === lane.open) lane.open = null;
    return batch;
  }

  #earliest(): Lane<B> | null {
    let best: Lane<B> | null = null;
    let bestMs = Number.POSITIVE_INFINITY;
    for (const lane of this.#lanes) {
      if (!lane.needsWorker) continue;
      const batch = this.#next(lane);
      if (batch !== null && (best === null || batch.deadlineMs < bestMs)) {
        best = lane;
        bestMs = batch.deadlineMs;
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
