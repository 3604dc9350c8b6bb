/** Follows streams from where they end now, with XREAD, on a connection of its own. */
import type { Reply } from './resp.ts';
import { RedisWire } from './wire.ts';

const COUNT = 2000;
/** Long, because nothing is lost by waiting: close() ends it. */
const BLOCK_MS = 5000;

export type OnEntry = (stream: string, id: string, fields: ReadonlyMap<string, string>) => void;

export class StreamTail {
  readonly #url: string;
  readonly #streams: readonly string[];
  readonly #onEntry: OnEntry;
  readonly #last = new Map<string, string>();
  #wire: RedisWire | null = null;
  #closed = false;

  constructor(url: string, streams: readonly string[], onEntry: OnEntry) {
    this.#url = url;
    this.#streams = streams;
    this.#onEntry = onEntry;
  }

  /** Resolves when everything added from now on will be seen. `lost` is told when the tail ends by itself. */
  async open(lost: (error: Error) => void): Promise<void> {
    const wire = await RedisWire.connect(this.#url);
    this.#wire = wire;
    for (const stream of this.#streams) this.#last.set(stream, await lastId(wire, stream));
    this.#follow(wire).catch((error: Error) => {
      if (!this.#closed) lost(error);
    });
  }

  close(): void {
    this.#closed = true;
    this.#wire?.close();
  }

  async #follow(wire: RedisWire): Promise<void> {
    const fields = new Map<string, string>();
    while (!this.#closed) {
      const ids = this.#streams.map((stream) => this.#last.get(stream)!);
      const head = ['XREAD', 'COUNT', `${COUNT}`, 'BLOCK', `${BLOCK_MS}`, 'STREAMS'];
      const reply = await wire.call([...head, ...this.#streams, ...ids]);
      for (const part of (reply ?? []) as Reply[][]) {
        const stream = part[0] as string;
        for (const entry of part[1] as [string, string[]][]) {
          fields.clear();
          for (let i = 0; i < entry[1].length; i += 2) fields.set(entry[1][i]!, entry[1][i + 1]!);
          this.#last.set(stream, entry[0]);
          this.#onEntry(stream, entry[0], fields);
        }
      }
    }
  }
}

/** `$` would miss what comes between two reads, so the id itself is asked for. */
async function lastId(wire: RedisWire, stream: string): Promise<string> {
  const reply = (await wire.call(['XREVRANGE', stream, '+', '-', 'COUNT', '1'])) as [string, string[]][];
  return reply[0]?.[0] ?? '0-0';
}
