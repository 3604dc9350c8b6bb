/** `ladder`: a model fails for a while; others answer in its place, and the other model does not notice. */

import { field } from '../../streams.ts';
import { prose, whole } from '../../text.ts';
import { type OverloadEngine, predictionsOf } from '../engine.ts';
import { type EventTable, normalAfterMs, type Summary, summaryOf } from '../events.ts';
import { type Offer, type Offered, offer } from '../offer.ts';
import type { Plan } from '../plan.ts';
import type { Finding, Ground, Scenario } from '../scenario.ts';
import { holds, none, promptness, type Target, timesAtMost, withinMs } from '../targets.ts';
import { COUNT_HEAD, countRow, SUMMARY_HEAD, summaryRow } from '../text.ts';

const HALF = 0.5;
const FAST_PER_S = 200;
const LADDER_MS_MAX = 1000;
const HEALED_MS_MAX = 5000;
const OTHER_TIMES_MAX = 1.2;
const PAGE = 5000;

interface Window {
  readonly before: Summary;
  readonly failing: Summary;
  readonly after: Summary;
  readonly all: Summary;
}

interface Ladder {
  readonly capacityPerS: number;
  /** Why the engine has no ladder. */
  readonly missing: string | null;
  readonly slow: Window;
  readonly fast: Window;
  /** From the fault until the first event was due from which on all are degraded, as long as it lasts. */
  readonly degradedMs: number | null;
  /** From healing until all are ok. */
  readonly okMs: number | null;
  readonly marks: Marks;
  readonly bad: number;
}

/** Predictions with status `degraded`, in the stream. */
interface Marks {
  readonly degraded: number;
  /** By `rung`; '' where there is none. */
  readonly rungs: Readonly<Record<string, number>>;
}

export const ladder: Scenario = {
  name: 'ladder',
  what: 'a model fails for some seconds: who answers in its place, and the other model meanwhile',
  async run(ground) {
    const found = await ground.withMeasured((engine, capacityPerS) => measure(engine, capacityPerS, ground), {
      ladder: true,
    });
    if (found.missing !== null) ground.say(`no ladder: ${found.missing}`);
    const text = (ms: number | null) => (ms === null ? 'never' : `after ${ms.toFixed(0)} ms`);
    ground.say(`all degraded ${text(found.degradedMs)}; ok again ${text(found.okMs)}`);
    return findingOf(found, ground.plan);
  },
};

async function measure(engine: OverloadEngine, capacityPerS: number, { plan, say }: Ground): Promise<Ladder> {
  const [beforeS, failingS, afterS] = plan.failureS;
  const { warmS, deadlineMs, timeoutS } = plan;
  const [fromMs, faultMs] = [warmS * 1000, (warmS + beforeS) * 1000];
  const healedMs = faultMs + failingS * 1000;
  const endMs = healedMs + afterS * 1000;
  const script = [
    { atMs: faultMs, act: () => engine.fault.set('fail') },
    { atMs: healedMs, act: () => engine.fault.set('none') },
  ];
  const offerOf = (stream: 'slow' | 'fast', ratePerS: number, seed: number): Offer => ({
    ...{ via: 'stream', stream, deadlineMs, timeoutS, seed, say },
    phases: [{ seconds: endMs / 1000, ratePerS }],
  });
  const [slow, fast] = await Promise.all([
    offer(engine, offerOf('slow', capacityPerS * HALF, 1), script),
    offer(engine, offerOf('fast', FAST_PER_S, 2)),
  ]);
  const windowOf = ({ events }: Offered): Window => {
    const of = (from: number, to: number) => summaryOf(events, { fromMs: from, toMs: to }, deadlineMs);
    return {
      before: of(fromMs, faultMs),
      failing: of(faultMs, healedMs),
      after: of(healedMs, endMs),
      all: of(0, Number.POSITIVE_INFINITY),
    };
  };
  const [ofSlow, ofFast] = [windowOf(slow), windowOf(fast)];
  return {
    ...{ capacityPerS, missing: engine.models.ladderMissing, slow: ofSlow, fast: ofFast },
    degradedMs: degradedAfterMs(slow.events, faultMs, healedMs, deadlineMs),
    okMs: normalAfterMs(slow.events, healedMs, (seq) => isOk(slow.events, seq)),
    marks: await marksOf(engine),
    bad: ofSlow.all.counts.lost + ofFast.all.counts.lost + slow.duplicates + fast.duplicates,
  };
}

