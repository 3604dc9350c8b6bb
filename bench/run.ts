/**
 * `npm run bench`: Subito against the ways people do it today, interleaved rounds on one private redis-
 * server. Writes bench/RESULTS.md when every contestant ran.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { contestants } from './contestants.ts';
import type { Plan, Round } from './measure.ts';
import { measure } from './measure.ts';
import { describeMachine, machineText, resultsText, summarize } from './report.ts';
import { openSite } from './site.ts';

const HELP = `Usage: npm run bench -- [options]

  --quick         one short round: does everything work?
  --only <names>  some contestants, by comma: ${contestants.map(({ name }) => name).join(', ')}
  --rounds <n>    rounds, interleaved (3)
  --json          results as JSON on standard output
  --no-write      leave bench/RESULTS.md as it is (so do --quick and --only)
  --help
`;

/** One-minute load average. */
const BUSY_LOAD = 0.7;

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    'no-write': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

async function main(): Promise<number> {
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const only = values.only === '' ? null : values.only.split(',');
  const unknown = only?.find((name) => !contestants.some((one) => one.name === name));
  const roundCount = values.quick ? 1 : Number(values.rounds);
  if (unknown !== undefined || !(Number.isInteger(roundCount) && roundCount >= 1)) {
    process.stderr.write(
      unknown === undefined ? '--rounds must be a whole number\n' : `no contestant ${unknown}\n`,
    );
    process.stderr.write(HELP);
    return 2;
  }
  const plan: Plan = values.quick
    ? { drainS: 1, latencyS: 1, commonRatePerS: 1000 }
    : { drainS: 3.5, latencyS: 3, commonRatePerS: 1000 };
  const field = contestants.filter(({ name }) => only === null || only.includes(name));
  const site = await openSite();
  try {
    const machine = await describeMachine(site);
    say(machineText(machine));
    if (machine.loadBefore > BUSY_LOAD)
      say('WARNING: others use this machine: only CPU per event can be trusted');
    const results = await runRounds(field, site, plan, roundCount);
    const text = resultsText(machine, results, roundCount);
    const complete = only === null && !values.quick && results.every(({ median }) => median !== null);
    if (complete && !values['no-write']) writeFileSync(new URL('./RESULTS.md', import.meta.url), text);
    process.stdout.write(values.json ? `${JSON.stringify({ machine, plan, results })}\n` : text);
    for (const { name, failure } of results) if (failure !== null) say(`${name} FAILED: ${failure}`);
    return results.every(({ median }) => median !== null) ? 0 : 1;
  } finally {
    await site.stop();
  }
}

async function runRounds(
  field: typeof contestants,
  site: Awaited<ReturnType<typeof openSite>>,
  plan: Plan,
  roundCount: number,
) {
  const rounds = new Map<string, Round[]>(field.map(({ name }) => [name, []]));
  const failures = new Map<string, string>();
  const counts = new Map(field.map((one) => [one.name, values.quick ? one.firstCount / 4 : one.firstCount]));
  for (let round = 1; round <= roundCount; round++) {
    for (const contestant of field) {
      const { name } = contestant;
      if (failures.has(name)) continue;
      const progress = (what: string) => say(`round ${round}/${roundCount}  ${name}: ${what}`);
      try {
        const one = await measure(contestant, site, Math.ceil(counts.get(name)!), plan, progress);
        rounds.get(name)!.push(one);
        // As many events as last long enough at the rate just seen.
        counts.set(name, Math.max(1000, one.drainPerS * plan.drainS));
        progress(
          `${one.drainPerS.toFixed(0)}/s, Redis ${one.redisUsPerEvent.toFixed(2)} us, process ` +
            `${one.processUsPerEvent.toFixed(2)} us, p99 ${one.half.ms.p99.toFixed(2)} ms at half`,
        );
      } catch (error) {
        failures.set(name, (error as Error).message);
        progress(`FAILED: ${(error as Error).message}`);
      }
    }
  }
  return field.map((one) => summarize(one, rounds.get(one.name)!, failures.get(one.name) ?? null));
}

/** Progress goes to standard error, so that --json stays clean. */
function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

process.exitCode = await main();
