/** How long a batch may be with a worker, and what happens when that is over. */
import { allow, doing, halt, isInside } from './native.ts';
import type { NativeCells } from './protocol.ts';

/** How often a thread that hangs in native code is looked at. */
const HUNG_POLL_MS = 20;

/** A thread whose time is over. */
export interface Late {
  readonly thread: number;
  /** It was bringing the model to its next provider. */
  readonly moving: boolean;
  /** Inside native code: it cannot be ended now. */
  readonly inside: boolean;
  /** The limit that it has broken. */
  readonly msMax: number;
}

export interface DeadlineOptions {
  /** Of a batch, from when a thread has taken it. */
  readonly runMsMax: number;
  /** Of what a thread does meanwhile to run it on another provider. */
  readonly moveMsMax: number;
  /** The thread that has the batch; 0: none yet. */
  readonly thread: () => number;
  readonly cells: NativeCells;
  readonly onHung: (late: Late) => void;
  readonly onEnd: (late: Late) => void;
}

/**
 * Watches one batch. Its time starts when a thread has taken it: until then it may wait for a dead worker's
 * successor. While the thread brings the model to its next provider another limit holds, and after that the
 * batch has its full time. When time is over, the thread is halted, waited for while it is inside native
 * code, and ended.
 */
export class Deadline {
  readonly #options: DeadlineOptions;
  #timer: NodeJS.Timeout;
  #halted = 0;
  #ended = false;

  constructor(options: DeadlineOptions) {
    this.#options = options;
    this.#timer = setTimeout(() => this.#look(), options.runMsMax);
  }

  /** The batch is back. A thread that had been halted, and came back by itself after all, goes on. */
  clear(): void {
    clearTimeout(this.#timer);
    if (this.#halted !== 0 && !this.#ended) allow(this.#options.cells, this.#halted);
  }

  #look(): void {
    const { runMsMax, moveMsMax, thread: threadOf, cells } = this.#options;
    const thread = threadOf();
    if (thread === 0) {
      this.#again(runMsMax);
      return;
    }
    const { moving, forMs } = doing(cells, thread);
    const msMax = moving ? moveMsMax : runMsMax;
    const leftMs = msMax - forMs;
    if (this.#halted === 0 && leftMs > 0) {
      // A move may end before that, and the batch go on.
      this.#again(Math.min(leftMs, runMsMax));
      return;
    }
    this.#end({ thread, moving, msMax, inside: false });
  }

  #end(over: Late): void {
    const { cells, onHung, onEnd } = this.#options;
    const { thread } = over;
    const first = this.#halted === 0;
    this.#halted = thread;
    halt(cells, thread);
    const late = { ...over, inside: isInside(cells, thread) };
    if (first) onHung(late);
    if (late.inside) {
      this.#again(HUNG_POLL_MS);
      return;
    }
    this.#ended = true;
    onEnd(late);
  }

  #again(ms: number): void {
    this.#timer = setTimeout(() => this.#look(), ms);
  }
}
