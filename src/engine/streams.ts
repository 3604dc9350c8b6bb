/**
 * The configured streams as Redis knows them: one entry per partition, each with its own predictions stream.
 */
import type { StreamConfig } from '../config.ts';

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
