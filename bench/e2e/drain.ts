/**
 * `drain`: a filled stream is drained, by the engine and by the ways in which people do it today, on one
 * private redis-server, in interleaved rounds. Every event has to be answered exactly once.
 */
import { loadDefaults } from '../../src/load/options.ts';
import { runLoad } from '../../src/load/run.ts';
import { missing } from '../peers/python.ts';
import type { GcFigures } from '../probe.ts';
import type { Site } from '../site.ts';
import { openSite } from '../site.ts';
import { middle } from '../statistics.ts';
import { contestantsOf, roundsOf, type Suite, type SuiteOptions, type SuiteResult } from '../suite.ts';
import { type Contestant, contestants } from './contestants.ts';
import { drainSections, type Median } from './drain-text.ts';
import { type Drained, drain, type ThreadsPerEvent, warm } from './warm.ts';

/** The rate at which all are compared: within the reach of the slowest. */
const COMMON_RATE_PER_S = 1000;
const NATIVE_ADDON = 'subito.node';

interface Plan {
  readonly warmMs: number;
  /** A drain should last at least so long. */
  readonly drainS: number;
  readonly latencyS: number;
  readonly rounds: number;
}

/** Latency from the time an event was due to the time its answer was seen, ms. */
export interface Latency {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  /** The generator's own delay (p99), contained in the others. */
  readonly late: number;
  /** Events lost or refused. */
  readonly bad: number;
}

export interface Round extends Drained {
  readonly latency: Latency;
  /** The native addon was loaded. Null: it is not Node. */
  readonly native: boolean | null;
}

function planOf({ quick, check, rounds }: SuiteOptions): Plan {
  if (quick) return { warmMs: 1000, drainS: 1, latencyS: 1, rounds: roundsOf(rounds, 1) };
  return { warmMs: 10_000, drainS: 3.5, latencyS: 3, rounds: roundsOf(rounds, check ? 2 : 3) };
}

export const drainSuite: Suite = {
  name: 'drain',
  what: 'a filled stream is drained: the engine against ioredis, iovalkey, redis-py and BullMQ',
  async run(options) {
    const chosen = contestantsOf(contestants, options.only);
    const absent = absentOf(chosen);
    for (const [name, why] of absent) options.say(`${name} is left out: ${why}`);
    const field = chosen.filter(({ name }) => !absent.has(name));
    const plan = planOf(options);
    const site = await openSite();
    try {
      const rounds = await runRounds(field, site, plan, options.say);
      return resultOf(field, absent, rounds, plan);
    } finally {
      await site.stop();
    }
  },
};

/** By name, why it cannot be measured here. */
function absentOf(field: readonly Contestant[]): Map<string, string> {
  const absent = new Map<string, string>();
  for (const contestant of field) {
    const why = missing(contestant);
    if (why !== null) absent.set(contestant.name, why);
  }
  return absent;
}

async function runRounds(
  field: readonly Contestant[],
  site: Site,
  plan: Plan,
  say: (line: string) => void,
): Promise<Map<string, Round[]>> {
  const rounds = new Map<string, Round[]>(field.map(({ name }) => [name, []]));
  const rates = new Map(field.map(({ name, guessPerS }) => [name, guessPerS]));
  for (let round = 1; round <= plan.rounds; round++) {
    for (const contestant of field) {
      const { name } = contestant;
      const progress = (what: string) => say(`round ${round}/${plan.rounds}  ${name}: ${what}`);
      // As many events as last long enough at the rate seen last time.
      const count = Math.max(1000, Math.ceil(rates.get(name)! * plan.drainS));
      try {
        const one = await measure(contestant, site, count, plan, progress);
        rounds.get(name)!.push(one);
        rates.set(name, one.perS);
        progress(
          `${one.perS.toFixed(0)}/s, Redis ${one.redisUs.toFixed(2)} us, process ` +
            `${one.cpu.total.toFixed(2)} us an event, p99 ${one.latency.p99.toFixed(2)} ms`,
        );
      } catch (error) {
        // A wrong answer is not averaged away, and figures beside it are not to be trusted.
        throw new Error(`${name}: ${(error as Error).message}`, { cause: error });
      }
    }
  }
  return rounds;
}

