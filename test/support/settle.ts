// A committer with batches of its own, and streams to settle events of.
import type { Redis } from 'ioredis';
import { Committer } from '../../src/publish/committer.ts';
import type { RedisEndpoint } from '../../src/redis/endpoint.ts';
import { Fence } from '../../src/redis/fence.ts';
import { ledgerKey } from '../../src/redis/keys.ts';
import { Batch } from '../../src/schedule/batch.ts';
import { slabLayout } from '../../src/schedule/slab.ts';
import { fillBatch, type RowSpec, tensor } from './batches.ts';
import { until } from './core.ts';

export const STREAM = {
  name: 'events',
  group: 'subito',
  predictions: 'predictions',
  deadletters: 'deadletters',
  predictionsMax: 1_000_000,
};
export const SECOND = {
  ...STREAM,
  name: 'more',
  predictions: 'more-predictions',
  deadletters: 'more-deadletters',
};

const LAYOUT = slabLayout([tensor('features', 1)], [tensor('out', 1)], 64, 1024);

export function newBatch(rejects = false): Batch {
  return new Batch({
    rowsMax: 64,
    layout: rejects ? null : LAYOUT,
    slab: 0,
    keyBytesMax: 128,
    eventIdBytesMax: 64,
  });
}

/** The one that `deliver` gives events to. */
export const CONSUMER = 'reader';
/** Of the streams' ledgers, as `deliver` writes it. */
export const EPOCH = '1700000000000';

/** A committer under test, and what it has said to be settled. */
export class Settling {
  readonly committer: Committer;
  readonly settled: Batch[] = [];
  readonly fences: readonly Fence[];

  constructor(endpoint: RedisEndpoint, streams = [STREAM, SECOND], now?: () => number) {
    this.fences = streams.map(() => new Fence());
    for (const fence of this.fences) fence.learn(EPOCH);
    this.committer = new Committer({
      consumer: () => CONSUMER,
      streams: streams.map((stream, i) => ({ ...stream, endpoint, fence: this.fences[i] as Fence })),
      onSettled: (batch) => this.settled.push(batch),
      ...(now === undefined ? {} : { now }),
    });
    this.committer.start();
  }

  connected(): Promise<void> {
    return until('the committer is connected', () => this.committer.connected);
  }

  /** Settles rows in a batch of their own. */
  settle(
    rows: readonly RowSpec[],
    {
      model = 'm@1',
      record = null as number | null,
      rejects = false,
      firstHand = true,
      mark = undefined as number | undefined,
    } = {},
  ): Batch {
    const batch = fillBatch(newBatch(rejects), rows);
    for (let row = 0; row < batch.rows; row += 1) {
      batch.fences[row] = firstHand ? (mark ?? this.fences[batch.origin[row] as number]?.mark ?? 0) : 0;
    }
    this.committer.settle(batch, model, record);
    return batch;
  }

  done(batches: number, msMax?: number): Promise<void> {
    return until(`${batches} batches are settled`, () => this.settled.length >= batches, msMax);
  }
}

/** Adds events and has them delivered to a consumer; returns their ids. */
export async function deliver(redis: Redis, count: number, stream = STREAM): Promise<string[]> {
  await redis.xgroup('CREATE', stream.name, stream.group, '0', 'MKSTREAM').catch(() => {});
  await redis.hset(ledgerKey(stream.name), `${stream.group}:epoch`, EPOCH);
  const ids: string[] = [];
  for (let i = 0; i < count; i += 1)
    ids.push(String(await redis.xadd(stream.name, '*', 'key', `k${i}`, 'data', `d${i}`)));
  await redis.xreadgroup('GROUP', stream.group, CONSUMER, 'COUNT', count, 'STREAMS', stream.name, '>');
  return ids;
}

export type Fields = Record<string, string>;

/** All entries of a stream, their fields by name. */
export async function entries(redis: Redis, stream: string): Promise<Fields[]> {
  const found = (await redis.xrange(stream, '-', '+')) as [string, string[]][];
  return found.map(([, values]) => {
    const fields: Fields = {};
    for (let i = 0; i < values.length; i += 2) fields[values[i] as string] = values[i + 1] as string;
    return fields;
  });
}

export async function pendingCount(redis: Redis, stream = STREAM): Promise<number> {
  const [count] = (await redis.xpending(stream.name, stream.group)) as [number];
  return count;
}
