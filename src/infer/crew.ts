/**
 * Keeps the workers at their number.
 *
 * A worker: loading -> warm -> gone. Piscina replaces one that dies warm, at once. One that dies while it
 * loads it does not replace, for at a start there would be no end to it; but here the model had been loaded
 * before, and its file may be on its way back. So the crew goes on asking for a successor, each of which
 * waits longer before it loads, up to a limit. Batches wait meanwhile: none of this is their fault.
 */
import type { Piscina } from 'piscina';
import { messageOf } from '../errors.ts';
import { notice } from '../observe/channels.ts';
import type { SuccessionCells } from './protocol.ts';
import { setThreads } from './start.ts';

const WAIT_MS_MIN = 100;
const WAIT_MS_MAX = 5_000;
const ENDED = 'it ended while it loaded';

export interface CrewOptions {
  readonly piscina: Piscina;
  /** All of them warm by now. */
  readonly threads: number;
  readonly succession: SuccessionCells;
  /** A worker that is not warm by then is trouble. */
  readonly loadMsMax: number;
}

export class Crew {
  readonly #options: CrewOptions;
  readonly #warm: Set<unknown>;
  /** Workers that would be heard saying why they did not load. */
  readonly #heard = new WeakSet<object>();
  #goneMs = 0;
  /** Since the last one that got warm, so many died while they loaded. */
  #failures = 0;
  #reason = '';
  /** Gone since the crew was last looked at. */
  #left = 0;
  /** Of the task that waits for a worker; null while one is warm. */
  #asking: AbortController | null = null;
  #stopped = false;
  /** So many there are to be. */
  #threads: number;
  /** A worker died while it loaded. May set another number of them, before successors are asked for. */
  onFailed: (why: string) => void = () => {};
  /** Workers that are gone, all in all. */
  gone = 0;

  constructor(options: CrewOptions) {
    const { piscina, threads } = options;
    this.#options = options;
    this.#threads = threads;
    this.#warm = new Set(piscina.threads);
    piscina.on('workerCreate', ({ id }: { readonly id: number }) => this.#onWarm(id));
    piscina.on('workerDestroy', () => this.#onGone());
  }

  /** Why no batch can run; '' while there is a warm worker, or one will be in its usual time. */
  get trouble(): string {
    if (this.#warm.size > 0) return '';
    if (this.#failures > 0) return this.#reason || ENDED;
    const { loadMsMax } = this.#options;
    return performance.now() - this.#goneMs > loadMsMax ? `it loads for more than ${loadMsMax} ms` : '';
  }

  /** Workers that take batches. */
  get warm(): number {
    return this.#warm.size;
  }

  /** From now on there are to be so many. Those that are too many are ended by whoever says this. */
  setThreads(threads: number): void {
    if (this.#stopped) return;
    this.#threads = threads;
    setThreads(this.#options.piscina, threads);
    this.#fill();
  }

  stop(): void {
    this.#stopped = true;
    this.#asking?.abort();
  }

  #onWarm(id: number): void {
    const { piscina, succession } = this.#options;
    this.#warm.add(piscina.threads.find(({ threadId }) => threadId === id));
    this.#asking = null;
    if (this.#failures > 0)
      notice('info', 'WORKER_BACK', `a worker is warm after ${this.#failures} were not`);
    this.#failures = 0;
    this.#reason = '';
    Atomics.store(succession, 0, 0);
    if (!this.#stopped) this.#fill();
  }

  #onGone(): void {
    this.gone += 1;
    this.#reason = '';
    this.#left += 1;
    // Piscina takes it off its list, and puts a successor on it, after this event.
    if (this.#left === 1) queueMicrotask(() => this.#look());
  }

  #look(): void {
    const { piscina, succession } = this.#options;
    const before = this.#warm.size;
    for (const worker of this.#warm)
      if (!piscina.threads.includes(worker as never)) this.#warm.delete(worker);
    if (before > 0 && this.#warm.size === 0) this.#goneMs = performance.now();
    const failed = this.#left - (before - this.#warm.size);
    this.#left = 0;
    if (this.#stopped) return;
    if (failed > 0) this.onFailed(this.#reason || ENDED);
    // Else it was one more than there have to be, and nobody tries that again.
    if (failed > 0 && piscina.threads.length < this.#threads) {
      this.#failures += failed;
      const waitMs = Math.min(WAIT_MS_MAX, WAIT_MS_MIN * 2 ** Math.min(10, this.#failures - 1));
      Atomics.store(succession, 0, waitMs);
    }
    this.#fill();
  }

  #fill(): void {
    const { piscina } = this.#options;
    if (piscina.threads.length < this.#threads) this.#ask();
    for (const worker of piscina.threads) {
      if (this.#warm.has(worker) || this.#heard.has(worker)) continue;
      this.#heard.add(worker);
      // Piscina has heard of it before, but tells it only where it had given the worker no task.
      worker.once('error', (error) => {
        this.#reason = messageOf(error);
      });
    }
  }

  /**
   * A task that no warm worker takes at once makes piscina start one, so there is one for each of those
   * before it. Where none is warm it waits for the new worker, and is taken back when that dies. Never later:
   * piscina may have given it to another one that loads, and taking back a task from a worker ends that.
   */
  #ask(): void {
    const { piscina } = this.#options;
    const tasks = this.#warm.size + 1;
    this.#asking?.abort();
    this.#asking = this.#warm.size === 0 ? new AbortController() : null;
    const signal = this.#asking?.signal ?? null;
    for (let i = 0; i < tasks; i++) piscina.run(undefined, { name: 'ping', signal }).catch(() => {});
  }
}
