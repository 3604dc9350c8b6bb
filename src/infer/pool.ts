/**
 * The main thread's side of the worker threads: batches go out, results come back, a dead worker is replaced.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
import { messageOf, SubitoError } from '../errors.ts';
import { limitsDefault } from '../limits.ts';
import { notice } from '../observe/channels.ts';
import { ROW, ROW_COLUMNS } from '../schedule/slab.ts';
import { Crew } from './crew.ts';
import { Deadline, type Late } from './deadline.ts';
import { Desks } from './desks.ts';
import { hear, tellDeath } from './hear.ts';
import { haltAll, nativeCells, outside } from './native.ts';
import { type ModelPlan, tellPlan, threadsMost, threadsWanted } from './plan.ts';
import { Profiles } from './profiles.ts';
import type {
  InferResult,
  InferTask,
  LoadedModel,
  ModelProblem,
  ModelSpec,
  NativeCells,
  PlannedCells,
  ProviderEntry,
  ProviderNews,
  SeatCells,
  WorkerNews,
  WorkerOptions,
} from './protocol.ts';
import { Running } from './running.ts';
import { Scaling } from './scaling.ts';
import { agreed, describeWorkers, measureWorkers, setThreads, unlessOneDies } from './start.ts';

/** A batch that had not begun when its worker died. */
const AGAIN_MS = 5;
/** Longest wait for workers to come back from native code before they are ended all the same. */
const NATIVE_MS_MAX = 5_000;

export interface PoolOptions {
  readonly specs: readonly ModelSpec[];
  /** In order of preference. */
  readonly providers: readonly ProviderEntry[];
  /** At most so many workers, now and later. */
  readonly threads: number;
  /** At least so many; how many there are at first is decided by what is measured. Default: `threads`. */
  readonly threadsMin?: number;
  /** What a batch may take, where the model does not say. Default: as long as it likes. */
  readonly runMsMax?: number;
  /** For measuring one model. Default 0: nothing is measured, and batches are as large as manifests say. */
  readonly profileMsMax?: number;
  /** A module whose `open` takes the place of InferenceSession.create, for providers that are not there. */
  readonly opener?: string | null;
  readonly slabArenaBytes: number;
  /** Whether workers use the native addon, where they find it. */
  readonly native?: boolean;
  /** From start to the last model warm in the last worker. */
  readonly loadMsMax?: number;
  /** One batch; a worker that takes longer is replaced. */
  readonly inferMsMax?: number;
}

const DEFAULTS = {
  inferMsMax: limitsDefault.inferMsMax,
  loadMsMax: limitsDefault.modelLoadMsMax,
  native: false,
  runMsMax: Infinity,
  profileMsMax: 0,
  opener: null,
};

interface PoolParts {
  readonly piscina: Piscina;
  readonly cells: NativeCells;
  readonly seats: SeatCells;
  readonly planned: PlannedCells;
  readonly crew: Crew;
  readonly desks: Desks;
  readonly running: Running;
  readonly profiles: Profiles;
  readonly loaded: readonly LoadedModel[];
  readonly problems: readonly ModelProblem[];
  readonly plans: readonly ModelPlan[];
  readonly threads: number;
  readonly threadsMin: number;
  readonly threadsMax: number;
}

export class Pool {
  readonly loaded: readonly LoadedModel[];
  readonly problems: readonly ModelProblem[];
  /** One for each that is loaded; the present one. */
  plans: readonly ModelPlan[];
  /** `scale` takes numbers from here to there. */
  readonly threadsMin: number;
  readonly threadsMax: number;
  /** What each model runs on. */
  readonly running: Running;
  /** A model's batches may have fewer rows from now on: its provider failed, and the next one is slower. */
  onRowsMax: (slot: number, rowsMax: number) => void = () => {};
  readonly #piscina: Piscina;
  readonly #cells: NativeCells;
  readonly #planned: PlannedCells;
  readonly #crew: Crew;
  readonly #desks: Desks;
  readonly #scaling: Scaling;
  readonly #profiles: Profiles;
  readonly #inferMsMax: number;
  readonly #loadMsMax: number;
  #stopped = false;

