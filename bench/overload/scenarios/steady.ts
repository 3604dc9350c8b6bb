/** `steady`: more than the engine can do, for a while, by each of the ways in; then calm. */
import type { Via } from '../../../src/load/options.ts';
import { linePlot } from '../../../src/plot.ts';
import { middle } from '../../statistics.ts';
import type { Section } from '../../suite.ts';
import { percent, prose } from '../../text.ts';
import { normalAfterMs, type Summary, summaryOf } from '../events.ts';
import { EngineWatch, offer, type Watched } from '../offer.ts';
import type { Plan } from '../plan.ts';
import type { Finding, Ground, Scenario } from '../scenario.ts';
import { atLeast, atMost, none, promptness, type Target, timesAtMost, withinMs } from '../targets.ts';
import { backlogText, COUNT_HEAD, countRow, mib, SUMMARY_HEAD, summaryRow } from '../text.ts';

const VIAS: readonly Via[] = ['stream', 'http', 'ws'];
export const GOODPUT_MIN = 0.9;
export const NORMAL_MS_MAX = 2000;
const CALM = 0.05;
const HALF = 0.5;
/** Of the resident size, while there is too much. */
const GROWTH_MAX = 0.1;

export interface Steady {
  readonly via: Via;
  /** Of the capacity. */
  readonly rate: number;
  readonly capacityPerS: number;
  /** While there was too much. */
  readonly overload: Summary;
  /** From the first event to the last. */
  readonly all: Summary;
  /** Null: not until the run ended. */
  readonly normalMs: number | null;
  readonly duplicates: number;
  readonly beforeBytes: number;
  readonly afterBytes: number;
  readonly growth: number;
  readonly watched: Watched;
}

export const steady: Scenario = {
  name: 'steady',
  what: 'by stream, HTTP and WebSocket: 150, 200 and 400 % of the capacity, then calm',
  async run(ground) {
    const found: Steady[] = [];
    for (const via of VIAS) {
      for (const rate of ground.plan.rates) {
        const one = await measure(ground, via, rate);
        found.push(one);
        ground.say(`${nameOf(one)}: ${textOf(one)}`);
      }
    }
    return findingOf(found, ground.plan);
  },
};

export function measure(ground: Ground, via: Via, rate: number): Promise<Steady> {
  const { plan } = ground;
  const { warmS, overloadS, tailS, deadlineMs, timeoutS } = plan;
  const [fromMs, toMs] = [warmS * 1000, (warmS + overloadS) * 1000];
  return ground.withMeasured(async (engine, capacityPerS) => {
    const phases = [
      { seconds: warmS, ratePerS: capacityPerS * HALF },
      { seconds: overloadS, ratePerS: capacityPerS * rate },
      { seconds: tailS, ratePerS: capacityPerS * CALM },
    ];
    const watch = new EngineWatch(engine, ['slow']);
    const beforeBytes = engine.runner.residentBytes();
    const begin = { atMs: 0, act: () => watch.begin() };
    const { say } = ground;
    const what = { via, stream: 'slow', phases, deadlineMs, timeoutS, say } as const;
    const { events, duplicates } = await offer(engine, what, [begin]);
    const watched = await watch.stop();
    const isNormal = (seq: number) => events.status(seq) === 'ok' && events.isTimely(seq, deadlineMs);
    const sizes = watched.resident
      .filter(([atS]) => atS * 1000 >= fromMs && atS * 1000 < toMs)
      .map(([atS, bytes]) => [atS - warmS, bytes] as const);
    return {
      ...{ via, rate, capacityPerS, duplicates, beforeBytes, watched },
      overload: summaryOf(events, { fromMs, toMs }, deadlineMs),
      all: summaryOf(events, { fromMs: 0, toMs: Number.POSITIVE_INFINITY }, deadlineMs),
      normalMs: normalAfterMs(events, toMs, isNormal),
      afterBytes: engine.runner.residentBytes(),
      growth: growthOf(sizes, overloadS),
    };
  });
}

/** From the second quarter of the time to the last, by medians; NaN where nobody looked. */
export function growthOf(sizes: Watched['resident'], seconds: number): number {
  const during = (from: number, to: number) => {
    const within = sizes.filter(([atS]) => atS >= from * seconds && atS < to * seconds);
    return middle(within.map(([, bytes]) => bytes));
  };
  return during(0.75, 1) / during(0.25, 0.5) - 1;
}

