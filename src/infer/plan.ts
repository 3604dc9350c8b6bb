/**
 * What an engine makes of its models' profiles: the rows of their batches, and how many workers it starts.
 */
import { notice } from '../observe/channels.ts';
import { type BatchChoice, choiceText, chooseBatch, chooseWorkers } from './profile.ts';
import type { ModelProfile, ModelSpec, ProviderEntry } from './protocol.ts';
import { sessionsMax } from './providers.ts';

export interface ModelPlan {
  readonly slot: number;
  /** Rows that a batch may have: at most the manifest's batch.max. */
  readonly rowsMax: number;
  /** What a batch may take. */
  readonly runMsMax: number;
  readonly choice: BatchChoice;
  readonly profile: ModelProfile;
}

/**
 * What a batch may take in a worker. An event may find a batch in front of it that has just begun, and then
 * is in one itself: two of these, and what Redis needs, are to fit into the target.
 */
export function inferShareMs(latency: { readonly targetMs: number; readonly inferShare: number }): number {
  return latency.targetMs * latency.inferShare;
}

export function planModel(spec: ModelSpec, profile: ModelProfile, runMsDefault: number): ModelPlan {
  const runMsMax = spec.runMsMax ?? runMsDefault;
  const choice = chooseBatch(profile, runMsMax, spec.rowsMax);
  return { slot: spec.slot, rowsMax: choice.rows, runMsMax, choice, profile };
}

/** Whoever runs the engine is told of what costs throughput. */
export function tellPlan({ name, version }: ModelSpec, { profile, choice, runMsMax }: ModelPlan): void {
  const text = choiceText(profile, choice, runMsMax);
  if (text === '') return;
  notice('warn', choice.why === 'slow' ? 'MODEL_SLOW' : 'BATCH_CAPPED', `${name}@${version}: ${text}`);
}

/** Threads that there may be, given how many sessions of each model a device may have. */
export function threadsMost(
  specs: readonly ModelSpec[],
  providers: readonly ProviderEntry[],
  min: number,
  max: number,
): number {
  const most = Math.min(max, ...specs.map((spec) => sessionsMax(spec.providers ?? providers)));
  if (most < min) {
    const what = `${most} ${most === 1 ? 'worker' : 'workers'} instead of ${min}`;
    notice('warn', 'WORKERS_LIMITED', `${what}: a model's provider allows no more sessions`);
  }
  return most;
}

export function threadsWanted(plans: readonly ModelPlan[], min: number, max: number): number {
  return chooseWorkers(
    plans.map(({ choice }) => choice),
    min,
    max,
  );
}
