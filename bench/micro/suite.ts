/**
 * The pieces of the hot paths alone: time and memory for each event, and the addon against its TypeScript
 * twin where it has one. Also by itself, for work on one piece:
 *
 *   node bench/micro/suite.ts [--quick] [--time | --space] [--sites] [--json] [piece ...]
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Section, Suite, SuiteOptions, SuiteResult, Table } from '../suite.ts';
import { sectionLines } from '../text.ts';
import { EVENTS_LARGE, EVENTS_SMALL, VARIANTS } from './case.ts';
import type { Site, SpacePlan, TimePlan } from './measure.ts';
import { PIECES, type Piece } from './pieces.ts';
import { type SpacedCase, spaceInProcess, type TimedCase, timeInProcess } from './process.ts';

const TIME: TimePlan = { warmMs: 500, windowMs: 200, rounds: 9 };
const TIME_QUICK: TimePlan = { warmMs: 150, windowMs: 50, rounds: 3 };
const SPACE: SpacePlan = { warmBatches: 4000, warmMsMax: 1500, repeats: 5 };
const SPACE_QUICK: SpacePlan = { warmBatches: 2000, warmMsMax: 400, repeats: 3 };

export interface PieceResult {
  readonly piece: string;
  /** Empty where it was not asked for. */
  readonly timed: readonly TimedCase[];
  readonly spaced: readonly SpacedCase[];
}

interface Wanted {
  readonly pieces: readonly Piece[];
  /** Null: not wanted. */
  readonly time: TimePlan | null;
  readonly space: SpacePlan | null;
  readonly say: (line: string) => void;
}

/** Throws for a name that no piece has. */
function piecesOf(only: readonly string[] | null): readonly Piece[] {
  const unknown = only?.find((name) => !PIECES.some((piece) => piece.name === name));
  const known = PIECES.map(({ name }) => name).join(', ');
  if (unknown !== undefined) throw new Error(`micro has no piece ${unknown}; there are ${known}`);
  return PIECES.filter(({ name }) => only === null || only.includes(name));
}

async function measurePieces({ pieces, time, space, say }: Wanted): Promise<PieceResult[]> {
  const results: PieceResult[] = [];
  for (const { name, what } of pieces) {
    say(`${name}: ${what}`);
    const timed = time === null ? [] : await timeInProcess(name, time);
    const spaced = space === null ? [] : await spaceInProcess(name, space);
    results.push({ piece: name, timed, spaced });
  }
  return results;
}

const ns = (value: number | undefined) => {
  if (value === undefined) return '-';
  return value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString('en-US');
};
/** Nothing is to be seen as nothing. */
const amount = (value: number) => {
  if (Math.abs(value) < 0.005) return '0';
  return Math.abs(value) < 10 ? value.toFixed(2) : Math.round(value).toLocaleString('en-US');
};

function timeTable(results: readonly PieceResult[]): Table {
  const rows = results.flatMap(({ piece, timed }) =>
    timed.map(({ name, time }) => {
      const { twin, native } = time.variants;
      return [
        `${piece}: ${name}`,
        ns(twin?.nsMedian),
        ns(twin?.nsMin),
        ns(twin?.cpuNs),
        ns(native?.nsMedian),
        ns(native?.nsMin),
        ns(native?.cpuNs),
        time.nativeSpeedup === null ? '-' : time.nativeSpeedup.toFixed(2),
      ];
    }),
  );
  const head = ['piece', 'ns', 'least', 'CPU ns', 'addon ns', 'least', 'CPU ns', 'times as fast'];
  return { head, rows };
}

function spaceTable(results: readonly PieceResult[]): Table {
  const rows = results.flatMap(({ piece, spaced }) =>
    spaced.flatMap(({ name, space }) =>
      VARIANTS.flatMap((variant) => {
        const found = space[variant];
        if (found === null) return [];
        return [
          [
            `${piece}: ${name}${variant === 'native' ? ', addon' : ''}`,
            amount(found.bytesPerEvent),
            amount(found.allocationsPerEvent),
            amount(found.outsideBytesPerEvent),
            amount(found.bytesPerBatch),
          ],
        ];
      }),
    ),
  );
  return { head: ['piece', 'bytes', 'allocations', 'bytes beside the heap', 'bytes per batch'], rows };
}

