/**
 * Listeners whose plays come from a backend: XADD to the events stream, pipelined on a connection of their
 * own. The predictions and dead letters of all of them are followed with XREAD, as any consumer would.
 */
import { RedisReplyError, type Reply } from '../redis/reply.ts';
import { encodeCommand } from '../redis/resp.ts';
import type { StreamTail } from '../redis/stream-tail.ts';
import { RedisWire } from '../redis/wire.ts';
import type { Question } from './listener.ts';
import { guessesOf, packr, RETRY_MS, type Settle, type Way } from './way.ts';

export interface RedisWayOptions {
  readonly url: string;
  readonly stream: string;
  /** Its `outputs` are JSON: the stream's `encoding` in the configuration says so. */
  readonly predictions: string;
  readonly deadletters: string;
  readonly settle: Settle;
}

export class RedisWay implements Way {
  readonly #options: RedisWayOptions;
  readonly #tails: StreamTail[] = [];
  #wire: RedisWire | null = null;
  #commands: Buffer[] = [];
  #events: string[] = [];
  #retry: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(options: RedisWayOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    const wire = await this.#connect();
    const { predictions, deadletters, settle } = this.#options;
    // From here on they find back by themselves, and miss nothing. Entries of other producers come by too;
    // their events are known to nobody here.
    this.#tails.push(
      await wire.tail(predictions, ['event', 'outputs'], (entry) =>
        settle(entry.text(0) ?? '', guessesOf(parseJson(entry.text(1)))),
      ),
      await wire.tail(deadletters, ['event', 'reason', 'detail'], (entry) =>
        settle(entry.text(0) ?? '', `${entry.text(1)} ${entry.text(2) ?? ''}`.trim()),
      ),
    );
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
    for (const tail of this.#tails) tail.close();
    this.#wire?.close();
    this.#wire = null;
  }

  async #connect(): Promise<RedisWire> {
    const wire = await RedisWire.connect(this.#options.url);
    wire.onLost = () => {
      this.#wire = null;
      this.#again();
    };
    if (this.#closed) wire.close();
    else this.#wire = wire;
    return wire;
  }

  #again(): void {
    if (this.#closed) return;
    this.#retry = setTimeout(() => void this.#connect().catch(() => this.#again()), RETRY_MS);
  }
}

function parseJson(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? 'null');
  } catch {
    return null;
  }
}