const ofCapacity = ({ overload, capacityPerS }: Steady) => overload.timelyPerS / capacityPerS;
const nameOf = ({ via, rate }: Steady) => `${via}, ${percent(rate)}`;

function textOf(one: Steady): string {
  const { overload, normalMs, all, capacityPerS } = one;
  const normal = normalMs === null ? 'not normal again' : `normal after ${normalMs.toFixed(0)} ms`;
  return (
    `${percent(ofCapacity(one))} of ${capacityPerS.toFixed(0)}/s, p99 ${overload.p99.toFixed(0)} ms, ` +
    `${normal}, ${all.counts.lost} lost`
  );
}

export function targetsOf(one: Steady, deadlineMs: number): Target[] {
  const name = nameOf(one);
  return [
    atLeast(`goodput, ${name}`, ofCapacity(one), GOODPUT_MIN),
    timesAtMost(`p99 of the answered against the deadline, ${name}`, one.overload.p99Aged / deadlineMs, 1),
    withinMs(`normal after the overload, ${name}`, one.normalMs, NORMAL_MS_MAX),
    atMost(`growth of the resident size, ${name}`, Math.max(0, one.growth), GROWTH_MAX),
    none(`lost or answered twice, ${name}`, one.all.counts.lost + one.duplicates),
  ];
}

export function findingOf(found: readonly Steady[], plan: Plan): Finding {
  const ratios = found.flatMap((one) => [
    [`goodput of the capacity, ${nameOf(one)}`, ofCapacity(one)],
    [`normal again, ${nameOf(one)}`, promptness(one.normalMs, NORMAL_MS_MAX)],
  ]);
  return {
    sections: sectionsOf(found, plan),
    targets: found.flatMap((one) => targetsOf(one, plan.deadlineMs)),
    ratios: Object.fromEntries(ratios),
    plots: [{ name: 'goodput', svg: goodputPlot(found) }],
    raw: found,
  };
}

function sectionsOf(found: readonly Steady[], plan: Plan): Section[] {
  const { deadlineMs, overloadS, warmS, tailS } = plan;
  return [
    {
      title: 'Steady overload',
      text: [
        prose(`${warmS} s at half of the capacity, then ${overloadS} s of what is offered, which the
          figures are about, then ${tailS} s at a twentieth. Goodput are events answered (ok or degraded)
          within ${deadlineMs} ms. Percentiles are of the answered, from the time each event was due; by its
          clock is the time that the deadline goes by: of a stream from the id of the event's entry to that
          of its prediction, else the same. The generator's own lateness (p99) is contained in both where
          there are no ids.`),
      ],
      table: {
        head: [...SUMMARY_HEAD, 'normal after'],
        rows: found.map((one) => [
          ...summaryRow(nameOf(one), one.overload, one.capacityPerS),
          one.normalMs === null ? 'not seen' : `${one.normalMs.toFixed(0)} ms`,
        ]),
      },
    },
    {
      title: 'Steady overload: what became of each event',
      text: ['Of the whole run. Every event sent is in one of the columns; lost is one without any outcome.'],
      table: { head: COUNT_HEAD, rows: found.map((one) => countRow(nameOf(one), one.all)) },
    },
    {
      title: 'Steady overload: memory and backlog',
      text: [
        prose(`Resident size before and after; its growth from the second quarter of the overload to the last,
          by medians. The backlog is of events in Redis without an outcome: the most, and what was left when
          the last event had its outcome.`),
      ],
      table: {
        head: ['', 'before', 'after', 'growth', 'backlog: most, left'],
        rows: found.map((one) => [
          nameOf(one),
          mib(one.beforeBytes),
          mib(one.afterBytes),
          `${(one.growth * 100).toFixed(1)} %`,
          one.via === 'stream' ? backlogText(one.watched.backlog) : '-',
        ]),
      },
    },
  ];
}

function goodputPlot(found: readonly Steady[]): string {
  const rates = [...new Set(found.map(({ rate }) => rate))].sort((a, b) => a - b);
  const ideal = [
    [0, 0],
    [1, 1],
    [Math.max(1, ...rates), 1],
  ] as const;
  return linePlot({
    title: 'Goodput against what is offered',
    x: { label: 'offered, of the capacity' },
    y: { label: 'answered in time, of the capacity' },
    lines: [
      ...VIAS.map((via) => ({
        name: via,
        points: found.filter((one) => one.via === via).map((one) => [one.rate, ofCapacity(one)] as const),
      })),
      { name: 'ideal', points: ideal, dashed: true },
    ],
  });
}
