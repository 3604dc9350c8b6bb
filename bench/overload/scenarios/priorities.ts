/** `priorities`: twice what the engine can do, in three classes of equal parts. */

import { priorityPattern } from '../../../src/load/priorities.ts';
import { percent, prose } from '../../text.ts';
import { type EventTable, type Summary, summaryOf } from '../events.ts';
import { offer } from '../offer.ts';
import type { Plan } from '../plan.ts';
import type { Finding, Scenario } from '../scenario.ts';
import { atLeast, atMost, none, type Target } from '../targets.ts';
import { COUNT_HEAD, countRow, SUMMARY_HEAD, summaryRow } from '../text.ts';

const RATE = 2;
const MIX = '0:1,1:1,2:1';
const NAMES = ['0 (playing)', '1 (prefetch)', '2 (analytics)'] as const;
const LOSS_MAX = 0.01;
/** Each class has to get on in every one of so many parts of the time. */
const PARTS = 5;

export interface ClassFound {
  readonly name: string;
  readonly summary: Summary;
  /** Of its events, those without an answer in time. */
  readonly loss: number;
  /** Of the parts of the time, those in which none of its events was answered in time. */
  readonly idle: number;
}

export const priorities: Scenario = {
  name: 'priorities',
  what: 'one stream at 200 % in three classes of equal parts',
  async run(ground) {
    const { warmS, overloadS, tailS, deadlineMs, timeoutS } = ground.plan;
    const [fromMs, toMs] = [warmS * 1000, (warmS + overloadS) * 1000];
    const found = await ground.withMeasured(async (engine, capacityPerS) => {
      const phases = [
        { seconds: warmS, ratePerS: capacityPerS / 2 },
        { seconds: overloadS, ratePerS: capacityPerS * RATE },
        { seconds: tailS, ratePerS: capacityPerS / 20 },
      ];
      const { say } = ground;
      const load = { via: 'stream', stream: 'slow', deadlineMs, timeoutS, priority: MIX } as const;
      return { ...(await offer(engine, { ...load, phases, say })), capacityPerS };
    });
    const classes = classesOf(found.events, fromMs, toMs, deadlineMs);
    for (const { name, loss } of classes) ground.say(`class ${name}: loses ${percent(loss)}`);
    const all = summaryOf(found.events, { fromMs: 0, toMs: Number.POSITIVE_INFINITY }, deadlineMs);
    return findingOf({ ...found, classes, all }, ground.plan);
  },
};

export function classesOf(
  events: EventTable,
  fromMs: number,
  toMs: number,
  deadlineMs: number,
): ClassFound[] {
  const pattern = priorityPattern(MIX);
  return NAMES.map((name, priority) => {
    const of = (seq: number) => pattern[seq % pattern.length] === priority;
    const summary = summaryOf(events, { fromMs, toMs, of }, deadlineMs);
    const partMs = (toMs - fromMs) / PARTS;
    const parts = Array.from({ length: PARTS }, (_, i) => {
      const window = { fromMs: fromMs + i * partMs, toMs: fromMs + (i + 1) * partMs, of };
      return summaryOf(events, window, deadlineMs).timely;
    });
    const idle = parts.filter((timely) => timely === 0).length / PARTS;
    return { name, summary, loss: 1 - summary.timely / summary.sent, idle };
  });
}

interface Found {
  readonly classes: readonly ClassFound[];
  readonly all: Summary;
  readonly duplicates: number;
  readonly capacityPerS: number;
}

function findingOf({ classes, all, duplicates, capacityPerS }: Found, plan: Plan): Finding {
  const goodput = classes.reduce((sum, { summary }) => sum + summary.timelyPerS, 0) / capacityPerS;
  const targets: Target[] = [
    atMost('loss of class 0', classes[0]!.loss, LOSS_MAX),
    ...classes.map(({ name, idle }) => atMost(`time in which class ${name} did not get on`, idle, 0)),
    atLeast('goodput of all classes', goodput, 0.9),
    none('lost or answered twice, priorities', all.counts.lost + duplicates),
  ];
  return {
    sections: [
      {
        title: 'Priorities',
        text: [
          prose(`By stream, ${percent(RATE)} of the capacity for ${plan.overloadS} s, a third in each class.
            Not answered within ${plan.deadlineMs} ms is lost to its class. A class gets on when in each fifth
            of the time some of its events are answered in time.`),
        ],
        table: {
          head: [...SUMMARY_HEAD, 'loss'],
          rows: classes.map(({ name, summary, loss }) => [
            ...summaryRow(name, summary, capacityPerS),
            percent(loss),
          ]),
        },
      },
      {
        title: 'Priorities: what became of each event',
        text: [],
        table: {
          head: COUNT_HEAD,
          rows: [...classes.map(({ name, summary }) => countRow(name, summary)), countRow('whole run', all)],
        },
      },
    ],
    targets,
    ratios: {
      'answered of class 0': 1 - classes[0]!.loss,
      'goodput of all classes': goodput,
    },
    plots: [],
    raw: { classes, all, duplicates, capacityPerS },
  };
}
