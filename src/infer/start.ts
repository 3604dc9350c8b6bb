/**
 * The steps of a pool's start: some workers load everything; one of them measures its models while the others
 * rest; then there may be more of them.
 */
import type { Piscina } from 'piscina';
import { messageOf } from '../errors.ts';
import type { Profiles } from './profiles.ts';
import type {
  Description,
  LoadedModel,
  Meeting,
  ModelProblem,
  Profiled,
  ProfileTask,
  ProviderName,
} from './protocol.ts';

/** Resolves with what each of `threads` workers says once all of them are warm. */
export async function describeWorkers(
  piscina: Piscina,
  threads: number,
  arrived: Int32Array<SharedArrayBuffer>,
): Promise<[Description, ...Description[]]> {
  Atomics.store(arrived, 0, 0);
  const task: Meeting = { arrived, threads };
  const answers = await Promise.all(
    Array.from({ length: threads }, () => piscina.run(task, { name: 'describe' }) as Promise<Description>),
  );
  return answers as [Description, ...Description[]];
}

/** What can be served, and why the rest is not. */
export interface Agreed {
  readonly loaded: readonly LoadedModel[];
  readonly problems: readonly ModelProblem[];
}

/**
 * A batch goes to whichever worker is free, so only what all of them have loaded is served. They may differ:
 * one GPU of several may be full.
 */
export function agreed(descriptions: readonly [Description, ...Description[]]): Agreed {
  const [first] = descriptions;
  const loaded = first.loaded.filter(({ slot }) =>
    descriptions.every((one) => one.loaded.some((model) => model.slot === slot)),
  );
  const problems = new Map<string, ModelProblem>();
  for (const { thread, problems: own } of descriptions) {
    for (const problem of own) {
      if (problems.has(problem.model)) continue;
      const lacking = descriptions.filter((one) => one.problems.some(({ model }) => model === problem.model));
      const have = descriptions.length - lacking.length;
      const where = ` (in thread ${thread}; ${have} of ${descriptions.length} workers can load it)`;
      const message = have === 0 ? problem.message : problem.message + where;
      problems.set(problem.model, { ...problem, message });
    }
  }
  return { loaded, problems: [...problems.values()] };
}

/** What the workers run this model on. */
function providersOf(descriptions: readonly Description[], slot: number): ProviderName[] {
  const all = descriptions.flatMap(({ running }) => running.filter((one) => one.slot === slot));
  return [...new Set(all.map(({ provider }) => provider))];
}

/** Measures each model on each provider that one of the workers runs it on, where it has not been. */
export async function measureWorkers(
  piscina: Piscina,
  descriptions: readonly [Description, ...Description[]],
  profiles: Profiles,
  { arrived, budgetMs }: Pick<ProfileTask, 'arrived' | 'budgetMs'>,
): Promise<void> {
  const wanted = agreed(descriptions).loaded.flatMap(({ slot }) =>
    providersOf(descriptions, slot)
      .filter((provider) => !profiles.has(slot, provider))
      .map((provider) => ({ slot, provider })),
  );
  if (wanted.length === 0 || budgetMs === 0) return;
  const threads = descriptions.length;
  Atomics.store(arrived, 0, 0);
  const claims = new Int32Array(new SharedArrayBuffer((1 + wanted.length) * 4));
  const task: ProfileTask = { arrived, threads, budgetMs, wanted, claims };
  const answers = await Promise.all(
    descriptions.map(() => piscina.run(task, { name: 'profile' }) as Promise<Profiled[]>),
  );
  for (const { slot, profile } of answers.flat()) profiles.keep(slot, profile);
}

/**
 * From now on there are `threads` workers, and piscina replaces those that die. It reads its options each
 * time it counts, which its types do not let on; test/infer-pool.test.ts would notice another version that
 * does not.
 */
export function setThreads(piscina: Piscina, threads: number): void {
  const options = piscina.options as { minThreads: number; maxThreads: number };
  options.maxThreads = threads;
  options.minThreads = threads;
}

/**
 * Waits for `wait`, but no longer than until a worker dies: one that dies while it loads is not replaced, and
 * the others would wait for it for ever.
 */
export async function unlessOneDies<T>(piscina: Piscina, wait: Promise<T>): Promise<T> {
  const { promise: died, reject } = Promise.withResolvers<never>();
  let reason = 'a worker ended while it loaded';
  const onError = (error: unknown) => {
    reason = messageOf(error);
  };
  // Its error is told after it is gone.
  const onGone = () => setImmediate(() => reject(new Error(reason)));
  piscina.on('error', onError);
  piscina.on('workerDestroy', onGone);
  // Whichever comes second is of no interest.
  died.catch(() => {});
  wait.catch(() => {});
  try {
    return await Promise.race([wait, died]);
  } finally {
    piscina.off('error', onError);
    piscina.off('workerDestroy', onGone);
  }
}
