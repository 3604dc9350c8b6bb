/**
 * The main thread's side of the worker threads: batches go out, results come back, a dead worker is replaced.
 */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
import { messageOf, SubitoError } from '../errors.ts';
import { limitsDefault } from '../limits.ts';
import { notice } from '../observe/channels.ts';
import { ROW, ROW_COLUMNS } from '../schedule/slab.ts';
import { Crew } from './crew.ts';
import { allow, halt, haltAll, isInside, nativeCells, outside } from './native.ts';
import type {
  DescribeTask,
  Description,
  InferResult,
  InferTask,
  LoadedModel,
  ModelProblem,
  ModelSpec,
  NativeCells,
  SuccessionCells,
  WorkerOptions,
} from './protocol.ts';

/** How often a thread that hangs in native code is looked at. */
const HUNG_POLL_MS = 20;
/** A batch that had not begun when its worker died. */
const AGAIN_MS = 5;
/** Longest wait for workers to come back from native code before they are ended all the same. */
const NATIVE_MS_MAX = 5_000;

export interface PoolOptions {
  readonly specs: readonly ModelSpec[];
  /** In order of preference; CPU is the last resort whether it is listed or not. */
  readonly providers: readonly string[];
  readonly threads: number;
  readonly slabArenaBytes: number;
  /** Whether workers use the native addon, where they find it. */
  readonly native?: boolean;
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
  readonly #cells: NativeCells;
  readonly #crew: Crew;
  readonly #inferMsMax: number;
  #stopped = false;

  constructor(
    piscina: Piscina,
    description: Description,
    cells: NativeCells,
    crew: Crew,
    options: Required<PoolOptions>,
  ) {
    this.#piscina = piscina;
    this.#cells = cells;
    this.#crew = crew;
    this.loaded = description.loaded;
    this.problems = description.problems;
    this.threads = options.threads;
    this.#inferMsMax = options.inferMsMax;
  }

  /** Why no batch can run now; '' while they can. */
  get trouble(): string {
    return this.#crew.trouble;
  }

  /**
   * Runs one batch. The slab belongs to the worker until this settles. Rejects with WORKER_DIED when the
   * worker died or took longer than `inferMsMax`: its thread is gone, the slab is free, its rows are not
   * done. Native code cannot be ended: a batch that hangs there is reported, and waited for. While there is
   * no worker, because none can be started, the batch waits: that says nothing about its events.
   */
  async run(task: InferTask): Promise<InferResult> {
    const table = new Int32Array(task.shared);
    const at = task.first * ROW_COLUMNS + ROW.thread;
    for (;;) {
      Atomics.store(table, at, 0);
      const gone = this.#crew.gone;
      try {
        return await this.#runOnce(task, table, at);
      } catch (error) {
        // Its worker died of something else, before it had begun.
        const begun = Atomics.load(table, at) !== 0 || this.#crew.gone === gone;
        if (begun || this.#stopped) throw error;
      }
      await sleep(AGAIN_MS);
    }
  }

  async #runOnce(task: InferTask, table: Int32Array, at: number): Promise<InferResult> {
    const stop = new Stop();
    let gone: Promise<unknown> = Promise.resolve();
    const deadline = new Deadline(this.#inferMsMax, () => Atomics.load(table, at), {
      cells: this.#cells,
      onHung: (thread, inside) => this.#reportHung(task, thread, inside),
      onEnd: (thread) => {
        const worker = this.#piscina.threads.find(({ threadId }) => threadId === thread);
        if (worker !== undefined) gone = once(worker, 'exit');
        stop.abort();
      },
    });
    try {
      return await this.#piscina.run(task, { name: 'infer', signal: stop });
    } catch (error) {
      if (!stop.aborted) throw new SubitoError('WORKER_DIED', messageOf(error), { cause: error });
      // Until its thread is gone, it may still write to the slab: given away sooner, that is a wrong
      // prediction.
      await gone;
      const what = `a batch of slot ${task.slot} took longer than ${this.#inferMsMax} ms`;
      throw new SubitoError('WORKER_DIED', what, { cause: error });
    } finally {
      deadline.clear();
    }
  }

  /** Ends the workers, once none of them is inside native code. Batches still in them are rejected. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#crew.stop();
    await endWorkers(this.#piscina, this.#cells);
  }

  #reportHung({ slot }: InferTask, thread: number, inside: boolean): void {
    const where = inside ? ', in native code, which cannot be ended' : '';
    notice('error', 'WORKER_HUNG', `a batch of slot ${slot} takes long in thread ${thread}${where}`);
  }
}

/**
 * What piscina needs of a signal. An AbortController for each batch would cost more than all else that its
 * dispatch does here.
 */
class Stop {
  aborted = false;
  #listener: (() => void) | null = null;

  addEventListener(_name: 'abort', listener: () => void): void {
    this.#listener = listener;
  }

