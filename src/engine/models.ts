/** The models as figures and readiness show them: what they run on, and how large their batches may be. */
import type { Config } from '../config.ts';
import { inferShareMs } from '../infer/plan.ts';
import type { Pool, PoolOptions } from '../infer/pool.ts';
import type { ModelSpec } from '../infer/protocol.ts';
import type { ProviderCount } from '../infer/running.ts';
import type { ModelProviderCount, ServedModel } from '../observe/sources.ts';

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

  /** `specs` of all models that were found. */
  constructor(specs: readonly ModelSpec[], pool: Pool) {
    this.#specs = specs;
    this.#pool = pool;
  }

  list(): ServedModel[] {
    return this.#pool.plans.map(({ slot, rowsMax: batchRows, runMsMax, profile }) => {
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

  /** What is not as it was meant to be, although everything is served. */
  compromises(): readonly string[] {
    return this.#pool.running.compromises();
  }

  /** Models that are not served because no provider that they may run on is there. */
  lacking(): string[] {
    const lacking = this.#pool.problems.filter(({ lacksProvider }) => lacksProvider);
    return lacking.map(({ model, message }) => `${model} is not served: ${message}`);
  }

  #named(counts: readonly ProviderCount[]): ModelProviderCount[] {
    return counts.map(({ slot, provider, count }) => ({ model: this.#spec(slot).name, provider, count }));
  }

  #spec(slot: number): ModelSpec {
    return this.#specs.find((spec) => spec.slot === slot) as ModelSpec;
  }
}