/** Rejects when it does not answer every event exactly once. */
async function measure(
  contestant: Contestant,
  site: Site,
  count: number,
  plan: Plan,
  say: (what: string) => void,
): Promise<Round> {
  await site.wire.call(['FLUSHALL']);
  const runner = await contestant.start(site);
  try {
    say('warming up');
    await warm(contestant, site, runner, plan.warmMs);
    say(`draining ${count}`);
    const drained = await drain(contestant, site, runner, 'drain', count);
    const wrong = await contestant.verify(site, 'drain', count);
    if (wrong !== null) throw new Error(wrong);
    await contestant.forget(site);
    const latency = await latencyOf(contestant, site, plan.latencyS);
    const probe = await runner.probe();
    return { ...drained, latency, native: probe?.addons.includes(NATIVE_ADDON) ?? null };
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${runner.output}`.trim(), { cause: error });
  } finally {
    await runner.stop();
  }
}

/** Open loop, Poisson arrivals. */
async function latencyOf(contestant: Contestant, site: Site, seconds: number): Promise<Latency> {
  const makeWay = contestant.way(site);
  const report = await runLoad(
    {
      ...loadDefaults,
      ratePerS: COMMON_RATE_PER_S,
      durationS: seconds,
      warmupS: 1,
      featuresBytes: 256,
      redisUrl: site.redisUrl,
      model: '',
    },
    makeWay === null ? {} : { makeWay },
  );
  if (report.duplicates > 0) throw new Error(`${report.duplicates} events answered more than once`);
  if (report.answered === 0) throw new Error(`nothing answered at ${COMMON_RATE_PER_S}/s`);
  const { p50, p99, p999 } = report.latencyMs;
  const errors = Object.values(report.errors).reduce((sum, n) => sum + n, 0);
  return { p50, p99, p999, late: report.latenessMs.p99, bad: report.lost + errors };
}

function resultOf(
  field: readonly Contestant[],
  absent: ReadonlyMap<string, string>,
  rounds: ReadonlyMap<string, readonly Round[]>,
  plan: Plan,
): SuiteResult {
  const medians = field.map(({ name, what }) => medianOf(name, what, rounds.get(name)!));
  // What may not be installed where they are compared again would be missing there.
  const everywhere = medians.filter((_, i) => field[i]!.venv === null);
  return {
    sections: drainSections(medians, absent, plan.rounds, COMMON_RATE_PER_S),
    ratios: ratiosOf(everywhere),
    plots: [],
    raw: { plan, absent: Object.fromEntries(absent), rounds: Object.fromEntries(rounds) },
  };
}

export function medianOf(name: string, what: string, rounds: readonly Round[]): Median {
  const of = (pick: (round: Round) => number) => middle(rounds.map(pick));
  const runs = rounds.map(({ cpu }) => cpu.run).filter((run) => run !== null);
  const redisUs = of((round) => round.redisUs);
  const perS = of((round) => round.perS);
  return {
    name,
    what,
    perS,
    redisUs,
    ceilingPerS: 1e6 / redisUs,
    ofCeiling: of((round) => (round.perS * round.redisUs) / 1e6),
    cpu: {
      total: of(({ cpu }) => cpu.total),
      user: of(({ cpu }) => cpu.user),
      sys: of(({ cpu }) => cpu.sys),
      threads: threadsOf(rounds),
      run: runs.length === 0 ? null : middle(runs),
    },
    gc: collectionsOf(rounds),
    drainS: of((round) => round.events / round.perS),
    latency: {
      p50: of(({ latency }) => latency.p50),
      p99: of(({ latency }) => latency.p99),
      p999: of(({ latency }) => latency.p999),
      late: of(({ latency }) => latency.late),
      bad: rounds.reduce((sum, { latency }) => sum + latency.bad, 0),
    },
    native: rounds.some(({ native }) => native === null) ? null : rounds.every(({ native }) => native),
  };
}

function threadsOf(rounds: readonly Round[]): ThreadsPerEvent | null {
  const seen = rounds.map(({ cpu }) => cpu.threads).filter((threads) => threads !== null);
  if (seen.length === 0) return null;
  return {
    main: middle(seen.map(({ main }) => main)),
    workers: middle(seen.map(({ workers }) => workers)),
    others: middle(seen.map(({ others }) => others)),
  };
}

function collectionsOf(rounds: readonly Round[]): GcFigures | null {
  const seen = rounds.map(({ gc }) => gc).filter((gc) => gc !== null);
  if (seen.length === 0) return null;
  return {
    count: middle(seen.map(({ count }) => count)),
    ms: middle(seen.map(({ ms }) => ms)),
    // Of all rounds: a pause that came once is a pause.
    maxMs: Math.max(...seen.map(({ maxMs }) => maxMs)),
  };
}

/** The engine against each of the others, by events a second and by processor time; and against Redis. */
export function ratiosOf(medians: readonly Median[]): Record<string, number> {
  const own = medians.find(({ name }) => name === 'subito');
  if (own === undefined) return {};
  const ratios: Record<string, number> = { 'of the Redis ceiling': own.ofCeiling };
  for (const other of medians) {
    if (other === own) continue;
    ratios[`events/s against ${other.name}`] = own.perS / other.perS;
    ratios[`CPU per event against ${other.name}`] = other.cpu.total / own.cpu.total;
  }
  return ratios;
}
