/**
 * `overload`: more than the engine can do, in several ways, and what goes wrong besides. The model is slow
 * enough to be the bottleneck; what it can do is measured first, and all rates are shares of that.
 */
import { openSite, type Site } from '../site.ts';
import { contestantsOf, type Section, type Suite, type SuiteOptions, type SuiteResult } from '../suite.ts';
import { prose, whole } from '../text.ts';
import { type Capacity, capacityOf } from './capacity.ts';
import { OverloadEngine } from './engine.ts';
import { PLAN, PLAN_CHECK, PLAN_QUICK, type Plan } from './plan.ts';
import type { Finding, Ground, Scenario } from './scenario.ts';
import { autocannon } from './scenarios/autocannon.ts';
import { faults } from './scenarios/faults.ts';
import { ladder } from './scenarios/ladder.ts';
import { priorities } from './scenarios/priorities.ts';
import { slowdown } from './scenarios/slowdown.ts';
import { steady } from './scenarios/steady.ts';
import { tenants } from './scenarios/tenants.ts';
import { targetSection } from './text.ts';

export const scenarios: readonly Scenario[] = [
  steady,
  slowdown,
  priorities,
  tenants,
  ladder,
  faults,
  autocannon,
];

export const overloadSuite: Suite = {
  name: 'overload',
  what: 'more than the engine can do: goodput, priorities, tenants, a slow, a failing and a hanging model',
  async run({ quick, check = false, only, say }: SuiteOptions) {
    const plan = quick ? PLAN_QUICK : check ? PLAN_CHECK : PLAN;
    return await runScenarios(contestantsOf(scenarios, only), plan, say);
  },
};

export async function runScenarios(
  field: readonly Scenario[],
  plan: Plan,
  say: (line: string) => void,
): Promise<SuiteResult> {
  const site = await openSite();
  try {
    const capacity = await withEngine(site, plan, (engine) => capacityOf(engine, plan));
    say(`capacity: ${capacity.perS.toFixed(0)} events/s`);
    const findings = new Map<string, Finding>();
    for (const { name, what, run } of field) {
      say(`${name}: ${what}`);
      const ground: Ground = {
        ...{ site, plan, capacityPerS: capacity.perS },
        say: (line) => say(`${name}: ${line}`),
        withEngine: (use, models) => withEngine(site, plan, use, models),
        withMeasured: (use, models) =>
          withEngine(
            site,
            plan,
            async (engine) => use(engine, (await capacityOf(engine, plan)).perS),
            models,
          ),
      };
      findings.set(name, await run(ground));
    }
    return resultOf(capacity, findings, plan);
  } finally {
    await site.stop();
  }
}

async function withEngine<T>(
  site: Site,
  plan: Plan,
  use: (engine: OverloadEngine) => Promise<T>,
  models: Parameters<Ground['withEngine']>[1] = {},
): Promise<T> {
  const engine = await OverloadEngine.start(site, plan.deadlineMs, models);
  try {
    return await use(engine);
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${engine.runner.output}`.trim(), { cause: error });
  } finally {
    await engine.stop();
  }
}

function resultOf(capacity: Capacity, findings: ReadonlyMap<string, Finding>, plan: Plan): SuiteResult {
  const all = [...findings.values()];
  const raw = [...findings].map(([name, finding]) => [name, finding.raw]);
  return {
    sections: [
      capacitySection(capacity, plan),
      targetSection(all.flatMap(({ targets }) => targets)),
      ...all.flatMap(({ sections }) => sections),
    ],
    ratios: Object.assign({}, ...all.map(({ ratios }) => ratios)),
    plots: all.flatMap(({ plots }) => plots),
    raw: { plan, capacity, targets: all.flatMap(({ targets }) => targets), ...Object.fromEntries(raw) },
  };
}

function capacitySection({ events, perS }: Capacity, { deadlineMs }: Plan): Section {
  return {
    title: 'The capacity',
    text: [
      prose(`${whole(perS)} events a second: a drain of ${whole(events)} events without hurry, by one worker
        whose model takes about ${(1000 / perS).toFixed(1)} ms a row. It is measured again, in the same way,
        on the engine of each part just before it: rates and goodput are shares of that. All loads are open
        loops with Poisson arrivals; generator, Redis and engine share the machine. Events are of use for
        ${deadlineMs} ms. Each part has an engine of its own: \`subito serve\` with a slow model and a fast
        one, one worker.`),
    ],
    table: null,
  };
}
