/** What `latency` found, as tables and plots. */
import { type Line, linePlot, PERCENTILE_TICKS, percentilePlace } from '../../src/plot.ts';
import type { Plot, SuiteResult } from '../suite.ts';
import { ms, percent, prose, whole } from '../text.ts';
import type { Sustained } from './pace.ts';

/** One share of the sustained rate; milliseconds, medians over the turns. */
export interface Point {
  readonly share: number;
  readonly ratePerS: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
  /** The generator's own delay (p99), contained in the others. */
  readonly late: number;
  readonly curve: readonly (readonly [percent: number, ms: number])[];
}

export type Points = Readonly<Record<string, readonly Point[]>>;

const Y_LABEL = 'due to predicted, ms';
const BARE = 'bare loop';

export function latencyResult(
  found: Sustained,
  points: Points,
  { seconds, turns }: { readonly seconds: number; readonly turns: number },
  runs: unknown,
): SuiteResult {
  const rows = Object.entries(points).flatMap(([name, all]) =>
    all.map((point) => [
      `${name === 'bare' ? BARE : name}, ${percent(point.share)}`,
      `${whole(point.ratePerS)}/s`,
      ...[point.p50, point.p90, point.p99, point.p999, point.max, point.late].map(ms),
    ]),
  );
  return {
    sections: [
      {
        title: 'Latency under open load, ms',
        text: [
          prose(`Poisson arrivals at shares of the sustained rate, which with somebody who reads every
            prediction is ${whole(found.ratePerS)}/s. From the time an event was due to be added, so
            that a generator or a server that was late is charged for it, to the time its prediction was
            read from the stream. ${turns} turns of ${seconds} s, medians; the longest of all. \`late\`
            is how late events were sent (p99), contained in the others.`),
          prose(`The bare loop is one Node process on the same Redis: XREADGROUP, one XADD an event, one
            XACK a batch; no model, no checks.`),
        ],
        table: { head: ['', 'rate', 'p50', 'p90', 'p99', 'p99.9', 'max', 'late'], rows },
      },
      ...againstBare(points),
    ],
    ratios: ratiosOf(points),
    plots: [percentilePlot(points), ratePlot(points)],
    raw: { found, points, runs },
  };
}

function againstBare({ subito, bare }: Points): SuiteResult['sections'] {
  if (subito === undefined || bare === undefined) return [];
  const rows = subito.map((own, i) => {
    const other = bare[i]!;
    const times = (['p50', 'p99', 'p999'] as const).map((at) => `${(own[at] / other[at]).toFixed(2)}x`);
    return [percent(own.share), ...times];
  });
  return [
    {
      title: 'The engine against the bare loop',
      text: ['How many times as long.'],
      table: { head: ['of the sustained rate', 'p50', 'p99', 'p99.9'], rows },
    },
  ];
}

/**
 * Nearer to what is sustained, and in the tail at any rate, a stall of the machine decides: the same engine's
 * p99 was 1.1 to 2.5 times the bare loop's, from run to run. Shown, and not compared.
 */
const COMPARED_SHARE_MAX = 0.5;

/** Higher is better: the bare loop's median over the engine's. */
export function ratiosOf({ subito, bare }: Points): Record<string, number> {
  if (subito === undefined || bare === undefined) return {};
  const compared = subito.filter(({ share }) => share <= COMPARED_SHARE_MAX);
  return Object.fromEntries(
    compared.map(({ share, p50 }, i) => [`bare p50 against ours at ${percent(share)}`, bare[i]!.p50 / p50]),
  );
}

function percentilePlot(points: Points): Plot {
  const lines = Object.entries(points).flatMap(([name, all]) =>
    all.map(({ share, curve }, i): Line => {
      const places = curve.map(([at, value]) => [percentilePlace(at), value] as const);
      return {
        name: `${nameOf(name)}, ${percent(share)}`,
        points: places,
        colour: i,
        dashed: name === 'bare',
      };
    }),
  );
  const most = Math.max(
    ...Object.values(points).flatMap((all) => all.map(({ curve }) => curve.at(-1)?.[0] ?? 0)),
  );
  const ticks = PERCENTILE_TICKS.filter(({ at }) => at <= percentilePlace(Math.max(90, most)) + 0.01);
  const x = { label: 'percentile of events', ticks };
  const title = 'Latency by percentile, at shares of the sustained rate';
  return { name: 'percentiles', svg: linePlot({ title, x, y: { label: Y_LABEL, log: true }, lines }) };
}

function ratePlot(points: Points): Plot {
  const lines = Object.entries(points).flatMap(([name, all]) =>
    (['p50', 'p99', 'p999'] as const).map((at, i): Line => {
      const places = all.map((point) => [point.ratePerS, point[at]] as const);
      const label = { p50: 'p50', p99: 'p99', p999: 'p99.9' }[at];
      return { name: `${nameOf(name)}, ${label}`, points: places, colour: i, dashed: name === 'bare' };
    }),
  );
  const title = 'Latency against throughput';
  const x = { label: 'events/s' };
  return { name: 'throughput', svg: linePlot({ title, x, y: { label: Y_LABEL, log: true }, lines }) };
}

const nameOf = (name: string) => (name === 'bare' ? BARE : name);
