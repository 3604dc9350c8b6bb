/**
 * Keeps the embedded server running: one that ended by itself (out of memory, killed, a bug) is started again
 * on the same port and directory, and the engine's connections find it there by themselves.
 *
 * States: serving -> (its owner's connection ends) -> asking why -> serving, when only the connection was
 *   lost; else waiting (backoff) -> starting -> serving, or waiting again -> ... -> given up, after
 *   FAILURES_MAX failures in a row. `stop` leads from each of them to stopped, and nothing from there.
 */
import type { ChildProcess } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { messageOf } from '../errors.ts';
import { notice } from '../observe/channels.ts';

/** A server that serves, and the connection that says whose it is. */
export interface Served {
  readonly owner: Redis;
  readonly pid: number;
  /** Null: it was adopted. */
  readonly child: ChildProcess | null;
}

export interface KeeperOptions {
  readonly dir: string;
  readonly served: Served;
  /** Finds the server of `dir`, or starts one on the same port; rejects early once it is aborted. */
  readonly open: (signal: AbortSignal) => Promise<Served>;
  readonly end: (served: Served) => Promise<void>;
}

const FAILURES_MAX = 5;
const BACKOFF_MS_MIN = 200;
/** A server that served this long starts a new row of failures. */
const STEADY_MS = 60_000;
/** A process may end a little after its connections. */
const EXIT_MS_MAX = 1000;
const POLL_MS = 20;

export class Keeper {
  readonly #options: KeeperOptions;
  readonly #stopping = new AbortController();
  /** Null while it is down. */
  #served: Served | null = null;
  #servedSinceMs = 0;
  #failures = 0;
  #restarting: Promise<void> = Promise.resolve();
  #stopped: Promise<void> | undefined;
  /** Of the server that serves, or served last. */
  pid = 0;

  constructor(options: KeeperOptions) {
    this.#options = options;
    this.#watch(options.served);
  }

  /** Ends the server for good. May be called twice. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.#stopping.abort();
    await this.#restarting;
    if (this.#served !== null) await this.#options.end(this.#served);
  }

  #watch(served: Served): void {
    this.#served = served;
    this.#servedSinceMs = performance.now();
    this.pid = served.pid;
    const lost = () => {
      if (!this.#stopping.signal.aborted) this.#restarting = this.#restart(served);
    };
    // It may have ended while it was being taken over.
    if (served.owner.status === 'end') lost();
    else served.owner.once('end', lost);
  }

  async #restart(served: Served): Promise<void> {
    const { signal } = this.#stopping;
    if (performance.now() - this.#servedSinceMs > STEADY_MS) this.#failures = 0;
    for (let why = await whyEnded(served); ; ) {
      if (why !== '') {
        this.#served = null;
        if (!this.#mayTryAgain(why)) return;
        const waitMs = BACKOFF_MS_MIN * 2 ** (this.#failures - 1);
        await sleep(waitMs, undefined, { signal }).catch(() => {});
        if (signal.aborted) return;
      }
      try {
        this.#watch(await this.#options.open(signal));
        return;
      } catch (error) {
        why = messageOf(error);
      }
    }
  }

  #mayTryAgain(why: string): boolean {
    const { dir } = this.#options;
    this.#failures += 1;
    if (this.#failures <= FAILURES_MAX) {
      notice('warn', 'EMBEDDED_REDIS_DIED', `${why} (in ${dir}); it is being restarted`);
      return true;
    }
    const message = `${why} (in ${dir}); given up after ${FAILURES_MAX} restarts: see redis.log`;
    notice('error', 'EMBEDDED_REDIS_DIED', message);
    return false;
  }
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** '' : it runs, only the connection was lost. */
async function whyEnded({ child, pid }: Served): Promise<string> {
  for (const giveUpAt = performance.now() + EXIT_MS_MAX; performance.now() < giveUpAt; await sleep(POLL_MS)) {
    // An adopted server is no child of ours: nobody tells how it ended.
    if (child === null && !isAlive(pid)) return 'redis-server ended';
    if (child === null) continue;
    if (child.signalCode !== null) return `redis-server ended with ${child.signalCode}`;
    if (child.exitCode !== null) return `redis-server ended with exit code ${child.exitCode}`;
  }
  return '';
}
