/** Drives autocannon. Argument: the plan, as JSON. */
import autocannon from 'autocannon';
import { messageOf } from '../../src/errors.ts';
import type { CannonMessage, CannonPlan, CannonReport } from './cannon.ts';

const REFUSALS = [429, 503];

const plan = JSON.parse(process.argv[2]!) as CannonPlan;
const tell = (message: CannonMessage) => {
  process.send!(message, undefined, undefined, () => process.exit(message.say === 'done' ? 0 : 1));
};

async function run(): Promise<CannonReport> {
  const { url, body, connections, seconds } = plan;
  let refusals = 0;
  let retryAfter = 0;
  const result = await autocannon({
    ...{ url, body, connections, method: 'POST' },
    headers: { 'content-type': 'application/json' },
    duration: seconds,
    setupClient: (client) => {
      client.on('headers', ({ statusCode, headers }) => {
        if (!REFUSALS.includes(statusCode)) return;
        refusals++;
        const names = headers.filter((_, i) => i % 2 === 0).map((name) => name.toLowerCase());
        if (names.includes('retry-after')) retryAfter++;
      });
    },
  });
  const counts = Object.entries(result.statusCodeStats).map(([status, { count }]) => [status, count]);
  return {
    statuses: Object.fromEntries(counts),
    ...{ refusals, retryAfter },
    seconds: result.duration,
    p50: result.latency.p50,
    p99: result.latency.p99,
    errors: result.errors,
    timeouts: result.timeouts,
  };
}

// Whoever asked is gone.
process.once('disconnect', () => process.exit());
try {
  tell({ say: 'done', report: await run() });
} catch (error) {
  tell({ say: 'failed', why: messageOf(error) });
}
