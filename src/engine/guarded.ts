/**
 * Which of the loaded models take traffic, and what answers for each when it cannot be asked: the manifests'
 * `degrade` and `breaker`, checked against what was loaded.
 */
import { join } from 'node:path';
import { messageOf } from '../errors.ts';
import type { Pool } from '../infer/pool.ts';
import { bucketFor } from '../infer/profile.ts';
import type { LoadedModel, ModelProblem, ModelSpec, RungSpec } from '../infer/protocol.ts';
import type { Limits } from '../limits.ts';
import { notice } from '../observe/channels.ts';
import { BREAKER_DEFAULTS } from '../schedule/breaker.ts';
import { Guard, type GuardedModel } from '../schedule/guard.ts';
import { Ladder, type Rung } from '../schedule/ladder.ts';
import { LastKnown } from '../schedule/last-known.ts';
import { slabLayout, type TensorSpec } from '../schedule/slab.ts';
import { encodeConstant } from './constant.ts';

export interface Guarded {
  /** Those that take traffic. */
  readonly loaded: readonly LoadedModel[];
  /** Of models that were loaded and take none. */
  readonly problems: readonly ModelProblem[];
  readonly guarded: readonly GuardedModel[];
  /** Of served models: rungs that they have not, and why. */
  readonly lacking: readonly string[];
}

const labelOf = ({ name, version }: ModelSpec) => `${name}@${version}`;

/** Pure, but for what it reads of the pool. */
export function guardModels(
  specs: readonly ModelSpec[],
  pool: Pick<Pool, 'loaded' | 'problems'>,
  { slabArenaBytes }: Pick<Limits, 'slabArenaBytes'>,
): Guarded {
  const found = (slot: number) => pool.loaded.find((one) => one.slot === slot);
  const loaded: LoadedModel[] = [];
  const problems: ModelProblem[] = [];
  const guarded: GuardedModel[] = [];
  const lacking: string[] = [];
  for (const one of pool.loaded) {
    const spec = specs.find(({ slot }) => slot === one.slot) as ModelSpec;
    const label = labelOf(spec);
    const settings = { ...BREAKER_DEFAULTS, ...spec.breaker };
    const base = { slot: spec.slot, label, settings };
    if (spec.previousOf !== undefined) {
      guarded.push({ ...base, enforced: true, ladder: new Ladder([]) });
      continue;
    }
    try {
      const rungs: Rung[] = [];
      for (const rung of spec.degrade ?? []) {
        if (rung.kind !== 'previous') rungs.push(plainRung(rung, spec, one));
        else if (spec.previous !== undefined) {
          const { slot } = spec.previous;
          const before = specs.find((other) => other.slot === slot) as ModelSpec;
          const below = found(slot);
          const why = pool.problems.find(({ model }) => model === labelOf(before))?.message ?? '';
          if (below === undefined) lacking.push(`${label} cannot fall back to ${labelOf(before)}: ${why}`);
          else rungs.push(previousRung([spec, one], [before, below], slabArenaBytes));
        }
      }
      const enforced = spec.degrade !== undefined || spec.breaker !== undefined;
      guarded.push({ ...base, enforced, ladder: new Ladder(rungs) });
      loaded.push(one);
    } catch (error) {
      problems.push({ model: label, message: `${join(spec.dir, 'model.yaml')}: ${messageOf(error)}` });
    }
  }
  for (const { model, message, ...more } of pool.problems) {
    const isPrevious = specs.some((spec) => spec.previousOf !== undefined && labelOf(spec) === model);
    if (!isPrevious) problems.push({ model, message, ...more });
  }
  return { loaded, problems, guarded, lacking };
}

function plainRung(rung: Exclude<RungSpec, { kind: 'previous' }>, spec: ModelSpec, one: LoadedModel): Rung {
  if (rung.kind === 'last_known') return { kind: 'last_known', known: new LastKnown(rung) };
  return { kind: 'constant', ...encodeConstant(rung.outputs, one.predicts, spec.outputs) };
}

type Version = readonly [ModelSpec, LoadedModel];

/** Throws an Error that names both versions when the older cannot run the newer's batches. */
function previousRung([spec, one]: Version, [before, below]: Version, arenaBytes: number): Rung {
  const label = labelOf(before);
  const both = `degrade: previous: ${label} cannot run what ${labelOf(spec)} takes`;
  const [ours, theirs] = [tensorsText(one.inputs), tensorsText(below.inputs)];
  const fix = 'remove previous from the list, or the older version from the disk';
  if (ours !== theirs) throw new Error(`${both}: its inputs are ${theirs}, not ${ours}; ${fix}`);
  const layout = (model: LoadedModel) =>
    JSON.stringify(slabLayout(model.inputs, model.outputs, spec.rowsMax, arenaBytes));
  if (layout(one) !== layout(below)) {
    const outputs = `its outputs are ${tensorsText(below.outputs)}, not ${tensorsText(one.outputs)}`;
    throw new Error(`${both}: ${outputs}, and a batch's memory is laid out for these; ${fix}`);
  }
  return { kind: 'previous', slot: before.slot, label };
}

function tensorsText(tensors: readonly TensorSpec[]): string {
  return tensors.map(({ name, dtype, shape }) => `${name} ${dtype}[${shape.join(',')}]`).join(', ');
}

/** The guard of these models, which run in this pool. */
export function createGuard({ guarded, lacking }: Guarded, pool: Pool, limits: Limits): Guard {
  for (const message of lacking) notice('warn', 'DEGRADE_LACKING', message);
  const providers: string[] = [];
  let seen = -1;
  const providerOf = (slot: number) => {
    const { running } = pool;
    if (running.changes !== seen) {
      providers.length = 0;
      seen = running.changes;
    }
    providers[slot] ??= running.of(slot) || (providersBefore[slot] ?? '');
    if (providers[slot] !== '') providersBefore[slot] = providers[slot];
    return providers[slot];
  };
  /** While no worker has it, it is still what it was. */
  const providersBefore: string[] = [];
  const expectedMs = (slot: number, rows: number) => {
    const buckets = pool.plans.find((plan) => plan.slot === slot)?.profile.buckets ?? [];
    const most = buckets.at(-1)?.rows ?? 0;
    return buckets.find((bucket) => bucket.rows === bucketFor(rows, most))?.p99Ms ?? 0;
  };
  return new Guard({
    models: guarded,
    providerOf,
    expectedMs,
    // A worker that hangs is replaced by then.
    probeMsMax: 2 * limits.inferMsMax,
    now: () => performance.now(),
    random: Math.random,
  });
}
