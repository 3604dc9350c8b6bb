/** What the hints to producers are made of, taken from the other parts of the engine. */
import { nowMs } from '../clock.ts';
import type { Consumer } from '../ingest/consumer.ts';
import { type Hints, startHints } from '../ingest/hints.ts';
import type { Limits } from '../limits.ts';
import type { Committer } from '../publish/committer.ts';
import type { Control } from '../redis/control.ts';
import type { ModelLane } from '../schedule/intake.ts';
import { laneOf, type StreamPartition } from './streams.ts';

export interface HintedParts {
  readonly control: Pick<Control, 'script'>;
  readonly partitions: readonly StreamPartition[];
  readonly lanes: readonly ModelLane[];
  readonly limits: Pick<Limits, 'deadlineMsDefault'>;
  readonly consumer: Pick<Consumer, 'name'>;
  readonly committer: Pick<Committer, 'refusal'>;
}

export function hintProducers(parts: HintedParts): Hints {
  const { control, partitions, lanes, limits, consumer, committer } = parts;
  return startHints({
    control,
    streams: partitions.map((partition) => ({
      name: partition.name,
      group: partition.group,
      deadlineMs: partition.deadlineMs || laneOf(partition, lanes)?.deadlineMs || limits.deadlineMsDefault,
    })),
    consumer: () => consumer.name,
    refused: () => committer.refusal !== '',
    now: nowMs,
  });
}
