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
  #closed = false;

  constructor(onDied: (why: string) => void) {
    this.#onDied = onDied;
  }

  /** A worker takes batches from now on. */
  add(news: DeskNews, worker: Worker): void {
    let why = '';
    const desk = new Desk(news, () => this.#next(desk));
    worker.once('error', (error) => {
      why = messageOf(error);
      if (error instanceof Error) this.#errors.add(error);
      this.#leave(desk);
    });
    worker.once('exit', (code) => {
      this.#leave(desk);
      const hadBatch = desk.close(why === '' ? `worker exited with code: ${code}` : why);
      if (!hadBatch && why !== '') this.#onDied(why);
    });
    this.#next(desk);
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
  #leave(desk: Desk): void {
    desk.isLeft = true;
    const at = this.#idle.indexOf(desk);
    if (at !== -1) this.#idle.splice(at, 1);
  }

  #next(desk: Desk): void {
    if (desk.isLeft) return;
    const waiting = this.#waiting.shift();
    if (waiting === undefined) this.#idle.push(desk);
    else desk.run(waiting.task, waiting);
  }
}
