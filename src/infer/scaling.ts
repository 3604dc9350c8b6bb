/**
 * More workers, and fewer, while batches run: one at a time.
 *
 *   more:   the crew asks for another one; it loads and warms every model and opens its desk; it counts.
 *   fewer:  the desk takes no more batches; it is empty; it counts no more; its thread is ended.
 *
 * Whoever gives out batches hears of a worker when it counts, and when it does so no more. One that dies in
 * between is replaced and counts all the time: its batch waits for its successor. A start that fails or takes
 * too long is given up, and those that were there go on. Threads are ended at their desks only, for there
 * none of them is inside native code (native.ts).
 */
import type { Worker } from 'node:worker_threads';
import type { Piscina } from 'piscina';
import { messageOf, SubitoError } from '../errors.ts';
import { notice } from '../observe/channels.ts';
import type { Crew } from './crew.ts';
import type { Desks } from './desks.ts';
import { halt, isInside, outside } from './native.ts';
import type { NativeCells, SeatCells } from './protocol.ts';

export interface ScalingOptions {
  readonly piscina: Piscina;
  readonly crew: Crew;
  readonly desks: Desks;
  readonly cells: NativeCells;
  readonly seats: SeatCells;
  /** Workers that count: all that have been started. */
  readonly threads: number;
  /** A worker that is not warm by then is given up. */
  readonly loadMsMax: number;
}

export class Scaling {
  /** Workers that count: they take batches, or their successors will. */
  threads: number;
  onWorkers: (change: 1 | -1) => void = () => {};
  readonly #options: ScalingOptions;
  #isChanging = false;
  /** Settles the start of another worker. */
  #starting: PromiseWithResolvers<void> | null = null;
  #stopped = false;

  constructor(options: ScalingOptions) {
    const { desks, crew, threads } = options;
    this.#options = options;
    this.threads = threads;
    desks.onAdded = () => this.#onDesk();
    crew.onFailed = (why) => this.#giveUp(why);
  }

  /** One is being started, ended or replaced. */
  get changing(): boolean {
    return this.#isChanging || this.#options.desks.size !== this.threads;
  }

  /**
   * Resolves when there are `threads` workers. Rejects with WORKERS_NOT_STARTED when another one could not be
   * started: those that are warm stay.
   */
  async to(threads: number): Promise<void> {
    if (this.changing) throw new Error('the number of workers is being changed');
    this.#isChanging = true;
    try {
      while (this.threads < threads) await this.#more();
      while (this.threads > threads && !this.#stopped) await this.#fewer();
    } finally {
      this.#isChanging = false;
    }
  }

  /** The workers are about to be ended, all of them. */
  stop(): void {
    this.#stopped = true;
    this.#starting?.reject(new Error('the workers are being ended'));
    this.#starting = null;
  }

  async #more(): Promise<void> {
    const { crew, loadMsMax } = this.#options;
    const starting = Promise.withResolvers<void>();
    this.#starting = starting;
    if (this.#stopped) this.stop();
    const late = setTimeout(() => void this.#endLate(), loadMsMax);
    crew.setThreads(this.threads + 1);
    try {
      await starting.promise;
    } catch (error) {
      throw new SubitoError('WORKERS_NOT_STARTED', `one more worker: ${messageOf(error)}`, { cause: error });
    } finally {
      clearTimeout(late);
    }
  }

  #onDesk(): void {
    // It may be a dead one's successor.
    if (this.#starting === null || this.#options.desks.size <= this.threads) return;
    this.threads += 1;
    this.#starting.resolve();
    this.#starting = null;
    this.onWorkers(1);
  }

  /** A worker died while it loaded; if there was to be another one, there is not. */
  #giveUp(why: string): void {
    const starting = this.#starting;
    if (starting === null) return;
    this.#starting = null;
    this.#options.crew.setThreads(this.threads);
    starting.reject(new Error(why));
  }

  /** Ends those that load, and so the start. Native code cannot be ended: it is waited for. */
  async #endLate(): Promise<void> {
    const { piscina, desks, crew, cells, loadMsMax } = this.#options;
    const why = `it loads for more than ${loadMsMax} ms`;
    crew.setThreads(this.threads);
    for (const worker of piscina.threads.filter(({ threadId }) => !desks.has(threadId))) {
      const { threadId } = worker;
      const where = isInside(cells, threadId) ? ', in native code, which cannot be ended' : '';
      notice('error', 'WORKER_HUNG', `thread ${threadId}: ${why}${where}`);
      // A thread that may not enter native code may still get to the end of its start, without its models.
      desks.ignore(threadId);
      await this.#end(worker, threadId);
    }
    this.#giveUp(why);
  }

  async #fewer(): Promise<void> {
    const { crew, desks, piscina } = this.#options;
    const thread = this.#lastThread();
    const worker = piscina.threads.find(({ threadId }) => threadId === thread);
    const drained = Promise.withResolvers<void>();
    // Nobody takes its place.
    crew.setThreads(this.threads - 1);
    desks.drain(thread, () => {
      this.threads -= 1;
      this.onWorkers(-1);
      drained.resolve();
    });
    await drained.promise;
    if (worker !== undefined) await this.#end(worker, thread);
  }

  /** Who came last: devices are given out in the order of the seats. */
  #lastThread(): number {
    const { desks, seats } = this.#options;
    for (let seat = seats.length - 1; seat >= 0; seat--) {
      const thread = Atomics.load(seats, seat);
      if (desks.has(thread)) return thread;
    }
    return desks.threads().at(-1)!;
  }

  async #end(worker: Worker, thread: number): Promise<void> {
    const { piscina, cells } = this.#options;
    const isThere = () => !this.#stopped && piscina.threads.includes(worker);
    if (isThere()) halt(cells, thread);
    await outside(cells, () => (isThere() ? [thread] : []), Number.POSITIVE_INFINITY);
    // At a stop whoever stops all of them does this.
    if (isThere()) await worker.terminate();
  }
}
