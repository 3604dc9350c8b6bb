/**
 * The steps of a pool's start: some workers load everything; one of them measures its models while the others
 * rest; then there may be more of them.
 */
import type { Piscina } from 'piscina';
import { messageOf } from '../errors.ts';
import type { DescribeTask, Description, ModelProfile, ProfileTask } from './protocol.ts';

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
