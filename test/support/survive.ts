// Events that keep coming while servers move and die, and what must have become of them afterwards.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster, Redis } from 'ioredis';
import { expect } from 'vitest';
import { until } from './core.ts';

/** The names of one partition. */
export interface Part {
  readonly name: string;
  readonly group: string;
  readonly predictions: string;
  readonly deadletters: string;
}

export const partsOf = (partitions: number): Part[] =>
  Array.from({ length: partitions }, (_, i) => {
    const suffix = partitions === 1 ? '' : `:{${i}}`;
    const [name, predictions, deadletters] = ['events', 'predictions', 'deadletters'].map((n) => n + suffix);
    return { name, group: 'subito', predictions, deadletters } as Part;
  });

const EVERY_MS = 4;

/**
 * One event every few milliseconds to each partition, its key the stream's name. What is refused is not sent
 * again.
 */
export class Producer {
  readonly #client: Redis | Cluster;
  readonly #parts: readonly Part[];
  readonly #features: Buffer;
  /** Ids that Redis has confirmed, by stream. */
  readonly sent = new Map<string, Set<string>>();
  #running: Promise<unknown> | null = null;
  #stop = false;

  constructor(client: Redis | Cluster, parts: readonly Part[], features: Buffer) {
    this.#client = client;
    this.#parts = parts;
    this.#features = features;
    for (const { name } of parts) this.sent.set(name, new Set());
  }

  get count(): number {
    return [...this.sent.values()].reduce((sum, ids) => sum + ids.size, 0);
  }

  start(): void {
    this.#running = Promise.all(this.#parts.map((part) => this.#send(part)));
  }

  async stop(): Promise<void> {
    this.#stop = true;
    await this.#running;
  }

  async #send({ name }: Part): Promise<void> {
    while (!this.#stop) {
      const adding = this.#client.xadd(name, '*', 'key', name, 'features', this.#features);
      const id = await Promise.race([adding.catch(() => null), sleep(1000, null)]);
      if (id !== null) this.sent.get(name)?.add(id);
      await sleep(EVERY_MS);
    }
  }
}

async function sourcesOf(client: Redis | Cluster, stream: string): Promise<string[]> {
  const entries = await client.xrange(stream, '-', '+');
  return entries.map(([, fields]) => fields[fields.indexOf('source') + 1] as string);
}

/** Waits until each partition has at least so many more outcomes than now. */
export async function flows(client: Redis | Cluster, parts: readonly Part[], more = 20): Promise<void> {
  for (const { predictions } of parts) {
    const before = await client.xlen(predictions);
    // A silent server is given up after read_block_ms and five seconds, and is then asked who took over.
    const flow = async () => (await client.xlen(predictions).catch(() => 0)) >= before + more;
    await until(`events flow to ${predictions}`, flow, 20_000);
  }
}

/**
 * Waits until nothing is pending or unread; then every entry that exists, and every one that was confirmed
 * and not lost by Redis itself, has one outcome, and none has two. Returns what
 * Redis had lost, as `stream id`.
 */
export async function eachOnce(
  client: Redis | Cluster,
  parts: readonly Part[],
  { sent }: Producer,
): Promise<string[]> {
  const lost: string[] = [];
  for (const { name, group, predictions, deadletters } of parts) {
    const existing = async () => (await client.xrange(name, '-', '+')).map(([id]) => id);
    const outcomes = async () => [
      ...(await sourcesOf(client, predictions)),
      ...(await sourcesOf(client, deadletters)),
    ];
    let missing: string[] = [];
    await until(`every entry of ${name} has an outcome`, async () => {
      const known = new Set(await outcomes());
      missing = (await existing()).filter((id) => !known.has(id));
      return missing.length === 0;
    }).catch(async (error: Error) => {
      const pending = await client.xpending(name, group, '-', '+', 5);
      throw new Error(`${error.message}: ${missing.length}, first ${missing[0]}; ${JSON.stringify(pending)}`);
    });
    await until(`nothing of ${name} is pending`, async () => {
      const [pending] = (await client.xpending(name, group)) as [number];
      return pending === 0;
    });
    const found = await outcomes();
    const known = new Set(found);
    expect(found.filter((id, i) => found.indexOf(id) !== i)).toEqual([]);
    const there = new Set(await existing());
    for (const id of sent.get(name) ?? []) if (!known.has(id)) lost.push(`${name} ${id}`);
    expect([...there].filter((id) => !known.has(id))).toEqual([]);
    expect((await client.xrange(deadletters, '-', '+')).length).toBe(0);
  }
  return lost;
}

/** All entries there are, as `stream id`: just after a failover, what has survived it. */
export async function entriesOf(client: Redis | Cluster, parts: readonly Part[]): Promise<Set<string>> {
  const found = new Set<string>();
  for (const { name } of parts) {
    for (const [id] of await client.xrange(name, '-', '+')) found.add(`${name} ${id}`);
  }
  return found;
}
