/**
 * What the delivery ledger costs: the full path drained with its upkeep (sweeps for what others left,
 * reaping, trimming) and without. Two engines share a group on one private redis-server and take turns, a
 * second or so each, the other one stopped: whatever else the machine does meets both alike. What makes a
 * settlement exactly-once is in the commit itself and cannot be switched off; it is in both, and so is the
 * heartbeat of one short script a second.
 *
 * Expected: nothing that can be measured, for the upkeep is a few short scripts a second. Exits with 1 when
 * the median ratio is below 0.95.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { describeMachine, machineText, middle } from './report.ts';
import { openSite, Runner, redisCpuUs, type Site } from './site.ts';
import { added, fillStream, lastAddedMs } from './streams.ts';

const HELP = `Usage: node bench/ledger.ts [--pairs 25] [--events 100000] [--json]
`;
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

const { values } = parseArgs({
  options: {
    pairs: { type: 'string', default: '25' },
    events: { type: 'string', default: '100000' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

function start(site: Site, upkeep: Upkeep): Promise<Runner> {
  const argv = [new URL('ledger-engine.ts', import.meta.url).pathname, site.redisUrl, upkeep];
  return Runner.start(argv, async (output) => output.includes('ready\n'));
}

/** Both are stopped before and after. */
async function drain(site: Site, runner: Runner, batch: string, events: number): Promise<Drain> {
  await sleep(READ_BLOCK_MS * 1.1);
  const before = await added(site.wire, 'predictions');
  await fillStream(site.wire, batch, events);
  const [redisUs, processUs, startMs] = [await redisCpuUs(site.wire), runner.cpuUs(), Date.now()];
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
    processUs: (runner.cpuUs() - processUs) / events,
  };
}

async function main(): Promise<number> {
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const [pairs, events] = [Number(values.pairs), Number(values.events)];
  const site = await openSite();
  const runners = { on: await start(site, 'on'), off: await start(site, 'off') };
  try {
    const machine = await describeMachine(site);
    process.stderr.write(`${machineText(machine)}\n`);
    for (const runner of Object.values(runners)) runner.pause();
    // The first pair warms up.
    const drains: { readonly on: Drain; readonly off: Drain }[] = [];
    for (let pair = 0; pair <= pairs; pair += 1) {
      // Who goes first alternates, too.
      const order: readonly Upkeep[] = pair % 2 === 0 ? ['off', 'on'] : ['on', 'off'];
      const pairOf: Partial<Record<Upkeep, Drain>> = {};
      for (const upkeep of order)
        pairOf[upkeep] = await drain(site, runners[upkeep], `${pair}-${upkeep}`, events);
      const { on, off } = pairOf as Record<Upkeep, Drain>;
      if (pair > 0) drains.push({ on, off });
      process.stderr.write(`pair ${pair}/${pairs}: with ${line(on)}; without ${line(off)}\n`);
    }
    const total = 2 * (pairs + 1) * events;
    const outcomes = await added(site.wire, 'predictions');
    if (outcomes !== total) throw new Error(`${outcomes} predictions of ${total} events`);
    const ratio = (pick: (drain: Drain) => number) =>
      middle(drains.map(({ on, off }) => pick(on) / pick(off)));
    const ratios = {
      throughput: ratio(({ perS }) => perS),
      redisCpu: ratio(({ redisUs }) => redisUs),
      processCpu: ratio(({ processUs }) => processUs),
    };
    if (values.json) process.stdout.write(`${JSON.stringify({ machine, drains, ratios })}\n`);
    else {
      process.stdout.write(
        `with the ledger's upkeep, of what it is without ` +
          `(median of ${pairs} pairs, ${events} events each):\n` +
          `  throughput ${percent(ratios.throughput)}, Redis CPU per event ${percent(ratios.redisCpu)}, ` +
          `engine CPU per event ${percent(ratios.processCpu)}\n`,
      );
    }
    return ratios.throughput >= RATIO_MIN ? 0 : 1;
  } finally {
    await Promise.all(Object.values(runners).map((runner) => runner.stop()));
    await site.stop();
  }
}

function line({ perS, redisUs, processUs }: Drain): string {
  return `${perS.toFixed(0)}/s (Redis ${redisUs.toFixed(2)} us, engine ${processUs.toFixed(2)} us)`;
}

function percent(ratio: number): string {
  return `${(ratio * 100).toFixed(1)}%`;
}

process.exitCode = await main();
