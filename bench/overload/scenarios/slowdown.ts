/** `slowdown`: all that the engine can do, and then its model takes ten times as long for a while. */
import { linePlot } from '../../../src/plot.ts';
import { percent, prose } from '../../text.ts';
import { courseOf, normalAfterMs, type Slice, type Summary, summaryOf } from '../events.ts';
import { EngineWatch, offer, type Watched } from '../offer.ts';
import type { Finding, Ground, Scenario } from '../scenario.ts';
import { atLeast, none, promptness, timesAtMost, withinMs } from '../targets.ts';
import { backlogText, COUNT_HEAD, countRow, SUMMARY_HEAD, summaryRow } from '../text.ts';
import { GOODPUT_MIN, NORMAL_MS_MAX } from './steady.ts';

const TIMES = 10;
const SLICE_MS = 500;
const CALM = 0.05;

interface Slowdown {
  readonly capacityPerS: number;
  readonly before: Summary;
  readonly slow: Summary;
  readonly after: Summary;
  readonly all: Summary;
  /** From healing until a slice has again nine tenths of the goodput before. */
  readonly backMs: number | null;
  /** From the end of the load until all is normal. */
  readonly normalMs: number | null;
  readonly duplicates: number;
  readonly course: readonly Slice[];
  readonly watched: Watched;
}

export const slowdown: Scenario = {
  name: 'slowdown',
  what: 'at the capacity, the model takes ten times as long for ten seconds',
  async run(ground) {
    const found = await measure(ground);
    const back = found.backMs === null ? 'not back' : `back after ${found.backMs.toFixed(0)} ms`;
    ground.say(
      `goodput ${found.before.timelyPerS.toFixed(0)}/s, slow ${found.slow.timelyPerS.toFixed(0)}/s, ${back}`,
    );
    return findingOf(found, ground);
  },
};

async function measure({ plan, withMeasured, say }: Ground): Promise<Slowdown> {
  const { warmS, tailS, deadlineMs, timeoutS } = plan;
  const [beforeS, slowS, afterS] = plan.slowdownS;
  const [fromMs, slowMs] = [warmS * 1000, (warmS + beforeS) * 1000];
  const healedMs = slowMs + slowS * 1000;
  const endMs = healedMs + afterS * 1000;
  return await withMeasured(async (engine, capacityPerS) => {
    const watch = new EngineWatch(engine, ['slow']);
    // There is one worker: at the capacity, a row takes it so long.
    const rowMs = ((TIMES - 1) * 1000) / capacityPerS;
    const script = [
      { atMs: 0, act: () => watch.begin() },
      { atMs: slowMs, act: () => engine.fault.set('slow', { rowMs }) },
      { atMs: healedMs, act: () => engine.fault.set('none') },
    ];
    const phases = [
      { seconds: endMs / 1000, ratePerS: capacityPerS },
      { seconds: tailS, ratePerS: capacityPerS * CALM },
    ];
    const what = { via: 'stream', stream: 'slow', phases, deadlineMs, timeoutS, say } as const;
    const { events, duplicates } = await offer(engine, what, script);
    const of = (from: number, to: number) => summaryOf(events, { fromMs: from, toMs: to }, deadlineMs);
    const before = of(fromMs, slowMs);
    const course = courseOf(events, endMs + tailS * 1000, SLICE_MS, deadlineMs);
    const isNormal = (seq: number) => events.status(seq) === 'ok' && events.isTimely(seq, deadlineMs);
    return {
      ...{ capacityPerS, before, duplicates, course },
      slow: of(slowMs, healedMs),
      after: of(healedMs, endMs),
      all: of(0, Number.POSITIVE_INFINITY),
      backMs: backAfterMs(course, healedMs, endMs, before.timely / before.sent),
      normalMs: normalAfterMs(events, endMs, isNormal),
      watched: await watch.stop(),
    };
  });
}

