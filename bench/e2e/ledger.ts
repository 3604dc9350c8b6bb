/**
 * `ledger`: what the delivery ledger costs. The full path is drained with its upkeep (sweeps for what others
 * left, reaping, trimming) and without. Two engines share a group on one private redis-server and take turns,
 * a second or so each, the other one stopped: whatever else the machine does meets both alike. What makes a
 * settlement exactly-once is in the commit itself and cannot be switched off; it is in both, and so is the
 * heartbeat of one short script a second.
 *
 * Expected: nothing that can be measured, for the upkeep is a few short scripts a second. Fails when the
 * median ratio is below 0.95.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Runner } from '../runner.ts';
import { openSite, redisCpuUs, type Site } from '../site.ts';
import { middle } from '../statistics.ts';
import { added, fillStream, lastAddedMs } from '../streams.ts';
import { roundsOf, type Suite, type SuiteResult } from '../suite.ts';
import { percent, prose, whole } from '../text.ts';

const RATIO_MIN = 0.95;
const DRAIN_MS_MAX = 60_000;
/** A stopped engine's read still waits in Redis, and would be given what is filled in. */
const READ_BLOCK_MS = 1_000;

type Upkeep = 'on' | 'off';

interface Drain {
  readonly perS: number;
  readonly redisUs: number;
  readonly processUs: number;
}

interface Pair {
  readonly on: Drain;
  readonly off: Drain;
}

export const ledgerSuite: Suite = {
  name: 'ledger',
  what: 'what the upkeep of the delivery ledger costs: the engine with and without it, in turns',
  async run({ quick, check, rounds, say }) {
    const [pairs, events] = quick
      ? [roundsOf(rounds, 1), 10_000]
      : [roundsOf(rounds, check ? 9 : 25), 100_000];
    const result = await measure(pairs, events, say);
    const ratio = result.ratios['throughput with upkeep against without']!;
    if (!quick && ratio < RATIO_MIN) {
      throw new Error(`with its upkeep the engine does ${percent(ratio)} of what it does without`);
    }
    return result;
  },
};

async function measure(pairs: number, events: number, say: (line: string) => void): Promise<SuiteResult> {
  const site = await openSite();
  const runners: Runner[] = [];
  try {
    const start = async (upkeep: Upkeep) => {
      const argv = [new URL('ledger-engine.ts', import.meta.url).pathname, site.redisUrl, upkeep];
      const runner = await Runner.start(argv, async (output) => output.includes('ready\n'));
      runners.push(runner);
      return runner;
    };
    const engines = { on: await start('on'), off: await start('off') };
    for (const runner of runners) runner.pause();
    const drains: Pair[] = [];
    // The first pair warms up.
    for (let pair = 0; pair <= pairs; pair += 1) {
      // Who goes first alternates, too.
      const order: readonly Upkeep[] = pair % 2 === 0 ? ['off', 'on'] : ['on', 'off'];
      const found: Partial<Record<Upkeep, Drain>> = {};
      for (const upkeep of order) {
        found[upkeep] = await drain(site, engines[upkeep], `${pair}-${upkeep}`, events);
      }
      const { on, off } = found as Pair;
      if (pair > 0) drains.push({ on, off });
      say(`pair ${pair}/${pairs}: with ${drainText(on)}; without ${drainText(off)}`);
    }
    const total = 2 * (pairs + 1) * events;
    const outcomes = await added(site.wire, 'predictions');
    if (outcomes !== total) throw new Error(`${outcomes} predictions of ${total} events`);
    return resultOf(drains, events);
  } finally {
    await Promise.all(runners.map((runner) => runner.stop()));
    await site.stop();
  }
}

/** The engine is stopped before and after. */
async function drain(site: Site, runner: Runner, batch: string, events: number): Promise<Drain> {
  await sleep(READ_BLOCK_MS * 1.1);
  const before = await added(site.wire, 'predictions');
  await fillStream(site.wire, batch, events);
  const [redisUs, processUs, startMs] = [await redisCpuUs(site.wire), cpuUs(runner), Date.now()];
  runner.resume();
  const endMs = startMs + DRAIN_MS_MAX;
  while ((await added(site.wire, 'predictions')) < before + events) {
    if (runner.ended) throw new Error(`the engine ended:\n${runner.output}`);
    if (Date.now() > endMs) throw new Error(`not drained in 60 s:\n${runner.output}`);
    await sleep(10);
  }
  const tookMs = (await lastAddedMs(site.wire, 'predictions')) - startMs;
  runner.pause();
  return {
    perS: (events * 1000) / tookMs,
    redisUs: ((await redisCpuUs(site.wire)) - redisUs) / events,
    processUs: (cpuUs(runner) - processUs) / events,
  };
}

function cpuUs(runner: Runner): number {
  const { userUs, sysUs } = runner.cpu();
  return userUs + sysUs;
}

function resultOf(drains: readonly Pair[], events: number): SuiteResult {
  const of = (pick: (drain: Drain) => number, upkeep: Upkeep) =>
    middle(drains.map((pair) => pick(pair[upkeep])));
  const ratio = (pick: (drain: Drain) => number) => middle(drains.map(({ on, off }) => pick(on) / pick(off)));
  const rows = (['on', 'off'] as const).map((upkeep) => [
    upkeep === 'on' ? 'with' : 'without',
    whole(of(({ perS }) => perS, upkeep)),
    of(({ redisUs }) => redisUs, upkeep).toFixed(2),
    of(({ processUs }) => processUs, upkeep).toFixed(2),
  ]);
  const throughput = ratio(({ perS }) => perS);
  return {
    sections: [
      {
        title: "The engine with and without its ledger's upkeep",
        text: [
          prose(`Medians of ${drains.length} pairs of drains of ${whole(events)} events each. With
            upkeep, of what it is without, as medians of pairs: throughput ${percent(throughput)}, Redis
            ${percent(ratio(({ redisUs }) => redisUs))}, engine
            ${percent(ratio(({ processUs }) => processUs))}.`),
        ],
        table: { head: ['', 'events/s', 'Redis us/event', 'engine us/event'], rows },
      },
    ],
    ratios: { 'throughput with upkeep against without': throughput },
    plots: [],
    raw: { events, drains },
  };
}

function drainText({ perS, redisUs, processUs }: Drain): string {
  return `${perS.toFixed(0)}/s (Redis ${redisUs.toFixed(2)} us, engine ${processUs.toFixed(2)} us)`;
}
