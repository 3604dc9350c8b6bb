// What an engine reports of itself, for tests of the figures.
import type { SettleReport } from '../../src/observe/channels.ts';
import type { OutcomeCounts } from '../../src/observe/figures.ts';
import type { Sources } from '../../src/observe/sources.ts';
import { noOutcomes } from '../../src/observe/totals.ts';

/** An engine with one model and one stream, and everything that there may be a figure of. */
export const engineSources: Sources = {
  state: () => ({ state: 'running', reasons: [] }),
  backlog: () => [{ stream: 'events', unread: 5, pending: 1, oldestUnreadMs: 1, oldestPendingMs: 1 }],
  inflightRows: () => 12,
  connections: () => 3,
  workers: () => 2,
  models: () => [
    {
      name: 'm',
      version: 1,
      provider: 'cpu',
      description: '',
      rowsMax: 256,
      batchRows: 128,
      runMsMax: 3.5,
      profile: [{ rows: 1, runs: 20, p50Ms: 1, p99Ms: 2 }],
      profileProvider: 'cpu',
    },
  ],
  sessions: () => [{ model: 'm', provider: 'cpu', count: 2 }],
  fallbacks: () => [{ model: 'm', provider: 'cuda', count: 1 }],
  breakers: () => [{ model: 'm', provider: 'cpu', state: 'closed' }],
  limits: () => [{ model: 'm', rows: 512 }],
  targets: () => ({ latencyMs: 10, deadlines: [{ stream: 'events', deadlineMs: 1000 }] }),
};

/** Rows that arrived, were read, dispatched, run and settled a millisecond apart. */
export function settleReport(stream: string, model: string, counts: Partial<OutcomeCounts>): SettleReport {
  const rows = Object.values(counts).reduce((sum, count) => sum + count, 0);
  return {
    model,
    stream,
    ...noOutcomes(),
    ...counts,
    rows,
    arrivedMs: new Float64Array(rows).fill(1),
    readMs: new Float64Array(rows).fill(2),
    dispatchedMs: 3,
    inferredMs: 4,
    settledMs: 5,
  };
}