  removeEventListener(): void {
    this.#listener = null;
  }

  abort(): void {
    this.aborted = true;
    this.#listener?.();
  }
}

interface DeadlineActions {
  readonly cells: NativeCells;
  readonly onHung: (thread: number, inside: boolean) => void;
  readonly onEnd: (thread: number) => void;
}

/**
 * Watches one batch. Its time starts when a thread has taken it: until then it may wait for a dead worker's
 * successor. When it is over, the thread is halted, waited for while it is inside native code, and ended.
 */
class Deadline {
  readonly #msMax: number;
  readonly #thread: () => number;
  readonly #actions: DeadlineActions;
  #timer: NodeJS.Timeout;
  #halted = 0;
  #ended = false;

  constructor(msMax: number, thread: () => number, actions: DeadlineActions) {
    this.#msMax = msMax;
    this.#thread = thread;
    this.#actions = actions;
    this.#timer = setTimeout(() => this.#check(thread()), msMax);
  }

  /** The batch is back. A thread that had been halted, and came back by itself after all, goes on. */
  clear(): void {
    clearTimeout(this.#timer);
    if (this.#halted !== 0 && !this.#ended) allow(this.#actions.cells, this.#halted);
  }

  #check(had: number): void {
    const thread = this.#thread();
    if (thread === 0 || thread !== had) {
      // Taken since the last look, or not yet: from now on it has its full time.
      this.#timer = setTimeout(() => this.#check(thread), this.#msMax);
      return;
    }
    const { cells, onHung, onEnd } = this.#actions;
    const first = this.#halted === 0;
    this.#halted = thread;
    halt(cells, thread);
    const inside = isInside(cells, thread);
    if (first) onHung(thread, inside);
    if (inside) {
      this.#timer = setTimeout(() => this.#check(thread), HUNG_POLL_MS);
      return;
    }
    this.#ended = true;
    onEnd(thread);
  }
}

async function endWorkers(piscina: Piscina, cells: NativeCells): Promise<void> {
  haltAll(cells);
  const threads = () => piscina.threads.map(({ threadId }) => threadId);
  if (!(await outside(cells, threads, NATIVE_MS_MAX))) {
    notice('error', 'WORKER_HUNG', `a worker did not come back from native code in ${NATIVE_MS_MAX} ms`);
  }
  await piscina.destroy();
}

/**
 * Starts the workers and resolves once every one of them is warm. Models that do not load are in `problems`,
 * the others serve. Rejects with WORKERS_NOT_STARTED when a worker dies on the way or takes longer than
 * `loadMsMax`.
 */
export async function startPool(given: PoolOptions): Promise<Pool> {
  const { inferMsMax, modelLoadMsMax } = limitsDefault;
  const options = { inferMsMax, loadMsMax: modelLoadMsMax, native: false, ...given };
  const { specs, providers, threads, slabArenaBytes, loadMsMax, native } = options;
  const cells = nativeCells();
  const slots = Math.max(0, ...specs.map(({ slot }) => slot + 1));
  const succession: SuccessionCells = new Int32Array(new SharedArrayBuffer((1 + slots) * 4));
  const piscina = new Piscina({
    filename: fileURLToPath(new URL('./worker.ts', import.meta.url)),
    name: 'infer',
    workerData: {
      models: specs,
      providers,
      slabArenaBytes,
      native,
      cells,
      succession,
    } satisfies WorkerOptions,
    minThreads: threads,
    maxThreads: threads,
    concurrentTasksPerWorker: 1,
    idleTimeout: Number.POSITIVE_INFINITY,
    // Measured equal to the others, idle and loaded, and the only mode in which a handler's own timers go on.
    atomics: 'disabled',
    recordTiming: false,
  });
  // An error outside any task ends its worker.
  piscina.on('error', (error) => notice('error', 'WORKER_DIED', messageOf(error)));

  const arrived = new Int32Array(new SharedArrayBuffer(4));
  const task: DescribeTask = { arrived, threads };
  const late = setTimeout(() => void endWorkers(piscina, cells), loadMsMax);
  try {
    const answers: Description[] = await Promise.all(
      Array.from({ length: threads }, () => piscina.run(task, { name: 'describe' })),
    );
    const [first] = answers as [Description, ...Description[]];
    for (const text of first.notices) notice('warn', 'PROVIDER_FALLBACK', text);
    for (const { slot } of first.loaded) Atomics.store(succession, 1 + slot, 1);
    const crew = new Crew({ piscina, threads, succession, loadMsMax });
    return new Pool(piscina, first, cells, crew, options);
  } catch (error) {
    await endWorkers(piscina, cells);
    const what = `${Atomics.load(arrived, 0)} of ${threads} workers were warm after at most ${loadMsMax} ms`;
    throw new SubitoError('WORKERS_NOT_STARTED', `${what}: ${messageOf(error)}`, { cause: error });
  } finally {
    clearTimeout(late);
  }
}
