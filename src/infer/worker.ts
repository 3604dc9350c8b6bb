/**
 * The worker thread's entry point: loads every model, then takes batches from its desk. What is asked of it
 * seldom, at a start above all, are piscina's tasks: the functions exported here.
 */
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { parentPort, threadId, workerData } from 'node:worker_threads';
import { messageOf } from '../errors.ts';
import { loadNative, type Native } from '../native.ts';
import { ROW, ROW_COLUMNS } from '../schedule/slab.ts';
import { openDesk } from './desk.ts';
import { NoProvider, type OpenSession, ProviderLost } from './ladder.ts';
import { loadModel } from './load.ts';
import type { Model } from './model.ts';
import { isHalted, NativeHalted, useNativeCells } from './native.ts';
import type {
  AddonNews,
  Description,
  InferResult,
  InferTask,
  Meeting,
  ModelProblem,
  ModelProfile,
  ModelSpec,
  Profiled,
  ProfileTask,
  ProviderNews,
  WorkerOptions,
} from './protocol.ts';
import { profileOf, type Warmed, warmMore } from './warm.ts';

const options = workerData as WorkerOptions;
const {
  models: specs,
  providers,
  slabArenaBytes,
  native,
  cells,
  succession,
  floors,
  planned,
  measured,
  profileMsMax,
} = options;
useNativeCells(cells);
// The workers before this one died while they loaded: not at once again.
await sleep(Atomics.load(succession, 0));

/** By the model's slot. */
const models: (Model | undefined)[] = [];
/** Until they have been measured. */
const warmed: (Warmed | undefined)[] = [];
/** Which of its providers it runs on, as an index. */
const places: number[] = [];
const problems: ModelProblem[] = [];
const running: ProviderNews[] = [];
const addon = native ? loadAddon() : null;
const seat = takeSeat();
const open = await openerOf(options.opener);

for (const spec of specs) {
  try {
    await load(spec);
  } catch (error) {
    const message = `${placeOf(spec, messageOf(error))}/${messageOf(error)}`;
    // Its batches would all fail here, for want of a file that may be back in a moment.
    if (isServed(spec.slot) && !isHalted()) throw new Error(message);
    // At the start, a broken model never stops the others.
    const lacksProvider = error instanceof NoProvider;
    problems.push({
      model: `${spec.name}@${spec.version}`,
      message,
      ...(lacksProvider ? { lacksProvider } : {}),
    });
  }
}

// Once piscina knows that this worker is there: one that died before would not be replaced.
setImmediate(() => openDesk(infer));

async function load(spec: ModelSpec): Promise<void> {
  const { slot } = spec;
  const runMsMax = spec.runMsMax ?? options.runMsMax;
  const from = Atomics.load(floors, slot);
  const loading = await loadModel(spec, providers, slabArenaBytes, addon, {
    open,
    seat,
    from,
    runMsMax,
    profileMsMax,
    rowsLeast: () => Atomics.load(planned, slot),
    // Who takes this worker's place need not find out again; when all have failed, it may as well try them.
    onLeave: (at) => Atomics.store(floors, slot, at),
    onLost: () => Atomics.store(floors, slot, from),
    onMove: ({ provider, at, left, profile }) => {
      Atomics.store(floors, slot, at);
      places[slot] = at;
      Atomics.or(measured, slot, 1 << at);
      parentPort?.postMessage(news(slot, provider, left, profile));
    },
  });
  const { model, left, at } = loading;
  const { provider } = model.parts.loaded;
  models[slot] = model;
  warmed[slot] = loading.warmed;
  places[slot] = at;
  let profile: ModelProfile | null = null;
  // The engine has measured it on other providers.
  const isNew = (Atomics.load(measured, slot) & (1 << at)) === 0;
  if (isServed(slot) && isNew && profileMsMax > 0) profile = await measure(spec, profileMsMax);
  const told = news(slot, provider, left, profile);
  running.push(told);
  // One that takes a dead worker's place is not asked to describe itself.
  if (isServed(slot)) parentPort?.postMessage(told);
}

function news(
  slot: number,
  provider: ProviderNews['provider'],
  left: ProviderNews['left'],
  profile: ModelProfile | null,
): ProviderNews {
  return { kind: 'provider', thread: threadId, slot, provider, left, profile };
}

function loadAddon(): Native | null {
  const { native: found, why } = loadNative('auto');
  if (found === null) parentPort?.postMessage({ kind: 'addon', why } satisfies AddonNews);
  return found;
}

/** The model is loaded in other workers, and takes events. */
function isServed(slot: number): boolean {
  return Atomics.load(succession, 1 + slot) === 1;
}

