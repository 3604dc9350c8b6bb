/** How many engines there should be, of this one's signals. */
import { Advisor } from '../autoscale/advisor.ts';
import { Census } from '../autoscale/census.ts';
import { nowMs } from '../clock.ts';
import type { Config } from '../config.ts';
import type { Consumer } from '../ingest/consumer.ts';
import type { Sources } from '../observe/sources.ts';
import type { Totals } from '../observe/totals.ts';
import type { Control } from '../redis/control.ts';
import type { StreamPartition } from './streams.ts';

export interface AdvisorParts {
  readonly config: Config;
  readonly partitions: readonly StreamPartition[];
  readonly control: Control;
  readonly consumer: Consumer;
  readonly totals: Totals;
  readonly sources: Sources;
}

export function createAdvisor(parts: AdvisorParts): Advisor {
  const { config, partitions, control, consumer, totals, sources } = parts;
  const census = new Census({ control, partitions, consumer: () => consumer.name });
  return new Advisor({
    config: config.autoscale,
    totals,
    streams: partitions.length,
    backlog: () => sources.backlog(),
    workers: () => sources.workers(),
    count: () => census.count(),
    loopActiveMs: () => performance.eventLoopUtilization().active,
    now: () => performance.now(),
    wallNow: nowMs,
  });
}
