/** The models as figures and readiness show them: what they run on, and how large their batches may be. */
import type { Config } from '../config.ts';
import { inferShareMs } from '../infer/plan.ts';
import type { Pool, PoolOptions } from '../infer/pool.ts';
import type { ModelSpec } from '../infer/protocol.ts';
import type { ProviderCount } from '../infer/running.ts';
import type { ModelProviderCount, ServedModel } from '../observe/sources.ts';
import type { Guard } from '../schedule/guard.ts';
import type { Guarded } from './guarded.ts';

/** All of a pool's options that the configuration gives. */
export function poolOptions({ workers, latency, limits }: Config): Omit<PoolOptions, 'specs'> {
  return {
    providers: workers.providers,
    threadsMin: workers.min,
    threads: workers.max,
    slabArenaBytes: limits.slabArenaBytes,
    inferMsMax: limits.inferMsMax,
    loadMsMax: limits.modelLoadMsMax,
    profileMsMax: limits.profileMsMax,
    runMsMax: inferShareMs(latency),
  };
}

export class ServedModels {
  readonly #specs: readonly ModelSpec[];
  readonly #pool: Pool;

  readonly #guarded: Pick<Guarded, 'loaded' | 'problems' | 'lacking'>;
  readonly #guard: Guard | null;

  /** `specs` of all models that were found. Without a guard, all that the pool has is served. */
  constructor(specs: readonly ModelSpec[], pool: Pool, guarded?: Guarded, guard: Guard | null = null) {
    this.#specs = specs;
    this.#pool = pool;
    this.#guarded = guarded ?? { loaded: pool.loaded, problems: pool.problems, lacking: [] };
    this.#guard = guard;
  }

  list(): ServedModel[] {
    const plans = this.#pool.plans.filter(({ slot }) => this.#isServed(slot));
    return plans.map(({ slot, rowsMax: batchRows, runMsMax, profile }) => {
      const { name, version, description, rowsMax } = this.#spec(slot);
      const provider = this.#pool.running.of(slot) || profile.provider;
      const { buckets, provider: profileProvider } = profile;
      const measured = { profile: buckets, profileProvider };
      return { name, version, description, provider, rowsMax, batchRows, runMsMax, ...measured };
    });
  }

  sessions(): ModelProviderCount[] {
    return this.#named(this.#pool.running.sessions());
  }

  fallbacks(): ModelProviderCount[] {
    return this.#named(this.#pool.running.fallbacks());
  }

  /** Why no batch can run; '' while they can. */
  get trouble(): string {
    return this.#pool.trouble;
  }

  /** Whether there is a worker that takes batches. */
  get hasWorker(): boolean {
    return this.#pool.warm > 0;
  }

  /** What is not as it was meant to be, although everything is served. */
  compromises(): readonly string[] {
    const running = this.#pool.running.compromises();
    return [...running, ...this.#guarded.lacking, ...(this.#guard?.compromises() ?? [])];
  }

  /** Models that are not served because no provider that they may run on is there. */
  lacking(): string[] {
    const lacking = this.#guarded.problems.filter(({ lacksProvider }) => lacksProvider);
    return lacking.map(({ model, message }) => `${model} is not served: ${message}`);
  }

  #named(counts: readonly ProviderCount[]): ModelProviderCount[] {
    const own = counts.filter(({ slot }) => this.#isServed(slot));
    return own.map(({ slot, provider, count }) => ({ model: this.#spec(slot).name, provider, count }));
  }

  /** Takes traffic: versions that are only fallen back to do not. */
  #isServed(slot: number): boolean {
    return this.#guarded.loaded.some((one) => one.slot === slot);
  }

  #spec(slot: number): ModelSpec {
    return this.#specs.find((spec) => spec.slot === slot) as ModelSpec;
  }
}
