/** Gives each batch to a worker that has none; while there is no such worker, batches wait in line. */
import type { Worker } from 'node:worker_threads';
import { messageOf } from '../errors.ts';
import { Desk } from './desk.ts';
import type { DeskNews, InferResult, InferTask } from './protocol.ts';

interface Waiting {
  readonly task: InferTask;
  readonly resolve: (result: InferResult) => void;
  readonly reject: (error: Error) => void;
}

export class Desks {
  /** Those without a batch; the one that was busy last comes first, for what it needs is in the caches. */
  readonly #idle: Desk[] = [];
  readonly #waiting: Waiting[] = [];
  /** Errors that have ended workers with a desk. */
  readonly #errors = new WeakSet<Error>();
  /** An error has ended a worker that had no batch. */
  readonly #onDied: (why: string) => void;
  /** By thread: those whose workers are there, and are not about to leave. */
  readonly #desks = new Map<number, Desk>();
  /** Told when the desk has no batch any more. */
  readonly #leaving = new Map<Desk, () => void>();
  readonly #ignored = new Set<number>();
  #closed = false;
  /** There is a desk more. */
  onAdded: () => void = () => {};

  constructor(onDied: (why: string) => void) {
    this.#onDied = onDied;
  }

  /** A worker takes batches from now on. */
  add(news: DeskNews, worker: Worker): void {
    let why = '';
    const { thread, port } = news;
    if (this.#ignored.delete(thread)) {
      port.close();
      return;
    }
    const desk = new Desk(news, () => this.#next(desk));
    this.#desks.set(thread, desk);
    worker.once('error', (error) => {
      why = messageOf(error);
      if (error instanceof Error) this.#errors.add(error);
      this.#leave(thread, desk);
    });
    worker.once('exit', (code) => {
      this.#leave(thread, desk);
      const hadBatch = desk.close(why === '' ? `worker exited with code: ${code}` : why);
      if (!hadBatch && why !== '') this.#onDied(why);
      this.#emptied(desk);
    });
    this.#next(desk);
    this.onAdded();
  }

  /** This thread has no desk yet, and whatever it says from now on gets none. */
  ignore(thread: number): void {
    this.#ignored.add(thread);
  }

  /** Of workers that take batches. */
  get size(): number {
    return this.#desks.size;
  }

  threads(): number[] {
    return [...this.#desks.keys()];
  }

  has(thread: number): boolean {
    return this.#desks.has(thread);
  }

  /**
   * This worker gets no more batches. `onEmpty` is called when it has none: at once; or when its batch is
   * back, before whoever waits for that hears of it; or when its thread is gone.
   */
  drain(thread: number, onEmpty: () => void): void {
    const desk = this.#desks.get(thread);
    if (desk === undefined) {
      onEmpty();
      return;
    }
    const isIdle = this.#idle.includes(desk);
    this.#leave(thread, desk);
    if (isIdle) onEmpty();
    else this.#leaving.set(desk, onEmpty);
  }

  /** Somebody is told of it: whoever waits for the worker's batch, or `onDied`. */
  isOurs(error: unknown): boolean {
    return error instanceof Error && this.#errors.has(error);
  }

  /**
   * Resolves when the worker has done with the batch. Rejects with what the worker says, or when its thread
   * is gone: in either case nobody touches the slab any more.
   */
  run(task: InferTask): Promise<InferResult> {
    if (this.#closed) return Promise.reject(new Error('the workers are being ended'));
    return new Promise((resolve, reject) => {
      const waiting = { task, resolve, reject };
      const desk = this.#idle.pop();
      if (desk === undefined) this.#waiting.push(waiting);
      else desk.run(task, waiting);
    });
  }

  /** Rejects what waits; batches in hand are rejected as their workers end. */
  close(): void {
    this.#closed = true;
    for (const { reject } of this.#waiting.splice(0)) reject(new Error('the workers are being ended'));
  }

  /** It gets no more batches. */
  #leave(thread: number, desk: Desk): void {
    desk.isLeft = true;
    this.#desks.delete(thread);
    const at = this.#idle.indexOf(desk);
    if (at !== -1) this.#idle.splice(at, 1);
  }

  #next(desk: Desk): void {
    if (desk.isLeft) {
      this.#emptied(desk);
      return;
    }
    const waiting = this.#waiting.shift();
    if (waiting === undefined) this.#idle.push(desk);
    else desk.run(waiting.task, waiting);
  }

  #emptied(desk: Desk): void {
    const onEmpty = this.#leaving.get(desk);
    this.#leaving.delete(desk);
    onEmpty?.();
  }
}
