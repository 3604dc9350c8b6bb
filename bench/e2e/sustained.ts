/** `sustained`: the highest rate of an open loop at which the backlog stays flat, and the backlog at it. */
import { linePlot } from '../../src/plot.ts';
import { openSite } from '../site.ts';
import { middle } from '../statistics.ts';
import type { Suite, SuiteOptions, SuiteResult } from '../suite.ts';
import { percent, prose, whole } from '../text.ts';
import { PACE, PACE_QUICK, type Paced, PacedEngine, type Sustained } from './pace.ts';

const RUN_S = 60;
const RUN_S_QUICK = 5;

export const sustainedSuite: Suite = {
  name: 'sustained',
  what: 'an open loop: the highest rate at which the backlog stays flat for a minute',
  async run({ quick, say }: SuiteOptions) {
    const settings = quick ? PACE_QUICK : PACE;
    const site = await openSite();
    try {
      const engine = await PacedEngine.start(site, settings, say);
      try {
        const found = await engine.sustained(settings, false);
        const seconds = quick ? RUN_S_QUICK : RUN_S;
        say(`${seconds} s at ${found.ratePerS.toFixed(0)}/s`);
        const run = await engine.runFlat(found.ratePerS, seconds, false);
        return resultOf(found, run, seconds);
      } finally {
        await engine.stop();
      }
    } finally {
      await site.stop();
    }
  },
};

function resultOf({ drainPerS, probes }: Sustained, run: Paced, seconds: number): SuiteResult {
  const { ratePerS, backlog, report, redisUs, engineUs } = run;
  const waiting = backlog.map(([, events]) => events);
  const most = Math.max(...waiting);
  const cells = [
    `${whole(drainPerS)}/s`,
    `${whole(ratePerS)}/s`,
    percent(ratePerS / drainPerS),
    `${whole(middle(waiting))}`,
    `${whole(most)}`,
    `${((most / ratePerS) * 1000).toFixed(0)} ms`,
  ];
  const line = { name: 'backlog', points: backlog };
  return {
    sections: [
      {
        title: `Open loop over ${seconds} s`,
        text: [
          prose(`Poisson arrivals from a process of its own on the same machine, found by bisection
            between 30 % and 95 % of the drain rate. The backlog is what was added and has no prediction
            yet. Adding the events is work for Redis and for the generator that a drain does not have;
            they share the cores.`),
          prose(`Processor time per event: Redis ${redisUs.toFixed(2)} us, engine ${engineUs.toFixed(2)}
            us, generator ${report.cpuUs.toFixed(2)} us.`),
        ],
        table: {
          head: ['', 'drain', 'sustained', 'of the drain', 'backlog, median', 'most', 'as time'],
          rows: [['subito', ...cells]],
        },
      },
    ],
    ratios: { 'sustained of the drain rate': ratePerS / drainPerS },
    plots: [
      {
        name: 'backlog',
        svg: linePlot({
          title: `Backlog at ${whole(ratePerS)} events/s`,
          x: { label: 'time, s' },
          y: { label: 'events added and not predicted yet' },
          lines: [line],
        }),
      },
    ],
    raw: { drainPerS, probes, ratePerS, report, redisUs, engineUs, backlog },
  };
}
