/**
 * The main thread's side of the worker threads: batches go out, results come back, a dead worker is replaced.
 */
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Worker } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { SubitoError } from '../errors.ts';
import { limitsDefault } from '../limits.ts';
import { channels, type NoticeReport } from '../observe/channels.ts';
import type {
  DescribeTask,
  Description,
  InferResult,
  InferTask,
  LoadedModel,
  ModelProblem,
  ModelSpec,
  WorkerOptions,
} from './protocol.ts';

export interface PoolOptions {
  readonly specs: readonly ModelSpec[];
  /** In order of preference; CPU is the last resort whether it is listed or not. */
  readonly providers: readonly string[];
  readonly threads: number;
  readonly slabArenaBytes: number;
  /** From start to the last model warm in the last worker. */
  readonly loadMsMax?: number;
  /** One batch; a worker that takes longer is replaced. */
  readonly inferMsMax?: number;
}

export class Pool {
  readonly loaded: readonly LoadedModel[];
  readonly problems: readonly ModelProblem[];
  readonly threads: number;
  readonly #piscina: Piscina;
  /** Threads that have been warm, by id. */
  readonly #warm: ReadonlySet<number>;
  readonly #inferMsMax: number;
  readonly #loadMsMax: number;

  constructor(
    piscina: Piscina,
    description: Description,
    warm: ReadonlySet<number>,
    options: Required<PoolOptions>,
  ) {
    this.#piscina = piscina;
    this.#warm = warm;
    this.loaded = description.loaded;
    this.problems = description.problems;
    this.threads = options.threads;
    this.#inferMsMax = options.inferMsMax;
    this.#loadMsMax = options.loadMsMax;
  }

  /**
   * Runs one batch. The slab belongs to the worker until this settles. Rejects with WORKER_DIED when the
   * worker died or took longer than `inferMsMax`: its thread is gone, the slab is free, its rows are not
   * done.
   */
  async run(task: InferTask): Promise<InferResult> {
    const stop = new AbortController();
    let before: readonly Worker[] = [];
    let waitedMs = 0;
    const check = (wasLoading: boolean) => {
      waitedMs += this.#inferMsMax;
      // While a dead worker's successor loads, this batch may still wait for it, and has its time after that.
      const loading = this.#piscina.threads.some(({ threadId }) => !this.#warm.has(threadId));
      if ((loading || wasLoading) && waitedMs < this.#loadMsMax) {
        timer = setTimeout(check, this.#inferMsMax, loading);
        return;
      }
      before = this.#piscina.threads;
      stop.abort();
    };
    let timer = setTimeout(check, this.#inferMsMax, false);
    try {
      return await this.#piscina.run(task, { name: 'infer', signal: stop.signal });
    } catch (error) {
      if (!stop.signal.aborted) throw new SubitoError('WORKER_DIED', textOf(error), { cause: error });
      const what = `a batch of slot ${task.slot} took longer than ${this.#inferMsMax} ms`;
      notice('error', 'WORKER_HUNG', what);
      // Told to end, native code ends when it pleases, and until then it may write. A slab that nobody gets
      // back is a loss; one that is given away while a thread still writes to it is a wrong prediction.
      await Promise.all(before.filter((worker) => !this.#piscina.threads.includes(worker)).map(ended));
      throw new SubitoError('WORKER_DIED', what, { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the workers. Batches still in them are rejected: let them finish first. */
  async stop(): Promise<void> {
    await this.#piscina.destroy();
  }
}

async function ended(worker: Worker): Promise<void> {
  if (worker.threadId !== -1) await once(worker, 'exit');
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function notice(level: NoticeReport['level'], code: string, message: string): void {
  channels.notice.publish({ level, code, message } satisfies NoticeReport);
}

/**
 * Starts the workers and resolves once every one of them is warm. Models that do not load are in `problems`,
 * the others serve. Rejects with WORKERS_NOT_STARTED when a worker dies on the way or takes longer than
 * `loadMsMax`.
 */
export async function startPool(given: PoolOptions): Promise<Pool> {
  const { inferMsMax, modelLoadMsMax } = limitsDefault;
  const options = { inferMsMax, loadMsMax: modelLoadMsMax, ...given };
  const { specs, providers, threads, slabArenaBytes, loadMsMax } = options;
  const piscina = new Piscina({
    filename: fileURLToPath(new URL('./worker.ts', import.meta.url)),
    name: 'infer',
    workerData: { models: specs, providers, slabArenaBytes } satisfies WorkerOptions,
    minThreads: threads,
    maxThreads: threads,
    concurrentTasksPerWorker: 1,
    idleTimeout: Number.POSITIVE_INFINITY,
    // Measured equal to the others, idle and loaded, and the only mode in which a handler's own timers go on.
    atomics: 'disabled',
    recordTiming: false,
  });
  // An error outside any task ends its worker; piscina starts another.
  piscina.on('error', (error) => notice('error', 'WORKER_DIED', textOf(error)));

  const warm = new Set<number>();
  piscina.on('workerCreate', ({ id }: { id: number }) => warm.add(id));

  const arrived = new Int32Array(new SharedArrayBuffer(4));
  const task: DescribeTask = { arrived, threads };
  const late = setTimeout(() => void piscina.destroy(), loadMsMax);
  try {
    const answers: Description[] = await Promise.all(
      Array.from({ length: threads }, () => piscina.run(task, { name: 'describe' })),
    );
    const [first] = answers as [Description, ...Description[]];
    for (const text of first.notices) notice('warn', 'PROVIDER_FALLBACK', text);
    return new Pool(piscina, first, warm, options);
  } catch (error) {
    await piscina.destroy();
    const what = `${Atomics.load(arrived, 0)} of ${threads} workers were warm after at most ${loadMsMax} ms`;
    throw new SubitoError('WORKERS_NOT_STARTED', `${what}: ${textOf(error)}`, { cause: error });
  } finally {
    clearTimeout(late);
  }
}