  constructor(parts: PoolParts, options: Required<PoolOptions>) {
    const { piscina, running, seats } = parts;
    this.#piscina = piscina;
    this.#cells = parts.cells;
    this.#planned = parts.planned;
    this.#profiles = parts.profiles;
    this.#crew = parts.crew;
    this.#desks = parts.desks;
    this.loaded = parts.loaded;
    this.problems = parts.problems;
    this.plans = parts.plans;
    this.threadsMin = parts.threadsMin;
    this.threadsMax = parts.threadsMax;
    this.#scaling = new Scaling({ ...parts, loadMsMax: options.loadMsMax });
    this.running = running;
    this.#inferMsMax = options.inferMsMax;
    this.#loadMsMax = options.loadMsMax;
    piscina.on('message', (news: WorkerNews) => {
      if (news.kind === 'provider') this.#onNews(news, options.specs);
    });
    // Piscina takes a worker off its list after this event.
    piscina.on('workerDestroy', () => queueMicrotask(() => this.#forget(seats)));
  }

  /** Workers that take batches, those included that have died and are being replaced. */
  get threads(): number {
    return this.#scaling.threads;
  }

  /** One is being started, ended or replaced. */
  get changing(): boolean {
    return this.#scaling.changing;
  }

  /** Another one takes batches from now on, or one takes no more. */
  set onWorkers(listener: (change: 1 | -1) => void) {
    this.#scaling.onWorkers = listener;
  }

  /** Starts or ends workers, one after the other. Not while `changing`. Rejects as Scaling does. */
  async scale(threads: number): Promise<void> {
    await this.#scaling.to(Math.max(this.threadsMin, Math.min(this.threadsMax, threads)));
  }

  /** Of the workers there are, some of which may still be loading. */
  threadIds(): number[] {
    return this.#piscina.threads.map(({ threadId }) => threadId);
  }

  /** A worker is on another provider, or a new one is there. It is recorded by now. */
  #onNews({ slot }: ProviderNews, specs: readonly ModelSpec[]): void {
    const before = this.plans.find((one) => one.slot === slot);
    if (before === undefined) return;
    const used = this.running.sessions().filter((one) => one.slot === slot);
    const plan = this.#profiles.plan(
      slot,
      used.map(({ provider }) => provider),
    );
    if (plan.choice.why === 'unmeasured' || plan.profile === before.profile) return;
    tellPlan(specs.find((one) => one.slot === slot)!, plan);
    // Never more: there are batches of that size, and workers that are warm for no more.
    const rowsMax = Math.min(before.rowsMax, plan.rowsMax);
    this.plans = this.plans.map((one) => (one.slot === slot ? { ...plan, rowsMax } : one));
    tellWorkers(this.#planned, this.plans);
    this.onRowsMax(slot, rowsMax);
  }

  #forget(seats: SeatCells): void {
    const threads = this.threadIds();
    this.running.keep(threads);
    for (let seat = 0; seat < seats.length; seat++) {
      const holder = Atomics.load(seats, seat);
      if (holder !== 0 && !threads.includes(holder)) Atomics.store(seats, seat, 0);
    }
  }

  /** Workers that take batches now; one that died is not among them. */
  get warm(): number {
    return this.#crew.warm;
  }

  /** Why no batch can run now; '' while they can, or will again in a moment. */
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
    let late: Late | null = null;
    const deadline = new Deadline({
      runMsMax: this.#inferMsMax,
      moveMsMax: this.#loadMsMax,
      thread: () => Atomics.load(table, at),
      cells: this.#cells,
      onHung: (found) => reportHung(task, found),
      onEnd: (found) => {
        late = found;
        void this.#piscina.threads.find(({ threadId }) => threadId === found.thread)?.terminate();
      },
    });
    try {
      return await this.#desks.run(task);
    } catch (error) {
      // What takes long is then a provider: the batch has not begun.
      if (late !== null && (late as Late).moving) Atomics.store(table, at, 0);
      const what = late === null ? messageOf(error) : tookLonger(task, late);
      throw new SubitoError('WORKER_DIED', what, { cause: error });
    } finally {
      deadline.clear();
    }
  }

  /** Ends the workers, once none of them is inside native code. Batches still in them are rejected. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#scaling.stop();
    this.#crew.stop();
    this.#desks.close();
    await endWorkers(this.#piscina, this.#cells);
  }
}

const tookLonger = ({ slot }: InferTask, { msMax }: Late) =>
  `a batch of slot ${slot} took longer than ${msMax} ms`;

function reportHung({ slot }: InferTask, { thread, moving, inside }: Late): void {
  const what = moving ? `the next provider of slot ${slot}` : `a batch of slot ${slot}`;
  const where = inside ? ', in native code, which cannot be ended' : '';
  notice('error', 'WORKER_HUNG', `${what} takes long in thread ${thread}${where}`);
}

async function endWorkers(piscina: Piscina, cells: NativeCells): Promise<void> {
  haltAll(cells);
  const threads = () => piscina.threads.map(({ threadId }) => threadId);
  if (!(await outside(cells, threads, NATIVE_MS_MAX))) {
    notice('error', 'WORKER_HUNG', `a worker did not come back from native code in ${NATIVE_MS_MAX} ms`);
  }
  await piscina.destroy();
}

/** Workers that load from now on, or are asked to describe themselves, are warm for this. */
function tellWorkers(planned: PlannedCells, plans: readonly ModelPlan[]): void {
  for (const { slot, rowsMax, choice } of plans) {
    if (choice.why !== 'unmeasured') Atomics.store(planned, slot, rowsMax);
  }
}

