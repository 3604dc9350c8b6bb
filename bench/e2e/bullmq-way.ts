/**
 * The open loop over BullMQ: jobs added in bulk as they fall due, answers taken from the queue's event
 * stream.
 */
import { Queue } from 'bullmq';
import type { Settle, Way } from '../../src/load/way.ts';
import { eventId, eventNumber } from '../../src/load/way.ts';
import type { StreamTail } from '../../src/redis/stream-tail.ts';
import { RedisWire } from '../../src/redis/wire.ts';
import { payloads } from '../streams.ts';

export const QUEUE = 'bench';
export const EVENTS = `bull:${QUEUE}:events`;
/** By default BullMQ keeps some 10,000 events: too few to check a whole run. */
const EVENTS_KEPT = 10_000_000;

const data = payloads.map((payload) => ({ features: payload.toString('base64') }));

export function openQueue(redisUrl: string): Queue {
  const { hostname, port } = new URL(redisUrl);
  const queue = new Queue(QUEUE, {
    connection: { host: hostname, port: Number(port) },
    streams: { events: { maxLen: EVENTS_KEPT } },
  });
  queue.on('error', () => {});
  return queue;
}

export const jobs = (batch: string, from: number, count: number) =>
  Array.from({ length: count }, (_, i) => job(`${batch}-${from + i}`, from + i));

const job = (jobId: string, index: number) => ({
  name: 'infer',
  data: data[index % data.length]!,
  opts: { jobId },
});

export class BullWay implements Way {
  readonly notes: string[] = [];
  readonly #redisUrl: string;
  readonly #run: string;
  readonly #settle: Settle;
  readonly #fail: (error: Error) => void;
  #queue: Queue | null = null;
  #tail: StreamTail | null = null;
  #wire: RedisWire | null = null;
  #due: number[] = [];

  constructor(redisUrl: string, run: string, settle: Settle, fail: (error: Error) => void) {
    this.#redisUrl = redisUrl;
    this.#run = run;
    this.#settle = settle;
    this.#fail = fail;
  }

  async open(): Promise<void> {
    this.#queue = openQueue(this.#redisUrl);
    await this.#queue.waitUntilReady();
    this.#wire = await RedisWire.connect(this.#redisUrl);
    this.#tail = await this.#wire.tail(EVENTS, ['event', 'jobId'], (entry) => {
      const event = entry.text(0);
      if (event !== 'completed' && event !== 'failed') return;
      const seq = eventNumber(this.#run, entry.text(1));
      if (seq !== -1) this.#settle(seq, event === 'completed' ? '' : 'failed');
    });
  }

  send(seq: number): void {
    this.#due.push(seq);
  }

  flush(): void {
    if (this.#due.length === 0) return;
    const due = this.#due;
    this.#due = [];
    this.#queue!.addBulk(due.map((seq) => job(eventId(this.#run, seq), seq))).catch(this.#fail);
  }

  async close(): Promise<void> {
    this.#tail?.close();
    this.#wire?.close();
    await this.#queue?.close();
  }
}
