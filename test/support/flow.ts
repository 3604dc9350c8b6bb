// Events that keep coming while something goes wrong, and the count of what became of them.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster, Redis } from 'ioredis';
import { expect } from 'vitest';
import { until } from './core.ts';

export interface FlowStream {
  readonly name: string;
  readonly group: string;
  readonly predictions: string;
  readonly deadletters: string;
}

const EVERY_MS = 3;

/** One event every few milliseconds to each stream; what Redis refuses to take is not sent again. */
export class Flow {
  readonly #redis: Redis | Cluster;
  readonly #streams: readonly FlowStream[];
  readonly #fields: readonly (string | Buffer)[];
  /** Ids that Redis has confirmed, by stream. */
  readonly #sent: readonly Set<string>[];
  #running = false;
  #loop: Promise<unknown> = Promise.resolve();
  /** Highest delivery count seen of any pending event. */
  deliveries = 0;

  constructor(redis: Redis | Cluster, streams: readonly FlowStream[], fields: readonly (string | Buffer)[]) {
    this.#redis = redis;
    this.#streams = streams;
    this.#fields = fields;
    this.#sent = streams.map(() => new Set());
  }

  get sent(): number {
    return this.#sent.reduce((sum, ids) => sum + ids.size, 0);
  }

  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#loop = Promise.all(this.#streams.map((stream, i) => this.#send(stream, i)));
  }

  async stop(): Promise<void> {
    this.#running = false;
    await this.#loop;
  }

  /** What has been sent so far is of no more interest. */
  forget(): void {
    for (const ids of this.#sent) ids.clear();
  }

  async #send({ name }: FlowStream, index: number): Promise<void> {
    while (this.#running) {
      const id = await this.#redis.xadd(name, '*', ...this.#fields).catch(() => null);
      if (id !== null) this.#sent[index]?.add(id);
      await sleep(EVERY_MS);
    }
  }

  /**
   * Adds `count` events to each stream; those of the last one in a transaction with other commands: no reader
   * sees them before the commands have been carried out.
   */
  async sendWith(count: number, commands: readonly (readonly string[])[]): Promise<void> {
    for (const [index, { name }] of this.#streams.entries()) {
      const all = this.#redis.multi();
      for (let i = 0; i < count; i += 1) all.xadd(name, '*', ...this.#fields);
      const isLast = index === this.#streams.length - 1;
      for (const [command = '', ...args] of isLast ? commands : []) all.call(command, ...args);
      const replies = (await all.exec()) ?? [];
      for (const [error] of replies) if (error !== null) throw error;
      for (const [, id] of replies.slice(0, count)) this.#sent[index]?.add(id as string);
    }
  }

  /** Looks at the delivery counts of what is pending now. */
  async lookAtDeliveries(): Promise<void> {
    for (const { name, group } of this.#streams) {
      const rows = (await this.#redis.xpending(name, group, '-', '+', 1000)) as unknown[][];
      for (const [, , , deliveries] of rows) this.deliveries = Math.max(this.deliveries, Number(deliveries));
    }
  }

  /** Waits until `count` more events have been predicted in every stream. */
  async flows(count = 10): Promise<void> {
    const lengths = () => Promise.all(this.#streams.map(({ predictions }) => this.#redis.xlen(predictions)));
    const before = await lengths();
    await until(`${count} more events are predicted`, async () =>
      (await lengths()).every((length, i) => length >= (before[i] as number) + count),
    );
  }

  /**
   * Waits until nothing is pending or unread; then each event that was sent has one prediction, and that is
   * all.
   */
  async settled(): Promise<void> {
    for (const [index, { name, group, predictions, deadletters }] of this.#streams.entries()) {
      const sent = this.#sent[index] as Set<string>;
      const sources = async () => {
        const entries = (await this.#redis.xrange(predictions, '-', '+')).map(([, fields]) => fields);
        return entries.map((fields) => fields[fields.indexOf('source') + 1] as string);
      };
      await until(`${sent.size} events of ${name} are predicted`, async () => {
        const found = new Set(await sources());
        return [...sent].every((id) => found.has(id)) || (await this.#redis.xlen(deadletters)) > 0;
      });
      expect(await this.#redis.xrange(deadletters, '-', '+')).toEqual([]);
      await until(`nothing of ${name} is pending`, async () => {
        const [pending] = (await this.#redis.xpending(name, group)) as [number];
        return pending === 0;
      });
      const found = await sources();
      const twice = found.filter((id, i) => found.indexOf(id) !== i);
      expect(twice, 'predicted twice').toHaveLength(0);
    }
  }
}
