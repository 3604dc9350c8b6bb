/** One contestant, one round: warm up, drain a filled stream, then open-loop latency at half of that rate. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Percentiles } from '../src/load/account.ts';
import { loadDefaults } from '../src/load/options.ts';
import type { LoadReport } from '../src/load/report.ts';
import { runLoad } from '../src/load/run.ts';
import type { Contestant } from './contestants.ts';
import type { Runner, Site } from './site.ts';
import { redisCpuUs } from './site.ts';

const DRAIN_MS_MAX = 60_000;
const POLL_MS = 20;
/** Enough for the JIT compiler to have seen the hot loops. */
const WARM_SHARE = 0.2;
/**
 * The generator and the tail are in one process, which sends and reads back about this many a second on a
 * core of its own: beyond it would measure itself.
 */
const LATENCY_RATE_MAX = 80_000;

export interface Plan {
  /** A drain should last at least so long. */
  readonly drainS: number;
  readonly latencyS: number;
  /** The rate at which all contestants are compared, besides half of their own. */
  readonly commonRatePerS: number;
}

export interface Latency {
  readonly ratePerS: number;
  readonly ms: Percentiles;
  readonly lateP99Ms: number;
  readonly bad: number;
}

export interface Round {
  readonly events: number;
  readonly drainPerS: number;
  readonly redisUsPerEvent: number;
  readonly processUsPerEvent: number;
  readonly half: Latency;
  readonly common: Latency;
}

/** Throws when it does not answer every event exactly once. */
export async function measure(
  contestant: Contestant,
  site: Site,
  count: number,
  plan: Plan,
  say: (what: string) => void,
): Promise<Round> {
  await site.wire.call(['FLUSHALL']);
  say('starting');
  const runner = await contestant.start(site);
  try {
    const warm = Math.max(500, Math.round(count * WARM_SHARE));
    say('warming up');
    await contestant.fill(site, 'warm', warm);
    await allAnswered(contestant, site, runner, warm);
    const drained = await drain(contestant, site, runner, warm, count, say);
    say('checking');
    const wrong = await contestant.verify(site, 'drain', count);
    if (wrong !== null) throw new Error(wrong);
    const halfRate = Math.min(LATENCY_RATE_MAX, drained.drainPerS / 2);
    say(`latency at ${halfRate.toFixed(0)}/s`);
    const half = await latency(contestant, site, halfRate, plan.latencyS);
    const commonRate = Math.min(plan.commonRatePerS, halfRate);
    say(`latency at ${commonRate.toFixed(0)}/s`);
    const common = await latency(contestant, site, commonRate, plan.latencyS);
    return { ...drained, half, common };
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${runner.output}`.trim(), { cause: error });
  } finally {
    await runner.stop();
  }
}

async function drain(
  contestant: Contestant,
  site: Site,
  runner: Runner,
  before: number,
  count: number,
  say: (what: string) => void,
): Promise<Omit<Round, 'half' | 'common'>> {
  runner.pause();
  say(`filling ${count}`);
  await contestant.fill(site, 'drain', count);
  say(`draining ${count}`);
  const redisUs = await redisCpuUs(site.wire);
  const processUs = runner.cpuUs();
  const startMs = Date.now();
  runner.resume();
  await allAnswered(contestant, site, runner, before + count);
  const endMs = await contestant.lastAnswerMs(site);
  // Acknowledgements may still be on their way: they belong to the events.
  await sleep(50);
  return {
    events: count,
    drainPerS: (count * 1000) / (endMs - startMs),
    redisUsPerEvent: ((await redisCpuUs(site.wire)) - redisUs) / count,
    processUsPerEvent: (runner.cpuUs() - processUs) / count,
  };
}

async function allAnswered(
  contestant: Contestant,
  site: Site,
  runner: Runner,
  target: number,
): Promise<void> {
  const endMs = Date.now() + DRAIN_MS_MAX;
  for (;;) {
    const answered = await contestant.answered(site);
    if (answered >= target) return;
    if (runner.ended) throw new Error('the process ended');
    if (Date.now() > endMs) throw new Error(`${answered} of ${target} events answered in 60 s`);
    await sleep(POLL_MS);
  }
}

async function latency(
  contestant: Contestant,
  site: Site,
  ratePerS: number,
  seconds: number,
): Promise<Latency> {
  const makeWay = contestant.way(site);
  const report: LoadReport = await runLoad(
    {
      ...loadDefaults,
      ratePerS,
      durationS: seconds,
      warmupS: 1,
      featuresBytes: 256,
      redisUrl: site.redisUrl,
      model: '',
    },
    makeWay === null ? {} : { makeWay },
  );
  if (report.duplicates > 0) throw new Error(`${report.duplicates} events answered more than once`);
  if (report.answered === 0) throw new Error(`nothing answered at ${ratePerS.toFixed(0)}/s`);
  const errors = Object.values(report.errors).reduce((sum, n) => sum + n, 0);
  return { ratePerS, ms: report.latencyMs, lateP99Ms: report.latenessMs.p99, bad: report.lost + errors };
}