function workerOptions(options: Required<PoolOptions>, cells: NativeCells, threads: number): WorkerOptions {
  const { specs, providers, slabArenaBytes, native, runMsMax, profileMsMax, opener } = options;
  const slots = Math.max(0, ...specs.map(({ slot }) => slot + 1));
  const zeros = (length: number) => new Int32Array(new SharedArrayBuffer(length * 4));
  return {
    models: specs,
    providers,
    slabArenaBytes,
    native,
    runMsMax,
    profileMsMax,
    opener,
    cells,
    succession: zeros(1 + slots),
    seats: zeros(threads),
    floors: zeros(slots),
    planned: zeros(slots),
    measured: zeros(slots),
  };
}

function openPiscina(workerData: WorkerOptions, minThreads: number, maxThreads: number): Piscina {
  const piscina = new Piscina({
    filename: fileURLToPath(new URL('./worker.ts', import.meta.url)),
    name: 'infer',
    workerData,
    minThreads,
    maxThreads,
    concurrentTasksPerWorker: 1,
    idleTimeout: Number.POSITIVE_INFINITY,
    // Measured equal to the others, idle and loaded, and the only mode in which a handler's own timers go on.
    atomics: 'disabled',
    recordTiming: false,
  });
  return piscina;
}

/**
 * Starts the workers and resolves once every one of them is warm: `threadsMin` at first, and then as many as
 * the measured profiles ask for. Models that do not load are in `problems`, the others serve. Rejects with
 * WORKERS_NOT_STARTED when a worker dies on the way or takes longer than `loadMsMax`.
 */
export async function startPool(given: PoolOptions): Promise<Pool> {
  const options = { ...DEFAULTS, threadsMin: given.threads, ...given };
  const { specs, providers, threadsMin, profileMsMax } = options;
  const most = threadsMost(specs, providers, threadsMin, options.threads);
  const least = Math.min(threadsMin, most);
  const cells = nativeCells();
  const shared = workerOptions(options, cells, most);
  const { succession, seats, planned } = shared;
  const piscina = openPiscina(shared, least, most);
  const running = new Running(specs, providers);
  const profiles = new Profiles(specs, options.runMsMax);
  const desks = new Desks(tellDeath);
  hear(piscina, desks, running, profiles);

  let asked = least;
  const arrived = new Int32Array(new SharedArrayBuffer(4));
  const late = setTimeout(() => void endWorkers(piscina, cells), options.loadMsMax);
  try {
    let descriptions = await describeWorkers(piscina, least, arrived);
    const record = () => {
      for (const { running: news } of descriptions) for (const one of news) running.record(one);
    };
    record();
    const measuring = { arrived, budgetMs: profileMsMax };
    await measureWorkers(piscina, descriptions, profiles, measuring);
    // What was told by a worker that moved meanwhile counts as well.
    const planAll = () =>
      agreed(descriptions).loaded.map(({ slot }) => profiles.plan(slot, profiles.of(slot)));
    const first = planAll();
    tellWorkers(planned, first);
    const threads = threadsWanted(first, least, most);
    setThreads(piscina, threads);
    // Once more, although there may be no others: each of them is to be warm for the plan.
    if (threads > least || profileMsMax > 0) {
      asked = threads;
      descriptions = await unlessOneDies(piscina, describeWorkers(piscina, threads, arrived));
    }
    record();
    // Those that were added may run on another provider.
    await measureWorkers(piscina, descriptions, profiles, measuring);
    const { loaded: served, problems } = agreed(descriptions);
    const plans = planAll();
    tellWorkers(planned, plans);
    const loaded = served.map((one, at) => ({ ...one, profile: plans[at]!.profile }));
    // From here on a worker without one of them is none.
    for (const { slot } of loaded) Atomics.store(succession, 1 + slot, 1);
    running.keepModels(loaded.map(({ slot }) => slot));
    for (const plan of plans) tellPlan(specs.find(({ slot }) => slot === plan.slot)!, plan);
    const crew = new Crew({ piscina, threads, succession, loadMsMax: options.loadMsMax });
    const told = { running, profiles, loaded, problems, plans };
    const number = { threads, threadsMin: least, threadsMax: most };
    return new Pool({ piscina, cells, seats, planned, crew, desks, ...told, ...number }, options);
  } catch (error) {
    await endWorkers(piscina, cells);
    const warm = `${Atomics.load(arrived, 0)} of ${asked} workers were warm`;
    const what = `${warm} after at most ${options.loadMsMax} ms`;
    throw new SubitoError('WORKERS_NOT_STARTED', `${what}: ${messageOf(error)}`, { cause: error });
  } finally {
    clearTimeout(late);
  }
}
