/**
 * The steps of a pool's start: some workers load everything; one of them measures its models while the others
 * rest; then there may be more of them.
 */
import type { Piscina } from 'piscina';
import { messageOf } from '../errors.ts';
import type {
  DescribeTask,
  Description,
  LoadedModel,
  ModelProblem,
  ModelProfile,
  ProfileTask,
} from './protocol.ts';

/** Resolves with what each of `threads` workers says once all of them are warm. */
export async function describeWorkers(
  piscina: Piscina,
  threads: number,
  arrived: Int32Array<SharedArrayBuffer>,
): Promise<[Description, ...Description[]]> {
  Atomics.store(arrived, 0, 0);
  const task: DescribeTask = { arrived, threads };
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

/** By slot; of one worker. */
export async function profileModels(
  piscina: Piscina,
  budgetMs: number,
): Promise<readonly (ModelProfile | undefined)[]> {
  const task: ProfileTask = { budgetMs };
  return await piscina.run(task, { name: 'profile' });
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
