/** `autocannon`: somebody else's tool, over HTTP, on more connections than can be answered in time. */
import { percent, prose, whole } from '../../text.ts';
import { type CannonReport, cannon } from '../cannon.ts';
import type { Finding, Scenario } from '../scenario.ts';
import { holds, none, type Target } from '../targets.ts';

/** More than the model does in a quarter of a second, which is how long events are of use. */
const CONNECTIONS = 512;
const SHOWN = ['200', '429', '503', '504'] as const;

export const autocannon: Scenario = {
  name: 'autocannon',
  what: 'autocannon over HTTP, as fast as it is answered: status codes and Retry-After',
  async run(ground) {
    const { plan, say } = ground;
    const body = { data: { level: 0.5 }, key: 'load-0', deadline_ms: plan.deadlineMs };
    const found = await ground.withMeasured(async (engine, capacityPerS) => {
      const url = `${engine.url}/v2/models/slow/infer`;
      const shots = { connections: CONNECTIONS, seconds: plan.overloadS };
      const report = await cannon({ url, body: JSON.stringify(body), ...shots });
      return { report, capacityPerS };
    });
    const { report } = found;
    const seen = Object.entries(report.statuses).map(([status, count]) => `${count} x ${status}`);
    say(`${seen.join(', ')}; ${report.retryAfter} of ${report.refusals} refusals with Retry-After`);
    return findingOf(found);
  },
};

interface Found {
  readonly report: CannonReport;
  readonly capacityPerS: number;
}

function findingOf({ report, capacityPerS }: Found): Finding {
  const { statuses, seconds, refusals, retryAfter, p50, p99, errors, timeouts } = report;
  const count = (status: string) => statuses[status] ?? 0;
  const all = Object.values(statuses).reduce((sum, one) => sum + one, 0);
  const others = all - SHOWN.reduce((sum, status) => sum + count(status), 0);
  const goodput = count('200') / seconds / capacityPerS;
  const told = `${whole(retryAfter)} of ${whole(refusals)}`;
  const targets: Target[] = [
    holds('429 and 503 with Retry-After', 'all', refusals > 0 && retryAfter === refusals, told),
    none('errors, timeouts and other codes, autocannon', errors + timeouts + others),
  ];
  const cells = [all / seconds, ...SHOWN.map((status) => count(status) / seconds), others / seconds];
  return {
    sections: [
      {
        title: 'autocannon',
        text: [
          prose(`Over HTTP on ${CONNECTIONS} connections, each of which asks again as soon as it is answered,
            refused or not: a closed loop, which takes as much of the processors as it gets. Answers a second
            by status code, and percentiles of all answers, refusals among them, as autocannon has them.
            Answered 200, of the capacity: ${percent(goodput)}. Errors and timeouts: ${whole(errors)} and
            ${whole(timeouts)}. Refusals with Retry-After: ${told}.`),
        ],
        table: {
          head: ['', 'answers/s', ...SHOWN.map((status) => `${status}/s`), 'others/s', 'p50, ms', 'p99, ms'],
          rows: [['subito', ...cells.map(whole), whole(p50), whole(p99)]],
        },
      },
    ],
    targets,
    ratios: { 'answered 200 of the capacity, autocannon': goodput },
    plots: [],
    raw: { ...report, capacityPerS },
  };
}
