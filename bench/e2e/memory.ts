/** `memory`: the engine's resident size over ten minutes at 80 % of the rate that it sustains. */
import { linePlot } from '../../src/plot.ts';
import type { ProbeReport } from '../probe.ts';
import { openSite } from '../site.ts';
import { middle, slopeOf } from '../statistics.ts';
import type { Section, Suite, SuiteOptions, SuiteResult } from '../suite.ts';
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

/** What V8 has taken from the system and, of that, what is in use, garbage included; bytes. */
interface Heaps {
  readonly atS: number;
  readonly main: number;
  readonly mainUsed: number;
  readonly workers: number;
  readonly workersUsed: number;
}

function heapsOf(atS: number, { threads }: ProbeReport): Heaps {
  const sum = (isMain: boolean, column: 'heapTotal' | 'heapUsed') =>
    threads.filter(({ main }) => main === isMain).reduce((bytes, thread) => bytes + thread[column], 0);
  return {
    atS,
    main: sum(true, 'heapTotal'),
    mainUsed: sum(true, 'heapUsed'),
    workers: sum(false, 'heapTotal'),
    workersUsed: sum(false, 'heapUsed'),
  };
}

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
        const heaps: Heaps[] = [];
        const onSample = (atS: number) => {
          if (atS < sizes.length * SAMPLE_S) return;
          sizes.push([atS, engine.runner.residentBytes()]);
          // It fails when the engine has ended, which ends the run as well.
          engine.runner.probe().then(
            (report) => heaps.push(heapsOf(atS, report!)),
            () => {},
          );
        };
        const run = await engine.run(ratePerS * SHARE, seconds, false, onSample);
        const kept = heapsOf(seconds, (await engine.runner.probe('collect'))!);
        return resultOf(run, sizes, heaps, kept);
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

function resultOf(
  run: Paced,
  sizes: readonly Size[],
  heaps: readonly Heaps[],
  collected: Heaps,
): SuiteResult {
  const seconds = sizes.at(-1)![0];
  const growth = growthOf(sizes, seconds);
  const why = run.why === null ? '' : ` The backlog did not stay flat: ${run.why}.`;
  const line = (name: string, points: readonly Size[]) => ({
    name,
    points: points.map(([atS, bytes]) => [atS, bytes / MIB] as const),
  });
  return {
    sections: [
      {
        title: `Resident size over ${whole(seconds)} s at ${whole(run.ratePerS)} events/s`,
        text: [
          prose(`${whole(run.report.sent)} events, each predicted. Growth counts from
            ${growth.settleS.toFixed(0)} s on: before, caches fill and code is compiled. Medians of a tenth of
            the time at both ends.${why}`),
        ],
        table: growthTable(growth, sizes[0]![1]),
      },
      heapSection(heaps, collected, seconds),
    ],
    ratios: { 'settled size against size at the end': growth.settledBytes / growth.endBytes },
    plots: [
      {
        name: 'resident',
        svg: linePlot({
          title: `Resident size at ${whole(run.ratePerS)} events/s`,
          x: { label: 'time, s' },
          y: { label: 'MiB' },
          lines: [
            line('resident', sizes),
            line(
              "main thread's heap",
              heaps.map(({ atS, main }) => [atS, main]),
            ),
            line(
              "workers' heaps",
              heaps.map(({ atS, workers }) => [atS, workers]),
            ),
          ],
        }),
      },
    ],
    raw: { ratePerS: run.ratePerS, seconds, growth, sizes, heaps, collected, report: run.report },
  };
}

function growthTable({ settleS, settledBytes, endBytes, maxBytes, bytesPerMinute }: Growth, begin: number) {
  const cells = [begin, settledBytes, endBytes, maxBytes, endBytes - settledBytes, bytesPerMinute];
  const growth = `${((endBytes / settledBytes - 1) * 100).toFixed(1)} %`;
  return {
    head: ['', 'begin', `after ${settleS.toFixed(0)} s`, 'end', 'most', 'growth', 'per minute', 'in all'],
    rows: [['subito', ...cells.map(mib), growth]],
  };
}

/** Which part of it is V8's, and what is left of that when all garbage is collected. */
function heapSection(heaps: readonly Heaps[], collected: Heaps, seconds: number): Section {
  const { settleS } = growthOf(
    heaps.map(({ atS, main }) => [atS, main]),
    seconds,
  );
  const settled = heaps.find(({ atS }) => atS >= settleS)!;
  const last = heaps.at(-1)!;
  const row = (name: string, taken: 'main' | 'workers', used: 'mainUsed' | 'workersUsed') => [
    name,
    ...[settled[taken], last[taken], settled[used], last[used], collected[used]].map(mib),
  ];
  return {
    title: "V8's heaps",
    text: [],
    table: {
      head: [
        '',
        `taken after ${settleS.toFixed(0)} s`,
        'at the end',
        'in use',
        'at the end',
        'without garbage',
      ],
      rows: [row('main thread', 'main', 'mainUsed'), row('workers', 'workers', 'workersUsed')],
    },
  };
}

const mib = (bytes: number) => `${(bytes / MIB).toFixed(1)} MiB`;