const siteLine = ({ place, allocationsPerEvent, bytesPerEvent }: Site) =>
  `- ${amount(allocationsPerEvent)} of ${amount(bytesPerEvent)} bytes in ${place}`;

/** Where cases allocate that promise not to. */
function brokenPromises(results: readonly PieceResult[]): string[] {
  return results.flatMap(({ piece, spaced }) =>
    spaced.flatMap(({ name, allocatesNothing, space }) =>
      VARIANTS.flatMap((variant) => {
        const found = space[variant];
        if (!allocatesNothing || found === null || found.bytesPerEvent < 1) return [];
        const title = `${piece}: ${name} allocates for every event, and should not:`;
        return [title, ...found.sites.map(siteLine)];
      }),
    ),
  );
}

function sectionsOf(results: readonly PieceResult[]): Section[] {
  const sections: Section[] = [];
  if (results.some(({ timed }) => timed.length > 0)) {
    const text =
      `Nanoseconds for one event, in batches of ${EVENTS_LARGE}: the middle and the least of the rounds by ` +
      'the clock, and the processor time of the thread. The addon and its twin take turns.';
    sections.push({ title: 'Pieces: time', text: [text], table: timeTable(results) });
  }
  if (results.some(({ spaced }) => spaced.length > 0)) {
    const text =
      `What one event more in a batch adds to V8's heap: batches of ${EVENTS_LARGE} against batches of ` +
      `${EVENTS_SMALL}, no collection in between. What a batch costs beside its events is apart. The ` +
      'control shows that an object is seen: it allocates one of 32 bytes.';
    const broken = brokenPromises(results);
    sections.push({ title: 'Pieces: memory', text: [text, ...broken], table: spaceTable(results) });
  }
  return sections;
}

function ratiosOf(results: readonly PieceResult[]): Record<string, number> {
  const ratios: Record<string, number> = {};
  for (const { piece, timed } of results) {
    for (const { name, time } of timed) {
      if (time.nativeSpeedup !== null) ratios[`${piece}: ${name}, addon / twin`] = time.nativeSpeedup;
    }
  }
  return ratios;
}

async function run({ quick, only, rounds, check, say }: SuiteOptions): Promise<SuiteResult> {
  const plan = quick ? TIME_QUICK : TIME;
  const results = await measurePieces({
    pieces: piecesOf(only),
    time: { ...plan, rounds: rounds ?? (check === true ? 5 : plan.rounds) },
    // Memory is a matter of tests, not of ratios.
    space: check === true ? null : quick ? SPACE_QUICK : SPACE,
    say,
  });
  return { sections: sectionsOf(results), ratios: ratiosOf(results), plots: [], raw: results };
}

export const micro: Suite = {
  name: 'micro',
  what: `pieces of the hot paths, time and memory: ${PIECES.map(({ name }) => name).join(', ')}`,
  run,
};

const HELP = `Usage: node bench/micro/suite.ts [options] [piece ...]

  --quick   roughly
  --time    no memory
  --space   no time
  --sites   every place that allocates for each event
  --json

${PIECES.map(({ name, what }) => `  ${name.padEnd(12)} ${what}`).join('\n')}
`;

async function main(): Promise<void> {
  const flag = { type: 'boolean', default: false } as const;
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { quick: flag, time: flag, space: flag, sites: flag, json: flag, help: flag },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  const results = await measurePieces({
    pieces: piecesOf(positionals.length === 0 ? null : positionals),
    time: values.space ? null : values.quick ? TIME_QUICK : TIME,
    space: values.time ? null : values.quick ? SPACE_QUICK : SPACE,
    say: (line) => process.stderr.write(`${line}\n`),
  });
  const lines = sectionsOf(results).flatMap((section) => sectionLines(section, 2));
  if (values.sites) lines.push(...sitesOf(results));
  process.stdout.write(values.json ? `${JSON.stringify(results)}\n` : `${lines.join('\n')}\n`);
}

function sitesOf(results: readonly PieceResult[]): string[] {
  return results.flatMap(({ piece, spaced }) =>
    spaced.flatMap(({ name, space }) =>
      VARIANTS.flatMap((variant) => {
        const sites = space[variant]?.sites ?? [];
        return sites.length === 0 ? [] : [`${piece}: ${name} (${variant})`, ...sites.map(siteLine), ''];
      }),
    ),
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