const isOk = (events: EventTable, seq: number) => events.status(seq) === 'ok';

/**
 * What was due shortly before healing may find the model well again: the last events, whose deadline lies
 * behind it, are not asked. A trial of the model is an ordinary event that fails and is answered all the
 * same.
 */
export function degradedAfterMs(
  events: EventTable,
  faultMs: number,
  healedMs: number,
  deadlineMs: number,
): number | null {
  const isDegraded = (seq: number) => events.status(seq) === 'degraded';
  return normalAfterMs(events, faultMs, isDegraded, healedMs - deadlineMs);
}

async function marksOf(engine: OverloadEngine): Promise<Marks> {
  const rungs: Record<string, number> = {};
  let degraded = 0;
  let from = '-';
  for (;;) {
    const page = ['XRANGE', predictionsOf('slow'), from, '+', 'COUNT', `${PAGE}`];
    const entries = (await engine.site.wire.call(page)) as [string, string[]][];
    for (const [, fields] of entries) {
      if (field(fields, 'status') !== 'degraded') continue;
      degraded++;
      const rung = field(fields, 'rung') ?? '';
      rungs[rung] = (rungs[rung] ?? 0) + 1;
    }
    if (entries.length < PAGE) return { degraded, rungs };
    from = `(${entries.at(-1)![0]}`;
  }
}

function findingOf(found: Ladder, plan: Plan): Finding {
  const { slow, fast, degradedMs, okMs, marks, bad, missing, capacityPerS } = found;
  const other = fast.failing.p99 / fast.before.p99;
  const rungs = Object.entries(marks.rungs).map(([rung, count]) => `${rung || 'no rung'} ${whole(count)}`);
  const marked = marks.degraded > 0 && marks.rungs[''] === undefined;
  const targets: Target[] = [
    withinMs('all answers from the ladder after the model began to fail', degradedMs, LADDER_MS_MAX),
    holds('degraded predictions name their rung', 'all', marked, rungs.join(', ') || 'none degraded'),
    withinMs('ok again after healing', okMs, HEALED_MS_MAX),
    timesAtMost('p99 of the other model while one fails, against before', other, OTHER_TIMES_MAX),
    none('lost or answered twice, ladder', bad),
  ];
  const of = <T>(row: (name: string, summary: Summary, isSlow: boolean) => T) => [
    row('failing model: before', slow.before, true),
    row('failing model: while it fails', slow.failing, true),
    row('failing model: after', slow.after, true),
    row('other model: before', fast.before, false),
    row('other model: meanwhile', fast.failing, false),
    row('other model: after', fast.after, false),
  ];
  const without = missing === null ? '' : ` This engine has no ladder (${missing}): the model ran without.`;
  return {
    sections: [
      {
        title: 'A model that fails',
        text: [
          prose(`By stream, half of the capacity to the slow model and ${FAST_PER_S} events a second to the
            fast one, on one worker. For ${plan.failureS[1]} s each row of the slow model fails; its ladder is
            the last known prediction of the key, then a constant.${without}`),
        ],
        table: {
          head: SUMMARY_HEAD,
          rows: of((name, summary, isSlow) => summaryRow(name, summary, isSlow ? capacityPerS : null)),
        },
      },
      {
        title: 'A model that fails: what became of each event',
        text: [],
        table: { head: COUNT_HEAD, rows: of(countRow) },
      },
    ],
    targets,
    ratios: {
      'all answers from the ladder': promptness(degradedMs, LADDER_MS_MAX),
      'ok again after healing': promptness(okMs, HEALED_MS_MAX),
      'p99 of the other model before against while one fails': fast.before.p99 / fast.failing.p99,
    },
    plots: [],
    raw: found,
  };
}
