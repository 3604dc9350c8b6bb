/**
 * Listeners whose plays come from a backend: XADD to the events stream, pipelined on a connection of their own. One
 * follower reads all predictions and dead letters with XREAD, as any consumer would.
 */
import { encodeCommand, RedisReplyError, type Reply } from '../load/resp.ts';
import { StreamTail } from '../load/tail.ts';
import { RedisWire } from '../load/wire.ts';
import type { Question } from './listener.ts';
import { decodeOutputs, guessesOf, packr, RETRY_MS, type Settle, type Way } from './way.ts';

export interface RedisWayOptions {
  readonly url: string;
  readonly stream: string;
  readonly predictions: string;
  readonly deadletters: string;
  readonly settle: Settle;
}

export class RedisWay implements Way {
  readonly #options: RedisWayOptions;
  #wire: RedisWire | null = null;
  #tail: StreamTail | null = null;
  #commands: Buffer[] = [];
  #events: string[] = [];
  #retry: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(options: RedisWayOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    const { url, predictions, deadletters } = this.#options;
    const wire = await RedisWire.connect(url);
    const tail = new StreamTail(url, [predictions, deadletters], (_stream, _id, fields) =>
      this.#entry(fields),
    );
    try {
      await tail.open(() => this.#lost());
    } catch (error) {
      wire.close();
      throw error;
    }
    wire.onLost = () => this.#lost();
    this.#wire = wire;
    this.#tail = tail;
    if (this.#closed) this.close();
  }

  ready(): boolean {
    return this.#wire !== null;
  }

  send(_listener: number, { key, event, data }: Question): void {
    const fields = ['key', key, 'event', event, 'data', packr.pack(data)];
    this.#commands.push(encodeCommand(['XADD', this.#options.stream, '*', ...fields]));
    this.#events.push(event);
  }

  flush(): void {
    if (this.#events.length === 0) return;
    const events = this.#events;
    const bytes = Buffer.concat(this.#commands);
    this.#events = [];
    this.#commands = [];
    let at = 0;
    this.#wire?.write(bytes, events.length, (reply: Reply) => {
      const event = events[at++]!;
      if (reply instanceof RedisReplyError) this.#options.settle(event, `redis ${reply.message}`);
    });
  }

  close(): void {
    this.#closed = true;
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#tail?.close();
    this.#wire?.close();
    this.#wire = null;
  }

  /** A prediction or a dead letter; those of other producers are no business of ours. */
  #entry(fields: ReadonlyMap<string, string>): void {
    const event = fields.get('event');
    if (event === undefined) return;
    const outputs = fields.get('outputs');
    if (outputs !== undefined)
      this.#options.settle(event, guessesOf(decodeOutputs(Buffer.from(outputs, 'latin1'))));
    else this.#options.settle(event, `${fields.get('reason')} ${fields.get('detail') ?? ''}`.trim());
  }

  #lost(): void {
    if (this.#closed || this.#wire === null) return;
    this.#tail?.close();
    this.#wire.close();
    this.#wire = null;
    this.#again();
  }

  #again(): void {
    this.#retry = setTimeout(() => {
      this.open().catch(() => {
        if (!this.#closed) this.#again();
      });
    }, RETRY_MS);
  }
}
