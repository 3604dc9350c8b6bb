/** What the engine can do: a filled stream of events that have all the time in the world is drained. */

import { setTimeout as sleep } from 'node:timers/promises';
import { Packr } from 'msgpackr';
import { RedisReplyError } from '../../src/redis/reply.ts';
import { encodeBulk } from '../../src/redis/resp.ts';
import type { RedisWire } from '../../src/redis/wire.ts';
import { added, field, KEYS, lastAddedMs } from '../streams.ts';
import { type OverloadEngine, predictionsOf } from './engine.ts';
import type { Plan } from './plan.ts';

const GUESS_PER_S = 700;
const NO_HURRY_MS = 3_600_000;
const STREAM = 'slow';
const POLL_MS = 10;

export interface Capacity {
  readonly events: number;
  readonly perS: number;
}

/** Rejects unless every event is answered, and answered by the model. */
export async function capacityOf(engine: OverloadEngine, plan: Plan): Promise<Capacity> {
  // The first drain warms up, and says how many events the second one needs.
  const first = await drain(engine, 'warm', Math.ceil((GUESS_PER_S * plan.drainS) / 3));
  return drain(engine, 'drain', Math.ceil(first.perS * plan.drainS));
}

async function drain(engine: OverloadEngine, batch: string, events: number): Promise<Capacity> {
  const { runner, site } = engine;
  const predictions = predictionsOf(STREAM);
  runner.pause();
  const before = await added(site.wire, predictions);
  await fill(site.wire, batch, events);
  const [startMs, endMs] = [Date.now(), Date.now() + 120_000];
  runner.resume();
  while ((await added(site.wire, predictions)) < before + events) {
    if (runner.ended) throw new Error(`the engine ended:\n${runner.output}`);
    if (Date.now() > endMs) throw new Error(`${events} events are not answered in two minutes`);
    await sleep(POLL_MS);
  }
  const tookMs = (await lastAddedMs(site.wire, predictions)) - startMs;
  const other = await otherThanOk(site.wire, predictions);
  if (other !== null) throw new Error(`an event that had time was answered with ${other}`);
  return { events, perS: (events * 1000) / tookMs };
}

async function fill(wire: RedisWire, batch: string, events: number): Promise<void> {
  const data = new Packr({ useRecords: false }).pack({ level: 0.5 });
  const parts = Array.from({ length: events }, (_, i) => {
    const pairs = ['key', `load-${i % KEYS}`, 'deadline_ms', `${NO_HURRY_MS}`, 'event', `${batch}-${i}`];
    const command = ['XADD', STREAM, '*', ...pairs, 'data'].map(encodeBulk);
    return Buffer.concat([Buffer.from(`*${command.length + 1}\r\n`), ...command, encodeBulk(data)]);
  });
  await new Promise<void>((resolve, reject) => {
    let left = events;
    wire.write(Buffer.concat(parts), events, (reply) => {
      if (reply instanceof RedisReplyError) reject(reply);
      else if (--left === 0) resolve();
    });
  });
}

/** The first status that is not ok; null: there is none. */
async function otherThanOk(wire: RedisWire, predictions: string): Promise<string | null> {
  const entries = (await wire.call(['XRANGE', predictions, '-', '+'])) as [string, string[]][];
  const statuses = entries.map(([, fields]) => field(fields, 'status') ?? 'none');
  return statuses.find((status) => status !== 'ok') ?? null;
}
