/**
 * An alarm clock for the open loop. Node's timers count whole milliseconds and spinning would take a core
 * from the server under test; a thread asleep in Atomics.wait rings within about 0.2 ms.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

export class Alarm {
  readonly #flag: Int32Array;
  /** Microseconds of Unix time: whole numbers can be exchanged atomically. */
  readonly #at: BigInt64Array;
  readonly #thread: Worker;
  /** Resolves when the thread is awake; an alarm set before would ring late. Rejects when it cannot start. */
  readonly ready: Promise<unknown>;

  constructor() {
    const shared = new SharedArrayBuffer(16);
    this.#flag = new Int32Array(shared, 0, 2);
    this.#at = new BigInt64Array(shared, 8, 1);
    this.#thread = new Worker(new URL('./alarm-thread.ts', import.meta.url), { workerData: shared });
    this.ready = once(this.#thread, 'message');
  }

  /** `ring` is called once for each `set`. */
  onRing(ring: () => void): void {
    this.#thread.on('message', ring);
  }

  /**
   * Rings at `atMs` of performance.now(), later than the last one. Set the next alarm only after this one
   * rang.
   */
  set(atMs: number): void {
    Atomics.store(this.#at, 0, BigInt(Math.round((performance.timeOrigin + atMs) * 1000)));
  }

  async close(): Promise<void> {
    this.#thread.removeAllListeners('message');
    Atomics.store(this.#flag, 0, 1);
    Atomics.notify(this.#flag, 0);
    await this.#thread.terminate();
  }
}
