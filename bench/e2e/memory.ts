/** `memory`: the engine's resident size over ten minutes at 80 % of the rate that it sustains. */
import { linePlot } from '../plot.ts';
import { openSite } from '../site.ts';
import { middle, slopeOf } from '../statistics.ts';
import type { Suite, SuiteOptions, SuiteResult } from '../suite.ts';
import { prose, whole } from '../text.ts';
import { PACE, PACE_QUICK, type Paced, PacedEngine } from './pace.ts';

const RUN_S = 600;
const RUN_S_QUICK = 20;
const SHARE = 0.8;
/** What comes before is not growth but arrival: caches, compiled code, the sizes of heaps. */
const SETTLE_S = 60;
const SETTLE_SHARE_MAX = 0.25;
const SAMPLE_S = 1;
const MIB = 2 ** 20;

type Size = readonly [seconds: number, bytes: number];

export const memorySuite: Suite = {
  name: 'memory',
  what: 'resident size of the engine over ten minutes at 80 % of the sustained rate',
  async run({ quick, say }: SuiteOptions) {
    const settings = quick ? PACE_QUICK : PACE;
    const seconds = quick ? RUN_S_QUICK : RUN_S;
    const site = await openSite();
    try {
      const engine = await PacedEngine.start(site, settings, say);
      try {
        const { ratePerS } = await engine.sustained(settings, false);
        say(`${seconds} s at ${(ratePerS * SHARE).toFixed(0)}/s`);
        const sizes: Size[] = [];
        const onSample = (atS: number) => {
          if (atS >= sizes.length * SAMPLE_S) sizes.push([atS, engine.runner.residentBytes()]);
        };
        const run = await engine.run(ratePerS * SHARE, seconds, false, onSample);
        return resultOf(run, sizes, seconds);
      } finally {
        await engine.stop();
      }
    } finally {
      await site.stop();
    }
  },
};

export interface Growth {
  readonly settleS: number;
  /** Medians of a while after settling, and before the end. */
  readonly settledBytes: number;
  readonly endBytes: number;
  readonly maxBytes: number;
  /** By least squares over all that follows settling. */
  readonly bytesPerMinute: number;
}

/** Pure. Heaps rise and fall with every collection: single samples would tell little. */
export function growthOf(sizes: readonly Size[], seconds: number): Growth {
  const settleS = Math.min(SETTLE_S, seconds * SETTLE_SHARE_MAX);
  const settled = sizes.filter(([atS]) => atS >= settleS);
  const whileS = (seconds - settleS) / 10;
  const between = (from: number, to: number) =>
    middle(settled.filter(([atS]) => atS >= from && atS <= to).map(([, bytes]) => bytes));
  const lastS = settled.at(-1)![0];
  return {
    settleS,
    settledBytes: between(settleS, settleS + whileS),
    endBytes: between(lastS - whileS, lastS),
    maxBytes: Math.max(...settled.map(([, bytes]) => bytes)),
    bytesPerMinute: slopeOf(settled) * 60,
  };
}

function resultOf(run: Paced, sizes: readonly Size[], seconds: number): SuiteResult {
  const growth = growthOf(sizes, seconds);
  const { settleS, settledBytes, endBytes, maxBytes, bytesPerMinute } = growth;
  const mib = (bytes: number) => `${(bytes / MIB).toFixed(1)} MiB`;
  const cells = [sizes[0]![1], settledBytes, endBytes, maxBytes, endBytes - settledBytes, bytesPerMinute];
  const why = run.why === null ? '' : ` The backlog did not stay flat: ${run.why}.`;
  return {
    sections: [
      {
        title: `Resident size over ${whole(seconds)} s at ${whole(run.ratePerS)} events/s`,
        text: [
          prose(`${whole(run.report.sent)} events, each predicted. Growth counts from
            ${settleS.toFixed(0)} s on: before, caches fill and code is compiled. Medians of a tenth of
            the time at both ends.${why}`),
        ],
        table: {
          head: ['', 'begin', `after ${settleS.toFixed(0)} s`, 'end', 'most', 'growth', 'per minute'],
          rows: [['subito', ...cells.map(mib)]],
        },
      },
    ],
    ratios: { 'settled size against size at the end': settledBytes / endBytes },
    plots: [
      {
        name: 'resident',
        svg: linePlot({
          title: `Resident size at ${whole(run.ratePerS)} events/s`,
          x: { label: 'time, s' },
          y: { label: 'resident size, MiB' },
          lines: [{ name: 'engine', points: sizes.map(([atS, bytes]) => [atS, bytes / MIB] as const) }],
        }),
      },
    ],
    raw: { ratePerS: run.ratePerS, seconds, growth, sizes, report: run.report },
  };
}
