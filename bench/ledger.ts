/**
 * What the delivery ledger costs: the full path drained with its upkeep (sweeps for what others left,
 * reaping, trimming) and without, in alternating rounds on one private redis-server. What makes a settlement
 * exactly-once is in the commit itself and cannot be switched off; it is in both, and so is the heartbeat of
 * one short script a second.
 *
 * Expected: nothing that can be measured, for the upkeep is a few short scripts a second. Exits with 1 when
 * the median ratio is below 0.95.
 */
import { parseArgs } from 'node:util';
import { describeMachine, machineText, middle } from './report.ts';
import { openSite, Runner, redisCpuUs, type Site } from './site.ts';
import { added, field, fillStream, lastAddedMs, verifyOnce } from './streams.ts';

const HELP = `Usage: node bench/ledger.ts [--rounds 7] [--events 400000] [--json]
`;
const RATIO_MIN = 0.95;
const WARM_EVENTS = 50_000;
const DRAIN_MS_MAX = 60_000;

interface Drain {
  readonly perS: number;
  readonly redisUs: number;
  readonly processUs: number;
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '7' },
    events: { type: 'string', default: '400000' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

async function drain(site: Site, upkeep: 'on' | 'off', events: number): Promise<Drain> {
  await site.wire.call(['FLUSHALL']);
  const argv = [new URL('ledger-engine.ts', import.meta.url).pathname, site.redisUrl, upkeep];
  const runner = await Runner.start(argv, async (output) => output.includes('ready\n'));
  try {
    await fillStream(site.wire, 'warm', WARM_EVENTS);
    await answered(site, runner, WARM_EVENTS);
    runner.pause();
    await fillStream(site.wire, 'drain', events);
    const [redisUs, processUs, startMs] = [await redisCpuUs(site.wire), runner.cpuUs(), Date.now()];
    runner.resume();
    await answered(site, runner, WARM_EVENTS + events);
    const tookMs = (await lastAddedMs(site.wire, 'predictions')) - startMs;
    const drained = {
      perS: (events * 1000) / tookMs,
      redisUs: ((await redisCpuUs(site.wire)) - redisUs) / events,
      processUs: (runner.cpuUs() - processUs) / events,
    };
    const wrong = await verifyOnce(site.wire, 'predictions', 'drain', events, (fields) =>
      field(fields, 'status') === 'ok' ? field(fields, 'event') : undefined,
    );
    if (wrong !== null) throw new Error(wrong);
    return drained;
  } finally {
    await runner.stop();
  }
}

async function answered(site: Site, runner: Runner, target: number): Promise<void> {
  const endMs = Date.now() + DRAIN_MS_MAX;
  while ((await added(site.wire, 'predictions')) < target) {
    if (runner.ended) throw new Error(`the engine ended:\n${runner.output}`);
    if (Date.now() > endMs) throw new Error(`not drained in 60 s:\n${runner.output}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function main(): Promise<number> {
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const [rounds, events] = [Number(values.rounds), Number(values.events)];
  const site = await openSite();
  try {
    const machine = await describeMachine(site);
    process.stderr.write(`${machineText(machine)}\n`);
    const drains: { readonly on: Drain; readonly off: Drain }[] = [];
    for (let round = 1; round <= rounds; round += 1) {
      // Who goes first alternates, too: a machine that warms up or slows down favours neither.
      const first = round % 2 === 1 ? 'off' : 'on';
      const one = await drain(site, first, events);
      const other = await drain(site, first === 'on' ? 'off' : 'on', events);
      const pair = first === 'on' ? { on: one, off: other } : { on: other, off: one };
      drains.push(pair);
      process.stderr.write(`round ${round}/${rounds}: with ${line(pair.on)}; without ${line(pair.off)}\n`);
    }
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
          `(median of ${rounds} pairs, ${events} events each):\n` +
          `  throughput ${percent(ratios.throughput)}, Redis CPU per event ${percent(ratios.redisCpu)}, ` +
          `engine CPU per event ${percent(ratios.processCpu)}\n`,
      );
    }
    return ratios.throughput >= RATIO_MIN ? 0 : 1;
  } finally {
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
