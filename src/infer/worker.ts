/**
 * The worker thread's entry point: loads every model, then serves the pool's tasks by the functions it
 * exports.
 */
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { workerData } from 'node:worker_threads';
import { messageOf } from '../errors.ts';
import { loadNative } from '../native.ts';
import { loadModel } from './load.ts';
import type { Model } from './model.ts';
import { isHalted, NativeHalted, useNativeCells } from './native.ts';
import type {
  DescribeTask,
  Description,
  InferResult,
  InferTask,
  ModelProblem,
  WorkerOptions,
} from './protocol.ts';

const { models: specs, providers, slabArenaBytes, native, cells, succession } = workerData as WorkerOptions;
useNativeCells(cells);
// The workers before this one died while they loaded: not at once again.
await sleep(Atomics.load(succession, 0));

/** By the model's slot. */
const models: (Model | undefined)[] = [];
const problems: ModelProblem[] = [];
const notices: string[] = [];
const addon = native ? loadNative('auto').native : null;

for (const spec of specs) {
  try {
    const { model, notices: more } = await loadModel(spec, providers, slabArenaBytes, addon);
    models[spec.slot] = model;
    notices.push(...more);
  } catch (error) {
    const message = `${placeOf(spec, messageOf(error))}/${messageOf(error)}`;
    // Its batches would all fail here, for want of a file that may be back in a moment.
    if (Atomics.load(succession, 1 + spec.slot) === 1 && !isHalted()) throw new Error(message);
    // At the start, a broken model never stops the others.
    problems.push({ model: `${spec.name}@${spec.version}`, message });
  }
}

/** A message begins with the file that it is about. */
function placeOf(spec: (typeof specs)[number], message: string): string {
  return message.startsWith('model.onnx') ? dirname(spec.onnxPath) : spec.dir;
}

/** Answers once all `threads` workers are here; waiting keeps this one from taking another's task. */
export function describe({ arrived, threads }: DescribeTask): Description {
  // What did not load did so for that reason.
  if (isHalted()) throw new NativeHalted();
  Atomics.add(arrived, 0, 1);
  Atomics.notify(arrived, 0);
  for (;;) {
    const count = Atomics.load(arrived, 0);
    if (count >= threads) break;
    Atomics.wait(arrived, 0, count);
  }
  return { loaded: models.flatMap((model) => (model ? [model.parts.loaded] : [])), problems, notices };
}

/** Nothing to do; asking for it makes the pool start a worker that is missing. */
export function ping(): void {}

export async function infer(task: InferTask): Promise<InferResult> {
  const model = models[task.slot];
  if (model === undefined) throw new Error(`no model is loaded in slot ${task.slot}`);
  return await model.infer(task);
}
