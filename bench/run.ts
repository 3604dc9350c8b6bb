/**
 * `npm run bench`: the suites, one after the other, what they found, and what that is against the baseline.
 */
import { parseArgs } from 'node:util';
import { type Comparison, compareRatios, comparisonRows, passed, QUOTIENT_MIN } from './baseline.ts';
import { busyWarning, dateText, describeMachine, type Machine, machineText, watchStolen } from './machine.ts';
import { loadSuite, suitePlaces } from './registry.ts';
import { BENCH, readResult, resultText, storeResult, writeReport } from './results.ts';
import type { Suite, SuiteResult } from './suite.ts';
import { tableLines } from './text.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    rounds: { type: 'string', default: '' },
    json: { type: 'boolean', default: false },
    'no-write': { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

interface Ran {
  readonly suite: Suite;
  readonly machine: Machine;
  readonly result: SuiteResult | null;
  readonly failure: string | null;
}

async function helpText(): Promise<string> {
  const lines = await Promise.all(
    suitePlaces.map(async ({ name, named }) => {
      const { what } = await loadSuite(name);
      return `  ${name.padEnd(16)}${what}${named === null ? '' : ` (only when named: ${named})`}`;
    }),
  );
  return `Usage: npm run bench -- [suite ...] [options]

Runs the named suites; without a name those that need nothing special; "all" runs every one.

${lines.join('\n')}

  --quick         a short form: does everything work? Writes nothing
  --only <names>  some contestants, by comma, where a suite has any. Writes nothing
  --rounds <n>    interleaved rounds, instead of what each suite finds right
  --json          everything measured, as JSON on standard output
  --no-write      leave bench/results and bench/RESULTS.md as they are
  --check         compare ratios with those in bench/results; exit 1 when one is below ${QUOTIENT_MIN} of its
                  baseline or missing. Without a name: the suites that have a baseline. Writes nothing
  --help
`;
}

/** Names of the suites to run, or what is wrong with those given. */
function chosen(): readonly string[] | string {
  const all = suitePlaces.map(({ name }) => name);
  const unknown = positionals.find((name) => name !== 'all' && !all.includes(name));
  if (unknown !== undefined) return `no suite ${unknown}; there are ${all.join(', ')}`;
  if (positionals.includes('all')) return all;
  if (positionals.length > 0) return all.filter((name) => positionals.includes(name));
  const usual = suitePlaces.filter(({ named }) => named === null).map(({ name }) => name);
  if (!values.check) return usual;
  const known = usual.filter((name) => Object.keys(readResult(BENCH, name)?.ratios ?? {}).length > 0);
  return known.length > 0 ? known : 'no suite has a baseline in bench/results';
}

async function main(): Promise<number> {
  if (values.help) {
    process.stdout.write(await helpText());
    return 0;
  }
  const names = chosen();
  const rounds = values.rounds === '' ? null : Number(values.rounds);
  if (typeof names === 'string' || (rounds !== null && !(Number.isInteger(rounds) && rounds >= 1))) {
    process.stderr.write(`${typeof names === 'string' ? names : '--rounds must be a whole number'}\n`);
    process.stderr.write('See npm run bench -- --help\n');
    return 2;
  }
  const machine = describeMachine();
  const warning = busyWarning(machine);
  if (warning !== null) say(warning);
  const ran: Ran[] = [];
  for (const name of names) ran.push(await runOne(await loadSuite(name), machine, rounds));
  const comparisons = values.check ? compareAll(ran) : null;
  if (values.json) {
    const suites = ran.map(({ suite, ...rest }) => ({ suite: suite.name, ...rest }));
    process.stdout.write(`${JSON.stringify({ suites, comparisons })}\n`);
  }
  for (const { suite, failure } of ran) if (failure !== null) say(`${suite.name} FAILED: ${failure}`);
  const failed = ran.some(({ failure }) => failure !== null);
  return failed || (comparisons !== null && !passed(comparisons)) ? 1 : 0;
}

async function runOne(suite: Suite, before: Machine, rounds: number | null): Promise<Ran> {
  const begun = { ...before, date: dateText() };
  say(`\n${suite.name}: ${suite.what}\n${machineText(begun)}`);
  const stolenShare = watchStolen();
  const { quick, check } = values;
  const only = values.only === '' ? null : values.only.split(',');
  try {
    const result = await suite.run({
      quick,
      check,
      rounds,
      only,
      say: (line) => say(`${suite.name}: ${line}`),
    });
    const machine = { ...begun, stolenShare: stolenShare() };
    if (!values.json) process.stdout.write(`${resultText(suite.name, result)}\n`);
    if (!quick && !check && only === null && !values['no-write']) {
      storeResult(BENCH, suite, machine, result);
      writeReport(
        BENCH,
        suitePlaces.map(({ name }) => name),
      );
    }
    return { suite, machine, result, failure: null };
  } catch (error) {
    // The others may still be measured.
    return { suite, machine: begun, result: null, failure: (error as Error).message };
  }
}

/** A suite that failed, or has no baseline, does not pass. */
function compareAll(ran: readonly Ran[]): Comparison[] {
  const comparisons = ran.flatMap(({ suite, machine, result }) => {
    const stored = readResult(BENCH, suite.name);
    if (stored === null) say(`${suite.name}: no baseline in bench/results`);
    else
      say(`${suite.name}\n  now       ${machineText(machine)}\n  baseline  ${machineText(stored.machine)}`);
    return compareRatios(suite.name, result?.ratios ?? {}, stored?.ratios ?? {});
  });
  const rows = comparisonRows(comparisons);
  const table = tableLines({ head: ['ratio', 'now', 'baseline', 'quotient', ''], rows });
  (values.json ? say : (text: string) => process.stdout.write(`${text}\n`))(table.join('\n'));
  for (const { suite, name, quotient, verdict } of comparisons) {
    if (verdict === 'below') say(`${suite}: ${name} is ${quotient.toFixed(2)} of its baseline`);
    if (verdict === 'missing') say(`${suite}: ${name} was not measured`);
  }
  return comparisons;
}

/** Progress goes to standard error, so that --json stays clean. */
function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

// Ending this way lets those who started a server end it.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));
process.exitCode = await main();
