/**
 * `latency`: from the time an event was due to be added to the time its prediction was read, at shares of the
 * sustained rate; in turns with a bare loop over the same Redis.
 */
import { type GeneratorReport, generate } from '../generator.ts';
import { Runner } from '../runner.ts';
import { openSite, type Site } from '../site.ts';
import { middle } from '../statistics.ts';
import { contestantsOf, roundsOf, type Suite, type SuiteOptions, type SuiteResult } from '../suite.ts';
import { latencyResult, type Point } from './latency-text.ts';
import { openPlan, PACE, PACE_QUICK, PacedEngine, type Sustained } from './pace.ts';

export const SHARES: readonly number[] = [0.1, 0.5, 0.8, 0.95];

/** One open loop. */
export interface Run {
  readonly share: number;
  readonly ratePerS: number;
  readonly report: GeneratorReport;
}

const contestants = [{ name: 'subito' }, { name: 'bare' }];

export const latencySuite: Suite = {
  name: 'latency',
  what: 'an open loop at shares of the sustained rate: added to predicted, against a bare loop over Redis',
  async run(options: SuiteOptions) {
    const { quick, rounds, say } = options;
    const names = contestantsOf(contestants, options.only).map(({ name }) => name);
    const settings = quick ? PACE_QUICK : PACE;
    const site = await openSite();
    try {
      const engine = await PacedEngine.start(site, settings, say);
      const bare = await startBare(site);
      try {
        const found = await engine.sustained(settings, true);
        const seconds = quick ? 2 : 10;
        const turns = roundsOf(rounds, quick ? 1 : 3);
        say('warming up the bare loop');
        await runBare(site, bare, 'warm', found.ratePerS / 2, quick ? 1 : 5);
        return await measure(engine, bare, found, { seconds, turns, names, say });
      } finally {
        await Promise.all([engine.stop(), bare.stop()]);
      }
    } finally {
      await site.stop();
    }
  },
};

interface Plan {
  readonly seconds: number;
  readonly turns: number;
  readonly names: readonly string[];
  say(line: string): void;
}

function startBare(site: Site): Promise<Runner> {
  const path = new URL('./bare-loop.ts', import.meta.url).pathname;
  return Runner.start([path, site.redisUrl], async (output) => output.includes('ready\n'));
}

async function measure(
  engine: PacedEngine,
  bare: Runner,
  found: Sustained,
  plan: Plan,
): Promise<SuiteResult> {
  const { seconds, turns, names, say } = plan;
  const runs: Record<string, Run[]> = Object.fromEntries(names.map((name) => [name, []]));
  for (let turn = 1; turn <= turns; turn++) {
    for (const share of SHARES) {
      const ratePerS = found.ratePerS * share;
      for (const name of names) {
        const report =
          name === 'subito'
            ? (await engine.run(ratePerS, seconds, true)).report
            : await runBare(engine.site, bare, `bare${turn}-${share}`, ratePerS, seconds);
        runs[name]!.push({ share, ratePerS, report });
        const { p50, p99 } = report.latency!;
        say(
          `turn ${turn}/${turns}  ${name} at ${ratePerS.toFixed(0)}/s: ` +
            `p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms`,
        );
      }
    }
  }
  const points = Object.fromEntries(names.map((name) => [name, pointsOf(runs[name]!)]));
  return latencyResult(found, points, { seconds, turns }, runs);
}

async function runBare(
  site: Site,
  bare: Runner,
  batch: string,
  ratePerS: number,
  seconds: number,
): Promise<GeneratorReport> {
  const report = await generate(openPlan(site, { batch, ratePerS, seconds, observe: true }, 'bare:'));
  if (bare.ended) throw new Error(`the bare loop ended:\n${bare.output}`);
  if (report.missing > 0 || report.duplicates > 0) {
    throw new Error(`the bare loop left ${report.missing} events, and answered ${report.duplicates} twice`);
  }
  for (const stream of ['bare:events', 'bare:predictions']) {
    await site.wire.call(['XTRIM', stream, 'MAXLEN', '0']);
  }
  return report;
}

/** Medians over the turns, by share. */
function pointsOf(runs: readonly Run[]): Point[] {
  return SHARES.map((share) => {
    const same = runs.filter((run) => run.share === share);
    const of = (pick: (report: GeneratorReport) => number) => middle(same.map(({ report }) => pick(report)));
    const percents = same[0]!.report.curve.map(([percent]) => percent);
    const told = percents.filter((percent) =>
      same.every(({ report }) => report.curve.some(([each]) => each === percent)),
    );
    const at = (report: GeneratorReport, percent: number) =>
      report.curve.find(([each]) => each === percent)![1];
    return {
      share,
      ratePerS: same[0]!.ratePerS,
      p50: of(({ latency }) => latency!.p50),
      p90: of(({ latency }) => latency!.p90),
      p99: of(({ latency }) => latency!.p99),
      p999: of(({ latency }) => latency!.p999),
      // A stall that came once is a stall.
      max: Math.max(...same.map(({ report }) => report.latency!.max)),
      late: of(({ late }) => late!.p99),
      curve: told.map((percent) => [percent, of((report) => at(report, percent))]),
    };
  });
}
