/**
 * Who this engine is in its consumer groups: the same name in all of them, held by a heartbeat key per
 * partition that expires when nobody refreshes it.
 *
 * States: held -> (a heartbeat is somebody else's: this process stood still for longer than `ttlMs`, and
 * another engine took the name) -> taking another slot -> held, with another name. Redis being away loses
 * nothing: a heartbeat that expired or was flushed meanwhile is set again, if it is still free.
 */
import { randomUUID } from 'node:crypto';
import { type After, afterMs } from '../clock.ts';
import { messageOf } from '../errors.ts';
import { notice } from '../observe/channels.ts';
import type { Control } from '../redis/control.ts';
import { aliveKey } from '../redis/keys.ts';
import { type Machine, readMachine } from './machine.ts';
import { consumerName, isDead, takeSlot, tokenOf } from './names.ts';

/** A stream of one slot, and the group in which we are a consumer. */
export interface GroupOfStream {
  /** Of the stream. */
  readonly name: string;
  readonly group: string;
}

export interface ConsumerOptions {
  readonly control: Pick<Control, 'script'>;
  readonly partitions: readonly GroupOfStream[];
  /** A heartbeat that was not refreshed for so long lets go of the name. */
  readonly ttlMs: number;
  readonly machine?: Machine;
  /** Differs between any two engines of one process. */
  readonly nonce?: string;
  readonly after?: After;
  /** The name was lost, and this one taken: what is pending under the old one is no longer ours. */
  readonly onRename?: (name: string) => void;
}

export interface Consumer {
  /** Changes when it was lost: ask for it each time. */
  readonly name: string;
  /** What its heartbeats hold. */
  readonly token: string;
  /** Deletes the heartbeats. Never rejects: what Redis does not delete expires. */
  stop(): Promise<void>;
}

const BEAT_MS = 1000;
/** A dead process's token is replaced by another one's at most so often while we look. */
const TAKEOVERS_MAX = 3;

/** Takes the lowest free slot of this machine. Rejects when Redis does. */
export async function takeConsumer(options: ConsumerOptions): Promise<Consumer> {
  const heartbeat = new Heartbeat(options);
  await heartbeat.take();
  heartbeat.start();
  return heartbeat;
}

class Heartbeat implements Consumer {
  readonly token: string;
  readonly #options: ConsumerOptions;
  readonly #partitions: readonly GroupOfStream[];
  readonly #machine: Machine;
  readonly #after: After;
  /** Asked for with every batch. */
  name = '';
  #cancel = () => {};
  #beating: Promise<void> = Promise.resolve();
  #stopped: Promise<void> | null = null;

  constructor(options: ConsumerOptions) {
    this.#options = options;
    this.#machine = options.machine ?? readMachine();
    this.#after = options.after ?? afterMs;
    this.token = tokenOf(this.#machine, options.nonce ?? randomUUID());
    // In the same order in every engine: see takeSlot.
    this.#partitions = options.partitions.toSorted((a, b) => compare(keyOf(a, ''), keyOf(b, '')));
  }

  /** At once, where the one before us is dead. */
  async take(): Promise<void> {
    await this.#takeSlot((partition, name) => this.#takeFrom(partition, name));
  }

  start(): void {
    const { ttlMs } = this.#options;
    this.#cancel = this.#after(Math.min(BEAT_MS, ttlMs / 3), () => {
      this.#beating = this.#beat().then(() => {
        if (this.#stopped === null) this.start();
      });
    });
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.#cancel();
    // It may be taking another name just now, which then has to go as well.
    await this.#beating;
    await Promise.allSettled(this.#partitions.map((partition) => this.#vacate(partition, this.name)));
  }

  async #beat(): Promise<void> {
    const { name } = this;
    const beats = this.#partitions.map((partition) => this.#occupy(partition, name));
    const answers = await Promise.allSettled(beats);
    // No answer loses nothing: Redis is away.
    const lost = answers.some((answer) => answer.status === 'fulfilled' && answer.value !== this.token);
    if (lost) await this.#rename(name).catch((error: unknown) => this.#complain(error));
  }

  async #rename(lost: string): Promise<void> {
    await Promise.allSettled(this.#partitions.map((partition) => this.#vacate(partition, lost)));
    // A free one, however dead the holder of another may look: whoever took our name may have thought the
    // same of us, and two who do so would take it from each other for ever.
    await this.#takeSlot(async (partition, name) => {
      return (await this.#occupy(partition, name)) === this.token;
    });
    if (this.name === lost) return;
    notice('warn', 'CONSUMER_RENAMED', `${lost} was taken by another engine; this one is ${this.name} now`);
    this.#options.onRename?.(this.name);
  }

  /** Tried again with the next beat. */
  #complain(error: unknown): void {
    notice('warn', 'CONSUMER_LOST', `${this.name} was taken by another engine: ${messageOf(error)}`);
  }

  async #takeSlot(take: (partition: GroupOfStream, name: string) => Promise<boolean>): Promise<void> {
    const at = (index: number) => this.#partitions[index] as GroupOfStream;
    const slot = await takeSlot({
      partitions: this.#partitions.length,
      take: (slot, index) => take(at(index), consumerName(this.#machine, slot)),
      giveBack: (slot, index) => this.#vacate(at(index), consumerName(this.#machine, slot)),
    });
    this.name = consumerName(this.#machine, slot);
  }

  /** Takes over from a process that is dead; somebody else may be doing the same. */
  async #takeFrom(partition: GroupOfStream, name: string): Promise<boolean> {
    let dead = '';
    for (let attempt = 0; attempt <= TAKEOVERS_MAX; attempt += 1) {
      const holder = await this.#occupy(partition, name, dead);
      if (holder === this.token) return true;
      if (!isDead(holder, this.#machine)) return false;
      dead = holder;
    }
    return false;
  }

  /** Answers with the token that holds the name now. */
  async #occupy(partition: GroupOfStream, name: string, dead = ''): Promise<string> {
    const { control, ttlMs } = this.#options;
    return String(await control.script('occupy', [keyOf(partition, name)], [this.token, ttlMs, dead]));
  }

  #vacate(partition: GroupOfStream, name: string): Promise<unknown> {
    return this.#options.control.script('vacate', [keyOf(partition, name)], [this.token]);
  }
}

function keyOf({ name, group }: GroupOfStream, consumer: string): string {
  return aliveKey(name, group, consumer);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
