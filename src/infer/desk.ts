/**
 * How batches get to a worker and their results back: each worker has a desk, a few cells of shared memory
 * and a message port. The cells hold the batch in hand, and then what came of it. What is posted says only
 * that they have changed: a bare number, because cloning an object takes longer than all else that a post
 * does. Slabs cross once and are known by their numbers from then on.
 *
 *   main:    fill the cells; post. Then the cells are the worker's.
 *   worker:  run the batch; write the times into the cells; post. Then they are the main thread's again.
 *
 * Piscina starts, counts and replaces the workers, and carries what happens seldom. This is beside it: a
 * task of piscina's costs more (`npm run bench -- micro`, piece hop, has both).
 */
import { MessageChannel, type MessagePort, parentPort, threadId } from 'node:worker_threads';
import { messageOf } from '../errors.ts';
import type { DeskNews, InferResult, InferTask } from './protocol.ts';

const SLOT = 0;
const SLAB = 1;
const FIRST = 2;
const ROWS = 3;
const APART = 4;
/** Doubles, behind the others. */
const TIMES_BYTES = 24;
const INFER_US = 0;
const RUN_US = 1;
const DESK_BYTES = TIMES_BYTES + 2 * 8;

const CHANGED = 0;

/** A batch in a slab that the worker has not seen. */
interface NewSlab {
  readonly slab: number;
  readonly shared: SharedArrayBuffer;
}

type ToWorker = typeof CHANGED | NewSlab;
type ToMain = typeof CHANGED | { readonly spill: Uint8Array } | { readonly error: string };

class Cells {
  readonly #task: Int32Array;
  readonly #times: Float64Array;

  constructor(shared: SharedArrayBuffer) {
    this.#task = new Int32Array(shared, 0, TIMES_BYTES / 4);
    this.#times = new Float64Array(shared, TIMES_BYTES);
  }

  put(task: InferTask): void {
    const cells = this.#task;
    cells[SLOT] = task.slot;
    cells[SLAB] = task.slab;
    cells[FIRST] = task.first;
    cells[ROWS] = task.rows;
    cells[APART] = task.apart ? 1 : 0;
  }

  task(slabs: readonly SharedArrayBuffer[]): InferTask {
    const cells = this.#task;
    const slab = cells[SLAB]!;
    return {
      slot: cells[SLOT]!,
      slab,
      shared: slabs[slab]!,
      first: cells[FIRST]!,
      rows: cells[ROWS]!,
      apart: cells[APART] === 1,
    };
  }

  putTimes({ inferUs, runUs }: InferResult): void {
    this.#times[INFER_US] = inferUs;
    this.#times[RUN_US] = runUs;
  }

  result(spill: Uint8Array | null): InferResult {
    return { inferUs: this.#times[INFER_US]!, runUs: this.#times[RUN_US]!, spill };
  }
}

/** Worker: from now on it takes batches. `infer` is called with one at a time. */
export function openDesk(infer: (task: InferTask) => Promise<InferResult>): void {
  const shared = new SharedArrayBuffer(DESK_BYTES);
  const cells = new Cells(shared);
  const slabs: SharedArrayBuffer[] = [];
  const { port1: mine, port2: theirs } = new MessageChannel();
  mine.on('message', (message: ToWorker) => {
    if (message !== CHANGED) slabs[message.slab] = message.shared;
    infer(cells.task(slabs)).then(
      (result) => {
        cells.putTimes(result);
        mine.postMessage((result.spill === null ? CHANGED : { spill: result.spill }) satisfies ToMain);
      },
      (error: unknown) => mine.postMessage({ error: messageOf(error) } satisfies ToMain),
    );
  });
  const news: DeskNews = { kind: 'desk', thread: threadId, shared, port: theirs };
  parentPort?.postMessage(news, [theirs]);
}

interface Hand {
  readonly resolve: (result: InferResult) => void;
  readonly reject: (error: Error) => void;
}

/** Main thread: a worker's desk. */
export class Desk {
  /** Its worker is dying, or is to be ended. */
  isLeft = false;
  readonly #cells: Cells;
  readonly #port: MessagePort;
  /** By number, 1: the worker knows the slab. */
  readonly #known: number[] = [];
  readonly #onFree: () => void;
  #hand: Hand | null = null;

  /** `onFree`: its batch is back, and it may take the next. */
  constructor({ shared, port }: DeskNews, onFree: () => void) {
    this.#cells = new Cells(shared);
    this.#port = port;
    this.#onFree = onFree;
    port.on('message', (message: ToMain) => this.#onMessage(message));
    // Whoever waits for a batch has a timer.
    port.unref();
  }

  /** One batch at a time. */
  run(task: InferTask, hand: Hand): void {
    this.#hand = hand;
    this.#cells.put(task);
    const { slab, shared } = task;
    const isKnown = this.#known[slab] === 1;
    this.#known[slab] = 1;
    this.#port.postMessage((isKnown ? CHANGED : { slab, shared }) satisfies ToWorker);
  }

  /** The worker's thread is gone. False: it had no batch that could be told why. */
  close(why: string): boolean {
    const hand = this.#hand;
    this.#hand = null;
    hand?.reject(new Error(why));
    this.#port.close();
    return hand !== null;
  }

  #onMessage(message: ToMain): void {
    const hand = this.#hand;
    if (hand === null) return;
    this.#hand = null;
    if (message === CHANGED) hand.resolve(this.#cells.result(null));
    else if ('spill' in message) hand.resolve(this.#cells.result(message.spill));
    else hand.reject(new Error(message.error));
    this.#onFree();
  }
}
