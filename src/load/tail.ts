/**
 * Follows a stream from where it ends now, with XREAD on a connection of its own; misses nothing over
 * reconnects.
 */
import { parseEndpoint } from '../redis/endpoint.ts';
import { encodeCommand } from '../redis/resp.ts';
import { RedisSocket } from '../redis/socket.ts';
import { type EntryColumns, StreamReplyParser } from '../redis/stream-reply.ts';
import type { RedisWire } from './wire.ts';

const COUNT = 2000;
const BLOCK_MS = 5000;
/** A server that is silent for longer than this after BLOCK is taken for gone. */
const ANSWER_MS_MAX = 5000;
const ENTRY_BYTES_MAX = 262_144;
/** After an error reply (LOADING, a wrong type) the question is asked again. */
const RETRY_MS = 100;

export interface TailOptions {
  readonly url: string;
  readonly stream: string;
  /** Fields that `onEntry` may ask for. */
  readonly fields: readonly string[];
  /** `text(i)` is the value of field i, undefined when the entry lacks it; valid during the call. */
  readonly onEntry: (id: string, text: (field: number) => string | undefined) => void;
}

export class StreamTail {
  readonly #options: TailOptions;
  readonly #socket: RedisSocket;
  readonly #parser: StreamReplyParser;
  #lastId = '0-0';
  #buffer: Buffer = Buffer.alloc(0);
  #entry: EntryColumns | null = null;

  constructor(options: TailOptions) {
    this.#options = options;
    this.#parser = new StreamReplyParser({
      fields: options.fields,
      entryBytesMax: ENTRY_BYTES_MAX,
      onEntry: (buffer, entry) => this.#onEntry(buffer, entry),
      onOversize: (id) => {
        this.#lastId = id;
        return true;
      },
      onReplyEnd: () => this.#read(),
      onError: () => setTimeout(() => this.#read(), RETRY_MS),
    });
    this.#socket = new RedisSocket({
      endpoint: parseEndpoint(options.url),
      name: `subito:load:${options.stream}`,
      bufferBytes: ENTRY_BYTES_MAX * 2,
      onOpen: () => {
        this.#parser.reset();
        this.#read();
      },
      onBytes: (buffer, start, end) => this.#parser.parse(buffer, start, end),
      // One question is always out.
      answerDue: () => true,
      answerMsMax: BLOCK_MS + ANSWER_MS_MAX,
      onClose: () => {},
    });
  }

  /** Resolves when everything added from now on will be seen. */
  async open(wire: RedisWire): Promise<void> {
    // `$` would miss what comes between two reads, so the id itself is asked for.
    const last = await wire.call(['XREVRANGE', this.#options.stream, '+', '-', 'COUNT', '1']);
    this.#lastId = (last as [string, string[]][])[0]?.[0] ?? '0-0';
    this.#socket.open();
  }

  close(): void {
    this.#socket.close();
  }

  #read(): void {
    if (!this.#socket.isOpen) return;
    const { stream } = this.#options;
    this.#socket.write(
      encodeCommand(['XREAD', 'COUNT', COUNT, 'BLOCK', BLOCK_MS, 'STREAMS', stream, this.#lastId]),
    );
  }

  #onEntry(buffer: Buffer, entry: EntryColumns): boolean {
    this.#buffer = buffer;
    this.#entry = entry;
    this.#lastId = buffer.toString('latin1', entry.idStart, entry.idEnd);
    this.#options.onEntry(this.#lastId, this.#text);
    return true;
  }

  /** One closure for all entries. */
  readonly #text = (field: number): string | undefined => {
    const start = this.#entry!.fields[2 * field]!;
    return start < 0 ? undefined : this.#buffer.toString('utf8', start, this.#entry!.fields[2 * field + 1]!);
  };
}
