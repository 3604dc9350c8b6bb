/**
 * The configured streams as Redis knows them: one entry per partition, each with its own predictions stream.
 */
import type { Config, StreamConfig } from '../config.ts';
import type { ClockSkew } from '../ingest/skew.ts';
import { notice } from '../observe/channels.ts';
import type { Targets } from '../observe/sources.ts';
import type { IntakeStream, ModelLane } from '../schedule/intake.ts';

export interface StreamPartition extends StreamConfig {
  /** Index among all partitions of this engine; rows carry it as their origin. */
  readonly index: number;
  /** Name of the configured stream that this is a part of. */
  readonly stream: string;
}

/**
 * One partition uses the names as they stand; more append `:{i}`, so that all keys of one share a hash slot.
 */
export function partitionStreams(streams: readonly StreamConfig[]): StreamPartition[] {
  const partitions: StreamPartition[] = [];
  for (const stream of streams) {
    for (let i = 0; i < stream.partitions; i += 1) {
      const suffix = stream.partitions === 1 ? '' : `:{${i}}`;
      partitions.push({
        ...stream,
        name: stream.name + suffix,
        predictions: stream.predictions + suffix,
        deadletters: stream.deadletters + suffix,
        index: partitions.length,
        stream: stream.name,
      });
    }
  }
  return partitions;
}

/** The lane of events that name no model; null: there is none. */
export function laneOf({ model }: StreamPartition, lanes: readonly ModelLane[]): ModelLane | null {
  // One model needs no name.
  const only = lanes.length === 1 ? lanes[0] : undefined;
  const named = lanes.find((l) => l.name === model || l.label === model);
  return (model === undefined ? only : named) ?? null;
}

/** What intake has to know of a stream. */
export function intakeStream(
  partition: StreamPartition,
  lanes: readonly ModelLane[],
  skew: ClockSkew,
): IntakeStream {
  const { index, model, deadlineMs, encoding, name } = partition;
  const lane = laneOf(partition, lanes);
  if (model !== undefined && lane === null) {
    const message = `${name}: its model ${model} is not served; events must name another`;
    notice('warn', 'STREAM_MODEL_UNKNOWN', message);
  }
  return { index, lane, deadlineMs: deadlineMs ?? 0, json: encoding === 'json', skew };
}

/** What the figures are held against. */
export function targetsOf(
  { latency, limits }: Config,
  partitions: readonly StreamPartition[],
  lanes: readonly ModelLane[],
): Targets {
  const deadlines = partitions.map((partition) => {
    const deadlineMs =
      partition.deadlineMs || laneOf(partition, lanes)?.deadlineMs || limits.deadlineMsDefault;
    return { stream: partition.name, deadlineMs };
  });
  return { latencyMs: latency.targetMs, deadlines };
}
