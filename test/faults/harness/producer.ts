/**
 * An open-loop producer of events: XADD at a rate, whatever becomes of the earlier ones. It keeps its own
 * record of what Redis said to each, for the verdict at the end; and it never sends an event twice.
 */
import { Redis } from 'ioredis';

/** One event, by its number; the entry carries the number as its `event`. */
export type Sent =
  | { readonly state: 'added'; readonly id: string }
  /** The reply was lost: it may have been added. */
  | { readonly state: 'unknown' }
  /** Redis refused it, or it never left: it must not have been added. */
  | { readonly state: 'refused'; readonly error: string };

export interface ProducerOptions {
  readonly port: number;
  readonly stream: string;
  /** Fields of event `n`, besides `event`. */
  readonly fields: (n: number) => readonly (string | Buffer)[];
}

const TICK_MS = 10;
/** After a standstill of the machine, at most so many at once. */
const BURST_MAX = 2000;

export class Producer {
  readonly #options: ProducerOptions;
  readonly #redis: Redis;
  readonly #sent: (Sent | undefined)[] = [];
  readonly #open = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | null = null;
  refusals = 0;

  constructor(options: ProducerOptions) {
    this.#options = options;
    this.#redis = new Redis({
      port: options.port,
      host: '127.0.0.1',
      connectionName: 'producer',
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 0,
      // A server that is promoted or that has lost its data is met on a new connection.
      reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
      retryStrategy: () => 20,
    });
    this.#redis.on('error', () => undefined);
  }

  async connected(): Promise<void> {
    if (this.#redis.status !== 'ready') await new Promise((resolve) => this.#redis.once('ready', resolve));
  }

  /** How many events have been sent; their numbers are 0 to this, less 1. */
  get count(): number {
    return this.#sent.length;
  }

  /** What became of event `n`. One whose reply is still out counts as unknown. */
  sent(n: number): Sent {
    return this.#sent[n] ?? { state: 'unknown' };
  }

  get added(): number {
    return this.#sent.reduce((sum, sent) => sum + (sent?.state === 'added' ? 1 : 0), 0);
  }

  /** From now on, at `rate` events a second. */
  start(rate: number): void {
    this.#stopTimer();
    const beginMs = performance.now();
    let due = 0;
    this.#timer = setInterval(() => {
      const now = Math.floor(((performance.now() - beginMs) * rate) / 1000);
      void this.send(Math.min(BURST_MAX, now - due));
      due = now;
    }, TICK_MS);
  }

  /** Resolves when every reply has come, or is lost. */
  async stop(): Promise<void> {
    this.#stopTimer();
    await Promise.all(this.#open);
  }

  /** So many events at once. Resolves when they are answered for. */
  send(count: number): Promise<void> {
    if (count <= 0) return Promise.resolve();
    const first = this.#sent.length;
    this.#sent.length += count;
    const pipeline = this.#redis.pipeline();
    for (let n = first; n < first + count; n += 1) {
      pipeline.xadd(this.#options.stream, '*', ...this.#options.fields(n), 'event', String(n));
    }
    const sending = pipeline.exec().then(
      (replies) => {
        for (const [i, [error, id]] of (replies ?? []).entries()) this.#answer(first + i, error, id);
      },
      (error: Error) => {
        for (let n = first; n < first + count; n += 1) this.#answer(n, error, null);
      },
    );
    this.#open.add(sending);
    return sending.finally(() => this.#open.delete(sending));
  }

  /**
   * A command on the producer's own connection: every event sent before it reaches Redis before it, every
   * later one after it. Resolves with the number of the first later one.
   */
  async inOrder(...command: readonly [string, ...string[]]): Promise<number> {
    const next = this.#sent.length;
    await this.#redis.call(...command);
    return next;
  }

  /** The entry was found: the reply alone was lost. */
  learn(n: number, id: string): void {
    if (n < this.#sent.length && this.sent(n).state === 'unknown') this.#sent[n] = { state: 'added', id };
  }

  close(): void {
    this.#stopTimer();
    this.#redis.disconnect();
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #answer(n: number, error: Error | null, id: unknown): void {
    if (error === null) {
      this.#sent[n] = { state: 'added', id: String(id) };
      return;
    }
    const never = error.name === 'ReplyError' || error.message.includes("isn't writeable");
    if (never) this.refusals += 1;
    this.#sent[n] = never ? { state: 'refused', error: error.message } : { state: 'unknown' };
  }
}
