// Two engines' stream paths (reader, intake, batcher, runner, committer) on one real server, under random
// faults: each event is settled exactly once, as what it is. Workers are functions of the test; all else is
// real.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { afterEach, expect, test } from 'vitest';
import { nowMs } from '../src/clock.ts';
import type { InferResult, InferTask } from '../src/infer/protocol.ts';
import { StreamReader } from '../src/ingest/reader.ts';
import { ensureGroup } from '../src/ingest/regroup.ts';
import { Committer } from '../src/publish/committer.ts';
import { type Control, connectControl } from '../src/redis/control.ts';
import { Fence } from '../src/redis/fence.ts';
import type { Batch } from '../src/schedule/batch.ts';
import { Batcher } from '../src/schedule/batcher.ts';
import { ENTRY_FIELDS } from '../src/schedule/entry.ts';
import { Intake } from '../src/schedule/intake.ts';
import { BatchRunner } from '../src/schedule/runner.ts';
import { RESULT, ROW, ROW_COLUMNS } from '../src/schedule/slab.ts';
import { addModelLane, addRejectLane, admissionOf, INTAKE_LIMITS, streamOf } from './support/batches.ts';
import { endpointOf, Relay, until } from './support/core.ts';
import { Random } from './support/random.ts';
import { startRedis, type TestRedis } from './support/redis.ts';
import { entries, STREAM } from './support/settle.ts';

const EVENTS = 12_000;
const GROUP = { ...STREAM, stream: STREAM.name };
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** One engine without models, gateway and figures. */
class Path {
  readonly relay: Relay;
  readonly intake: Intake;
  readonly reader: StreamReader;
  readonly committer: Committer;
  readonly #batches: Map<number, Batch>;
  readonly #random: Random;

  constructor(server: TestRedis, relay: Relay, control: Control, consumer: string, random: Random) {
    this.relay = relay;
    this.#random = random;
    const endpoint = endpointOf(server, relay.port);
    const batcher = new Batcher<Batch>(2, (lane, batch) => runner.run(lane, batch));
    const lane = addModelLane(batcher, { name: 'm', rowsMax: 16, batches: 6, arenaBytes: 600 });
    const rejects = addRejectLane(batcher, 8, 3);
    this.#batches = new Map(lane.free.map((batch) => [batch.slab, batch]));
    const admission = admissionOf(batcher);
    const options = { batcher, admission, lanes: [lane], rejects, payloadBytesMax: 600 };
    const intake = new Intake({ ...INTAKE_LIMITS, ...options });
    const runner: BatchRunner = new BatchRunner({
      batcher,
      streamNames: [STREAM.name],
      infer: (task) => this.#infer(task),
      settle: (batch, model, record) => committer.settle(batch, model, record),
      admission,
      onFreeRows: (lane, rows, ms) => {
        intake.released(lane, rows, ms);
        reader.kick();
      },
    });
    for (const one of [lane, rejects]) runner.addLane(one);
    const fence = new Fence();
    const committer: Committer = new Committer({
      consumer: () => consumer,
      streams: [{ ...STREAM, endpoint, fence }],
      onSettled: (batch) => runner.settled(batch),
    });
    const stream = streamOf(lane);
    const reader = new StreamReader({
      endpoint,
      stream: STREAM.name,
      group: STREAM.group,
      consumer: () => consumer,
      fields: ENTRY_FIELDS,
      entryBytesMax: 2000,
      countMax: 64,
      blockMs: 200,
      claimIdleMs: 15_000,
      deliveriesMax: 5,
      fence,
      demand: () => intake.demand(stream),
      received: () => intake.received(nowMs()),
      demandAlone: () => intake.demandAlone(stream),
      alone: intake.alone,
      take: (buffer, entry, mark) => intake.take(stream, buffer, entry, mark),
      isInHand: (id) => intake.isInHand(stream, id),
      reject: (id, deliveries, detail) => intake.reject(stream, id, detail, deliveries > 5),
      flush: () => batcher.flush(),
      createGroup: () => ensureGroup(control, GROUP),
      unblock: (clientId) => control.unblock(clientId, STREAM.name),
    });
    this.intake = intake;
    this.reader = reader;
    this.committer = committer;
    committer.start();
    reader.start();
    cleanups.push(() => {
      reader.close();
      committer.close();
    });
  }

