/** What a part of this suite is. */
import type { Site } from '../site.ts';
import type { Plot, Section } from '../suite.ts';
import type { OverloadEngine } from './engine.ts';
import type { ModelsOptions } from './models.ts';
import type { Plan } from './plan.ts';
import type { Target } from './targets.ts';

/** What every scenario is given. */
export interface Ground {
  readonly site: Site;
  readonly plan: Plan;
  /** Events of the slow model a second, measured at the beginning of the run. */
  readonly capacityPerS: number;
  readonly say: (line: string) => void;
  /** An engine of the scenario's own, ended when `use` is done. */
  withEngine<T>(use: (engine: OverloadEngine) => Promise<T>, models?: ModelsOptions): Promise<T>;
  /** The same, with its capacity measured just before: what else the machine does changes it. */
  withMeasured<T>(
    use: (engine: OverloadEngine, capacityPerS: number) => Promise<T>,
    models?: ModelsOptions,
  ): Promise<T>;
}

export interface Finding {
  readonly sections: readonly Section[];
  readonly targets: readonly Target[];
  /** As in SuiteResult. */
  readonly ratios: Readonly<Record<string, number>>;
  readonly plots: readonly Plot[];
  readonly raw: unknown;
}

export interface Scenario {
  /** As given to --only. */
  readonly name: string;
  readonly what: string;
  run(ground: Ground): Promise<Finding>;
}
