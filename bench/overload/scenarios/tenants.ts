/** `tenants`: one sends ten times as much as the other, together twice what the engine can do. */
import { percent, prose } from '../../text.ts';
import type { OverloadEngine, StreamName } from '../engine.ts';
import { type Summary, summaryOf } from '../events.ts';
import { type Offer, type Offered, offer } from '../offer.ts';
import type { Plan } from '../plan.ts';
import type { Finding, Ground, Scenario } from '../scenario.ts';
import { atMost, none, type Target, timesAtMost } from '../targets.ts';
import { COUNT_HEAD, countRow, SUMMARY_HEAD, summaryRow } from '../text.ts';

const RATE = 2;
const TIMES = 10;
const P99_TIMES_MAX = 1.5;
const LOSS_MAX = 0.01;

interface Tenant {
  readonly stream: StreamName;
  readonly keyPrefix: string;
}

/** The two ways in which tenants may be told apart. */
const LAYOUTS: readonly { readonly name: string; readonly big: Tenant; readonly small: Tenant }[] = [
  {
    name: 'two streams',
    big: { stream: 'big', keyPrefix: 'load-' },
    small: { stream: 'small', keyPrefix: 'load-' },
  },
  {
    name: 'two groups of keys',
    big: { stream: 'slow', keyPrefix: 'big:' },
    small: { stream: 'slow', keyPrefix: 'small:' },
  },
];

interface Tenants {
  readonly name: string;
  readonly capacityPerS: number;
  /** The small one, with nobody beside it. */
  readonly alone: Summary;
  readonly small: Summary;
  readonly big: Summary;
  /** Events without an outcome, or with two, of all runs. */
  readonly bad: number;
}

export const tenants: Scenario = {
  name: 'tenants',
  what: 'two tenants, 10 to 1, at 200 % in all: as two streams, and as two groups of keys of one',
  async run(ground) {
    const found: Tenants[] = [];
    for (const layout of LAYOUTS) {
      const one = await ground.withMeasured((engine, capacityPerS) =>
        measure(engine, capacityPerS, ground, layout),
      );
      found.push(one);
      const { alone, small } = one;
      ground.say(
        `${one.name}: p99 of the small one ${small.p99.toFixed(1)} ms, alone ${alone.p99.toFixed(1)}`,
      );
    }
    return findingOf(found, ground.plan);
  },
};

async function measure(
  engine: OverloadEngine,
  capacityPerS: number,
  { plan, say }: Ground,
  { name, big, small }: (typeof LAYOUTS)[number],
): Promise<Tenants> {
  const { warmS, overloadS, deadlineMs, timeoutS } = plan;
  const part = (capacityPerS * RATE) / (TIMES + 1);
  const offerOf = (tenant: Tenant, ratePerS: number, seed: number): Offer => ({
    ...{ via: 'stream', ...tenant, deadlineMs, timeoutS, seed, say },
    phases: [{ seconds: warmS + overloadS, ratePerS }],
  });
  const alone = await offer(engine, offerOf(small, part, 1));
  const [withBig, ofBig] = await Promise.all([
    offer(engine, offerOf(small, part, 1)),
    offer(engine, offerOf(big, part * TIMES, 2)),
  ]);
  const window = { fromMs: warmS * 1000, toMs: (warmS + overloadS) * 1000 };
  const of = ({ events }: Offered) => summaryOf(events, window, deadlineMs);
  const bad = [alone, withBig, ofBig].map(({ events, duplicates }) => {
    const { counts } = summaryOf(events, { fromMs: 0, toMs: Number.POSITIVE_INFINITY }, deadlineMs);
    return counts.lost + duplicates;
  });
  return {
    ...{ name, capacityPerS },
    alone: of(alone),
    small: of(withBig),
    big: of(ofBig),
    bad: bad.reduce((sum, count) => sum + count, 0),
  };
}

const lossOf = ({ timely, sent }: Summary) => 1 - timely / sent;

function findingOf(found: readonly Tenants[], plan: Plan): Finding {
  const targets = found.flatMap(({ name, alone, small, bad }): Target[] => [
    timesAtMost(
      `p99 of the small tenant against its own alone, ${name}`,
      small.p99 / alone.p99,
      P99_TIMES_MAX,
    ),
    atMost(`loss of the small tenant, ${name}`, lossOf(small), LOSS_MAX),
    none(`lost or answered twice, ${name}`, bad),
  ]);
  const ratios = found.flatMap(({ name, alone, small }) => [
    [`p99 of the small tenant alone against beside the big one, ${name}`, alone.p99 / small.p99],
    [`answered of the small tenant, ${name}`, 1 - lossOf(small)],
  ]);
  const each = <T>(row: (name: string, summary: Summary, capacityPerS: number) => T) =>
    found.flatMap(({ name, alone, small, big, capacityPerS }) => [
      row(`${name}: small alone`, alone, capacityPerS),
      row(`${name}: small`, small, capacityPerS),
      row(`${name}: big`, big, capacityPerS),
    ]);
  return {
    sections: [
      {
        title: 'Two tenants',
        text: [
          prose(`By stream, for ${plan.overloadS} s: a small one with ${percent(RATE / (TIMES + 1))} of the
            capacity, first alone, then beside a big one with ten times as much. Once each has a stream of its
            own; once both share a stream, and differ in their keys. A p99 of the answered says little where
            much is not answered: loss stands beside it.`),
        ],
        table: {
          head: [...SUMMARY_HEAD, 'loss'],
          rows: each((name, summary, capacityPerS) => [
            ...summaryRow(name, summary, capacityPerS),
            percent(lossOf(summary)),
          ]),
        },
      },
      {
        title: 'Two tenants: what became of each event',
        text: [],
        table: { head: COUNT_HEAD, rows: each(countRow) },
      },
    ],
    targets,
    // Nothing answered is no figure.
    ratios: Object.fromEntries(ratios.map(([name, value]) => [name, Number.isNaN(value) ? 0 : value])),
    plots: [],
    raw: found,
  };
}