  /** Predicts, refuses and dies as the data says; and dies for no reason, but never on one row alone. */
  async #infer({ slab, first, rows }: InferTask): Promise<InferResult> {
    await sleep(this.#random.int(1, 6));
    const { table, memory, layout } = this.#batches.get(slab) as Batch;
    const parts: Buffer[] = [];
    let bytes = 0;
    for (let row = first; row < first + rows; row += 1) {
      const at = row * ROW_COLUMNS;
      const from = layout!.arenaInOffset + (table[at + ROW.inOffset] as number);
      const data = memory.toString('latin1', from, from + (table[at + ROW.inLength] as number));
      if (data.startsWith('killer')) throw new Error('died of its event');
      table[at + ROW.result] = data.startsWith('bad') ? RESULT.invalid : RESULT.ok;
      const part = Buffer.from(`about ${data}`);
      table[at + ROW.outOffset] = bytes;
      table[at + ROW.outLength] = part.length;
      bytes += part.length;
      parts.push(part);
    }
    if (rows > 1 && this.#random.chance(0.02)) throw new Error('died of nothing');
    return { inferUs: 5, runUs: 3, spill: Buffer.concat(parts) };
  }
}

type Kind = 'good' | 'bad' | 'killer' | 'malformed' | 'large';

async function produce(redis: Redis, random: Random): Promise<Map<string, { kind: Kind; data: string }>> {
  const events = new Map<string, { kind: Kind; data: string }>();
  for (let from = 0; from < EVENTS; from += 1000) {
    const batch: { kind: Kind; data: string }[] = [];
    const pipeline = redis.pipeline();
    for (let n = from; n < from + 1000; n += 1) {
      const at = random.next();
      const kind =
        at < 0.0005 ? 'killer' : at < 0.02 ? 'bad' : at < 0.04 ? 'malformed' : at < 0.045 ? 'large' : 'good';
      const data = `${kind}-${n}`.padEnd(kind === 'large' ? 5000 : random.int(5, 90), '.');
      batch.push({ kind, data });
      pipeline.xadd(
        STREAM.name,
        '*',
        'key',
        `k${n % 7}`,
        ...(kind === 'malformed' ? ['colour', 'red'] : []),
        'data',
        data,
      );
    }
    const ids = ((await pipeline.exec()) ?? []).map(([, id]) => String(id));
    for (const [i, id] of ids.entries()) events.set(id, batch[i]!);
  }
  return events;
}

/** One fault of the kinds that infrastructure has; ends when things work again. */
async function fault(
  server: TestRedis,
  control: Redis,
  paths: readonly Path[],
  random: Random,
  round: number,
): Promise<void> {
  if (round === 12) {
    await server.kill();
    await server.restart();
    return;
  }
  switch (random.int(0, 4)) {
    case 0:
      random.pick(paths).relay.cut();
      return;
    case 1:
      await control.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
      return;
    case 2:
      await control.script('FLUSH');
      return;
    case 3: {
      const { relay } = random.pick(paths);
      relay.dropReplies = true;
      await sleep(random.int(5, 40));
      relay.dropReplies = false;
      relay.cut();
      return;
    }
    default:
      await control.config('SET', 'maxmemory', '1');
      await sleep(random.int(5, 60));
      await control.config('SET', 'maxmemory', '0');
  }
}

async function drained(redis: Redis, paths: readonly Path[]): Promise<boolean> {
  if (paths.some(({ intake, committer }) => intake.rowsInFlight > 0 || committer.unsettledCommands > 0))
    return false;
  const [pending] = (await redis.xpending(STREAM.name, STREAM.group)) as [number];
  const groups = JSON.stringify(await redis.xinfo('GROUPS', STREAM.name));
  const last = String((await redis.xrevrange(STREAM.name, '+', '-', 'COUNT', 1))[0]?.[0]);
  return pending === 0 && groups.includes(last);
}

test.each([
  ['two consumers', ['a', 'b']],
  ['one consumer for both', ['a', 'a']],
] as const)(
  'exactly one settlement per event under random faults: %s',
  { timeout: 60_000 },
  async (_, consumers) => {
    const seed = Number(process.env['SUBITO_TEST_SEED'] ?? Date.now() % 1_000_000);
    const random = new Random(seed);
    const server = await startRedis({ appendonly: true, config: { 'maxmemory-policy': 'noeviction' } });
    cleanups.push(() => server.stop());
    const redis = server.connect();
    const control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 5000 });
    cleanups.push(() => control.close());
    await ensureGroup(control, GROUP);
    const events = await produce(redis, random);
    const paths: Path[] = [];
    for (const consumer of consumers) {
      const relay = await Relay.to(server.port);
      cleanups.push(() => relay.close());
      paths.push(new Path(server, relay, control, consumer, random));
    }
    for (let round = 0; round < 25; round += 1) {
      await sleep(random.int(10, 60));
      await fault(server, redis, paths, random, round);
    }
    await until(`seed ${seed}: all is settled`, () => drained(redis, paths), 30_000);

    const settled = [...(await entries(redis, 'predictions')), ...(await entries(redis, 'deadletters'))];
    const wrong = settled.filter(({ source, reason = 'ok', data, outputs }) => {
      const event = events.get(source as string);
      if (event === undefined) return true;
      if (event.kind === 'good') return reason !== 'ok' || outputs !== `about ${event.data}`;
      return reason !== (event.kind === 'killer' ? 'failed' : 'invalid') || data !== event.data;
    });
    expect(wrong, `seed ${seed}`).toEqual([]);
    expect(settled.length, `seed ${seed}`).toBe(EVENTS);
    expect(new Set(settled.map(({ source }) => source)).size, `seed ${seed}`).toBe(EVENTS);
  },
);
