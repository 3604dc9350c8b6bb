/** `faults`: a worker that hangs, a handler that crashes, a provider that is not there. */
import { prose } from '../../text.ts';
import { type Audit, type OverloadEngine, type SeenHealth, watchHealth } from '../engine.ts';
import { normalAfterMs, type Summary, summaryOf } from '../events.ts';
import type { Mode } from '../fault.ts';
import { type Offer, offer } from '../offer.ts';
import type { Finding, Ground, Scenario } from '../scenario.ts';
import { holds, none, promptness, type Target, withinMs } from '../targets.ts';
import { COUNT_HEAD, countRow } from '../text.ts';

const SHARE = 0.25;
const FAST_PER_S = 100;
/** A worker is taken for hung after limits.infer_ms_max, 5 s; then another one starts. */
const BACK_MS_MAX = { hang: 8000, crash: 3000 } as const;
/** The batch runs again, row by row at last: a fault for each of these. */
const TIMES = 1;
/** No machine that runs this suite has it: it is macOS's. */
const PROVIDER_ABSENT = 'coreml';

interface Found {
  readonly name: string;
  /** Of the slow model; null: it is not served. */
  readonly backMs: number | null;
  readonly backMsMax: number | null;
  readonly slow: Summary | null;
  readonly fast: Summary;
  readonly health: readonly SeenHealth[];
  readonly isUp: boolean;
  readonly audit: Audit;
  readonly bad: number;
}

export const faults: Scenario = {
  name: 'faults',
  what: 'a worker hangs, a handler crashes, a provider is missing: the engine stays up and says so',
  async run(ground) {
    const found: Found[] = [];
    for (const mode of ['hang', 'crash'] as const) {
      found.push(await ground.withEngine((engine) => strike(engine, ground, mode)));
      ground.say(textOf(found.at(-1)!));
    }
    const models = { providers: [PROVIDER_ABSENT] };
    found.push(await ground.withEngine((engine) => withoutProvider(engine, ground), models));
    ground.say(textOf(found.at(-1)!));
    return findingOf(found);
  },
};

async function strike(
  engine: OverloadEngine,
  { plan, capacityPerS, say }: Ground,
  mode: Extract<Mode, 'hang' | 'crash'>,
): Promise<Found> {
  const [beforeS, afterS] = plan.faultS;
  const faultMs = beforeS * 1000;
  const { deadlineMs, timeoutS } = plan;
  const offerOf = (stream: 'slow' | 'fast', ratePerS: number, seed: number): Offer => ({
    ...{ via: 'stream', stream, deadlineMs, timeoutS, seed, say },
    phases: [{ seconds: beforeS + afterS, ratePerS }],
  });
  const stopWatching = watchHealth(engine);
  const script = [{ atMs: faultMs, act: () => engine.fault.set(mode, { times: TIMES }) }];
  const [slow, fast] = await Promise.all([
    offer(engine, offerOf('slow', capacityPerS * SHARE, 1), script),
    offer(engine, offerOf('fast', FAST_PER_S, 2)),
  ]);
  const all = { fromMs: 0, toMs: Number.POSITIVE_INFINITY };
  const [ofSlow, ofFast] = [slow, fast].map(({ events }) => summaryOf(events, all, deadlineMs));
  const isNormal = (seq: number) => slow.events.status(seq) === 'ok' && slow.events.isTimely(seq, deadlineMs);
  return {
    name: mode === 'hang' ? 'a worker hangs' : 'a handler crashes',
    backMs: normalAfterMs(slow.events, faultMs, isNormal),
    backMsMax: BACK_MS_MAX[mode],
    slow: ofSlow!,
    fast: ofFast!,
    health: await stopWatching(),
    isUp: !engine.runner.ended,
    audit: await engine.audit(),
    bad: ofSlow!.counts.lost + ofFast!.counts.lost + slow.duplicates + fast.duplicates,
  };
}

async function withoutProvider(engine: OverloadEngine, { plan }: Ground): Promise<Found> {
  const { deadlineMs, timeoutS, faultS } = plan;
  const stopWatching = watchHealth(engine);
  const phases = [{ seconds: faultS[0], ratePerS: FAST_PER_S }];
  const what = { via: 'stream', stream: 'fast', deadlineMs, timeoutS, phases } as const;
  const { events, duplicates } = await offer(engine, what);
  const fast = summaryOf(events, { fromMs: 0, toMs: Number.POSITIVE_INFINITY }, deadlineMs);
  return {
    name: 'a provider is missing',
    ...{ backMs: null, backMsMax: null, slow: null, fast },
    health: await stopWatching(),
    isUp: !engine.runner.ended,
    audit: await engine.audit(),
    bad: fast.counts.lost + duplicates,
  };
}

/** What the engine said, other than that all is well. */
function saidOf({ health }: Found): string[] {
  return [...new Set(health.filter(({ ready }) => !ready).flatMap(({ reasons }) => reasons))];
}

function textOf(found: Found): string {
  const { name, backMs, backMsMax, isUp, audit } = found;
  const back =
    backMsMax === null ? '' : `, normal ${backMs === null ? 'never' : `after ${backMs.toFixed(0)} ms`}`;
  return `${name}: ${isUp ? 'up' : 'ENDED'}${back}, audit ${audit.clean ? 'clean' : 'NOT clean'}`;
}

function targetsOf(found: Found): Target[] {
  const { name, backMs, backMsMax, isUp, audit, bad, fast, slow } = found;
  const said = saidOf(found);
  const answered = fast.counts.ok + fast.counts.degraded;
  return [
    holds(`the engine stays up, ${name}`, 'yes', isUp, isUp ? 'yes' : 'it ended'),
    holds(`health says so, ${name}`, 'a reason', said.length > 0, said[0]?.slice(0, 80) ?? 'always ready'),
    ...(backMsMax === null ? [] : [withinMs(`normal again, ${name}`, backMs, backMsMax)]),
    // One worker has both models: what comes while it hangs is late, and says so.
    ...(slow === null
      ? [
          holds(
            `the other model is served, ${name}`,
            'all',
            answered === fast.sent,
            `${answered} of ${fast.sent}`,
          ),
        ]
      : []),
    none(`lost or answered twice, ${name}`, bad),
    holds(`subito audit, ${name}`, 'clean', audit.clean, audit.clean ? 'clean' : 'not clean'),
  ];
}

function findingOf(found: readonly Found[]): Finding {
  const rows = found.flatMap(({ name, slow, fast }) => [
    ...(slow === null ? [] : [countRow(`${name}: its model`, slow)]),
    countRow(`${name}: the other model`, fast),
  ]);
  const said = found.map((one) => `- ${one.name}: ${saidOf(one).join('; ') || 'always ready'}`);
  const ratios = found.flatMap(({ name, backMs, backMsMax }) =>
    backMsMax === null ? [] : [[`normal again, ${name}`, promptness(backMs, backMsMax)]],
  );
  return {
    sections: [
      {
        title: 'Faults',
        text: [
          prose(`By stream, a quarter of the capacity to the slow model and ${FAST_PER_S} events a second to
            the fast one, on one worker, which then hangs or crashes in the slow model's handler, once.
            Without its provider the slow model is not served; events are sent to the fast one. What readiness
            said while it was not ready:`),
          ...said,
        ],
        table: { head: COUNT_HEAD, rows },
      },
    ],
    targets: found.flatMap(targetsOf),
    ratios: Object.fromEntries(ratios),
    plots: [],
    raw: found,
  };
}
