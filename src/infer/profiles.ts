/**
 * What has been measured of the models, for each provider that one of them runs on. Workers may differ, and
 * batches are of one size for all: so the slowest decides.
 */
import { type ModelPlan, planModel } from './plan.ts';
import type { ModelProfile, ModelSpec, ProviderName } from './protocol.ts';

export class Profiles {
  readonly #specs: readonly ModelSpec[];
  readonly #runMsDefault: number;
  /** By slot and provider. */
  readonly #plans = new Map<number, Map<ProviderName, ModelPlan>>();

  constructor(specs: readonly ModelSpec[], runMsDefault: number) {
    this.#specs = specs;
    this.#runMsDefault = runMsDefault;
  }

  /** Of several workers on one provider the slowest is kept. */
  keep(slot: number, profile: ModelProfile): void {
    const plan = this.#plan(slot, profile);
    const plans = this.#plans.get(slot) ?? new Map<ProviderName, ModelPlan>();
    this.#plans.set(slot, plans);
    const before = plans.get(profile.provider);
    if (before === undefined || plan.rowsMax < before.rowsMax) plans.set(profile.provider, plan);
  }

  has(slot: number, provider: ProviderName): boolean {
    return this.#plans.get(slot)?.has(provider) ?? false;
  }

  /** All that it has been measured on. */
  of(slot: number): ProviderName[] {
    return [...(this.#plans.get(slot)?.keys() ?? [])];
  }

  /** For a model that runs on these; of those that were measured. */
  plan(slot: number, providers: readonly ProviderName[]): ModelPlan {
    const plans = providers.flatMap((provider) => this.#plans.get(slot)?.get(provider) ?? []);
    const unmeasured = { provider: providers[0] ?? 'cpu', buckets: [] } as const;
    const [first = this.#plan(slot, unmeasured), ...others] = plans;
    return others.reduce((least, one) => (one.rowsMax < least.rowsMax ? one : least), first);
  }

  #plan(slot: number, profile: ModelProfile): ModelPlan {
    return planModel(this.#specs.find((one) => one.slot === slot)!, profile, this.#runMsDefault);
  }
}