/** The first that is free. */
function takeSeat(): number {
  const { seats } = options;
  for (let i = 0; i < seats.length; i++) {
    if (Atomics.compareExchange(seats, i, 0, threadId) === 0) return i;
  }
  return threadId;
}

async function openerOf(path: string | null): Promise<OpenSession | null> {
  if (path === null) return null;
  const module = (await import(pathToFileURL(path).href)) as { readonly open: OpenSession };
  return module.open;
}

/** A message begins with the file that it is about. */
function placeOf(spec: ModelSpec, message: string): string {
  return message.startsWith('model.onnx') ? dirname(spec.onnxPath) : spec.dir;
}

/**
 * Warms what the plan asks for by now, and answers once all `threads` workers are here; waiting keeps this
 * one from taking another's task.
 */
export async function describe({ arrived, threads }: Meeting): Promise<Description> {
  // What did not load did so for that reason.
  if (isHalted()) throw new NativeHalted();
  await warmPlanned();
  meet({ arrived, threads });
  const loaded = models.flatMap((model) => (model ? [model.parts.loaded] : []));
  const now = running.map((one) => ({ ...one, provider: models[one.slot]?.provider ?? one.provider }));
  return { thread: threadId, loaded, problems, running: now };
}

/** Returns once all are here. */
function meet({ arrived, threads }: Meeting): void {
  Atomics.add(arrived, 0, 1);
  Atomics.notify(arrived, 0);
  for (;;) {
    const count = Atomics.load(arrived, 0);
    if (count >= threads) return;
    Atomics.wait(arrived, 0, count);
  }
}

/** This worker may have met a stall where the one that was measured did not. */
async function warmPlanned(): Promise<void> {
  for (const { slot, rowsMax } of specs) {
    const rowsLeast = Atomics.load(planned, slot);
    const before = warmed[slot];
    const done = before?.buckets.at(-1)?.rows ?? 0;
    if (before === undefined || done >= rowsLeast) continue;
    const all = { rowsMax: Math.min(rowsMax, rowsLeast), runMsMax: Infinity, rowsLeast };
    warmed[slot] = await warmMore(models[slot]!, before, all);
  }
}

/** What this worker was the first to take of what is wanted. */
export async function profile(task: ProfileTask): Promise<Profiled[]> {
  meet(task);
  const { wanted, claims, budgetMs } = task;
  const mine = wanted.filter(
    ({ slot, provider }, i) =>
      models[slot]?.provider === provider && Atomics.compareExchange(claims, 1 + i, 0, 1) === 0,
  );
  if (mine.length === 0) return [];
  // Not while another one measures. Whoever dies meanwhile ends the start.
  while (Atomics.compareExchange(claims, 0, 0, 1) !== 0) Atomics.wait(claims, 0, 1);
  try {
    const profiles: Profiled[] = [];
    for (const { slot } of mine) {
      const spec = specs.find((one) => one.slot === slot)!;
      profiles.push({ slot, profile: await measure(spec, budgetMs) });
    }
    return profiles;
  } finally {
    Atomics.store(claims, 0, 0);
    Atomics.notify(claims, 0);
  }
}

async function measure({ slot, runMsMax }: ModelSpec, budgetMs: number): Promise<ModelProfile> {
  const may = runMsMax ?? options.runMsMax;
  const profile = await profileOf(models[slot]!, warmed[slot]!, { runMsMax: may, budgetMs });
  Atomics.or(measured, slot, 1 << places[slot]!);
  return profile;
}

/** Nothing to do; asking for it makes the pool start a worker that is missing. */
export function ping(): void {}

async function infer(task: InferTask): Promise<InferResult> {
  // Nothing is measured any more once there are events; a slab for each model is not nothing.
  warmed.length = 0;
  const model = models[task.slot];
  // It took a dead worker's place before anybody knew that this model is served.
  if (model === undefined) return await giveBack(task, new Error(lackOf(task.slot)));
  try {
    return await model.infer(task);
  } catch (error) {
    if (!(error instanceof ProviderLost)) throw error;
    return await giveBack(task, error);
  }
}

/**
 * No event is to blame. Whoever waits for this batch takes it for one that had not begun; this worker ends,
 * and others are tried until one can run it.
 */
async function giveBack(task: InferTask, why: Error): Promise<never> {
  Atomics.store(new Int32Array(task.shared), task.first * ROW_COLUMNS + ROW.thread, 0);
  setImmediate(() => {
    throw why;
  });
  return await new Promise<never>(() => {});
}

function lackOf(slot: number): string {
  const spec = specs.find((one) => one.slot === slot);
  const label = `${spec?.name}@${spec?.version}`;
  return problems.find(({ model }) => model === label)?.message ?? `${label} is not loaded in this worker`;
}