/**
 * Until the beginning of the first slice of whose events as large a share is answered in time as nine tenths
 * of the share before. Null: there is none before `endMs`, or there was nothing to come back to.
 */
export function backAfterMs(
  course: readonly Slice[],
  healedMs: number,
  endMs: number,
  shareBefore: number,
): number | null {
  if (!(shareBefore > 0)) return null;
  const half = SLICE_MS / 2;
  const slices = course.filter(({ atS }) => atS * 1000 - half >= healedMs && atS * 1000 + half <= endMs);
  const isBack = ({ timelyPerS, sentPerS }: Slice) => timelyPerS >= sentPerS * shareBefore * GOODPUT_MIN;
  const first = slices.find((slice) => slice.sentPerS > 0 && isBack(slice));
  return first === undefined ? null : first.atS * 1000 - half - healedMs;
}

function findingOf(found: Slowdown, { plan }: Ground): Finding {
  const { before, slow, after, all, backMs, normalMs, watched, duplicates, capacityPerS } = found;
  const ofBefore = before.timelyPerS / capacityPerS;
  // While it is slow, it can do a tenth.
  const ofSlow = (slow.timelyPerS * TIMES) / capacityPerS;
  const row = (name: string, summary: Summary) => summaryRow(name, summary, capacityPerS);
  const text = prose(`By stream, at ${percent(1)} of the capacity throughout; for ${plan.slowdownS[1]} s each
    row takes ${TIMES} times as long, and the engine is not told. Goodput while slow, of a tenth of the
    capacity: ${percent(ofSlow)}. Backlog in Redis (most, left): ${backlogText(watched.backlog)}.`);
  return {
    sections: [
      {
        title: 'The model is ten times slower for a while',
        text: [text],
        table: {
          head: SUMMARY_HEAD,
          rows: [row('before', before), row('while slow', slow), row('after', after)],
        },
      },
      {
        title: 'Ten times slower: what became of each event',
        text: [],
        table: {
          head: COUNT_HEAD,
          rows: [countRow('before', before), countRow('while slow', slow), countRow('in all', all)],
        },
      },
    ],
    targets: [
      atLeast('goodput while ten times slower, of a tenth of the capacity', ofSlow, GOODPUT_MIN),
      timesAtMost('p99 of the answered against the deadline, while slow', slow.p99Aged / plan.deadlineMs, 1),
      withinMs('goodput back after the slowdown', backMs, NORMAL_MS_MAX),
      withinMs('normal after the load, slowdown', normalMs, NORMAL_MS_MAX),
      none('lost or answered twice, slowdown', all.counts.lost + duplicates),
    ],
    ratios: {
      'goodput at the capacity': ofBefore,
      'goodput while ten times slower, of a tenth of the capacity': ofSlow,
      'goodput back after the slowdown': promptness(backMs, NORMAL_MS_MAX),
    },
    plots: [{ name: 'slowdown', svg: plotOf(found, plan.warmS + plan.slowdownS[0], plan.slowdownS[1]) }],
    raw: found,
  };
}

function plotOf({ course, watched, capacityPerS }: Slowdown, fromS: number, slowS: number): string {
  const until = course.at(-1)?.atS ?? 0;
  return linePlot({
    title: `Ten times slower from ${fromS} to ${fromS + slowS} s`,
    x: { label: 'time, s' },
    y: { label: 'of the capacity; backlog in seconds of it' },
    lines: [
      {
        name: 'offered',
        points: course.map(({ atS, sentPerS }) => [atS, sentPerS / capacityPerS]),
        dashed: true,
      },
      { name: 'in time', points: course.map(({ atS, timelyPerS }) => [atS, timelyPerS / capacityPerS]) },
      {
        name: 'backlog',
        points: watched.backlog
          .filter(([atS]) => atS <= until)
          .map(([atS, events]) => [atS, events / capacityPerS] as const),
      },
    ],
  });
}
