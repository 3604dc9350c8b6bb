/**
 * Follows one stream with XREAD on a connection of its own, outside any consumer group: every entry behind a
 * given id, once and in order, over reconnects too.
 *
 * States: resting (reads nothing) -> following (one XREAD out at a time, also while disconnected: it goes on
 * where it was) -> resting.
 */

import { faultOf } from './faults.ts';
import { encodeCommand } from './resp.ts';
import { ANSWER_MS_MAX, RECEIVE_BYTES, RedisSocket, type Where } from './socket.ts';
import { type EntryColumns, StreamReplyParser } from './stream-reply.ts';

/** The entry at hand: valid during `onEntry` only, as are its bytes. */
export interface TailEntry {
  readonly id: string;
  /** The value of field i of `StreamTailOptions.fields`; undefined when the entry lacks it. */
  text(field: number): string | undefined;
  bytes(field: number): Buffer | undefined;
}

export interface StreamTailOptions {
  readonly endpoint: Where;
  /** Shown by CLIENT LIST. */
  readonly name: string;
  readonly stream: string;
  /** Fields that `onEntry` may ask for. */
  readonly fields: readonly string[];
  /** A larger entry is passed over. */
  readonly entryBytesMax?: number;
  /** Entries of one reply. */
  readonly countMax?: number;
  /** How long one XREAD waits. */
  readonly blockMs?: number;
  readonly onEntry: (entry: TailEntry) => void;
  /** The server answered with an error (LOADING, a key of another type); it is asked again soon. */
  readonly onRefused?: (message: string) => void;
  readonly onClose?: (reason: string) => void;
}

const ENTRY_BYTES_MAX = 262_144;
const COUNT_MAX = 2000;
const BLOCK_MS = 5_000;
const RETRY_MS = 100;

export class StreamTail {
  readonly #options: StreamTailOptions;
  readonly #socket: RedisSocket;
  readonly #parser: StreamReplyParser;
  readonly #entry = new CurrentEntry();
  #reading = false;
  /** Why this connection is of no use any more; '' while it is. */
  #moved = '';
  /** Null: resting. */
  #lastId: string | null = null;

  constructor(options: StreamTailOptions) {
    this.#options = options;
    const { entryBytesMax = ENTRY_BYTES_MAX, blockMs = BLOCK_MS } = options;
    this.#parser = new StreamReplyParser({
      fields: options.fields,
      entryBytesMax,
      onEntry: (buffer, entry) => this.#onEntry(buffer, entry),
      onOversize: (id) => {
        if (this.#lastId !== null) this.#lastId = id;
        return true;
      },
      onReplyEnd: () => {
        this.#reading = false;
        this.#read();
      },
      onError: (message) => {
        this.#reading = false;
        options.onRefused?.(message);
        // The stream is served elsewhere now: a new connection asks where.
        if (faultOf(message).action === 'reconnect') this.#moved = message;
        setTimeout(() => this.#again(), RETRY_MS);
      },
    });
    this.#socket = new RedisSocket({
      endpoint: options.endpoint,
      name: options.name,
      bufferBytes: Math.max(RECEIVE_BYTES, entryBytesMax * 2),
      onOpen: () => {
        this.#parser.reset();
        this.#reading = false;
        this.#moved = '';
        this.#read();
      },
      onBytes: (buffer, start, end) => this.#parser.parse(buffer, start, end),
      answerDue: () => this.#reading,
      answerMsMax: blockMs + ANSWER_MS_MAX,
      onClose: (reason) => {
        this.#reading = false;
        options.onClose?.(reason);
      },
    });
  }

  get isFollowing(): boolean {
    return this.#lastId !== null;
  }

  open(): void {
    this.#socket.open();
  }

  close(): void {
    this.#lastId = null;
    this.#socket.close();
  }

  /** Hands over every entry behind `lastId` from now on. */
  follow(lastId: string): void {
    this.#lastId = lastId;
    this.#read();
  }

  /** Hands over no more entries. */
  rest(): void {
    this.#lastId = null;
  }

  #again(): void {
    const moved = this.#moved;
    this.#moved = '';
    if (moved !== '' && this.#socket.isOpen) this.#socket.fail(moved);
    else this.#read();
  }

  #read(): void {
    if (this.#reading || this.#lastId === null || !this.#socket.isOpen) return;
    this.#reading = true;
    const { stream, countMax = COUNT_MAX, blockMs = BLOCK_MS } = this.#options;
    this.#socket.write(
      encodeCommand(['XREAD', 'COUNT', countMax, 'BLOCK', blockMs, 'STREAMS', stream, this.#lastId]),
    );
  }

  #onEntry(buffer: Buffer, columns: EntryColumns): boolean {
    // Resting meanwhile, perhaps following again from elsewhere: this reply belongs to the past.
    if (this.#lastId === null) return true;
    this.#lastId = this.#entry.set(buffer, columns);
    this.#options.onEntry(this.#entry);
    return true;
  }
}

/** One object for all entries of a tail. */
class CurrentEntry implements TailEntry {
  id = '';
  #buffer: Buffer = Buffer.alloc(0);
  #fields: Int32Array = new Int32Array(0);

  set(buffer: Buffer, { idStart, idEnd, fields }: EntryColumns): string {
    this.#buffer = buffer;
    this.#fields = fields;
    this.id = buffer.toString('latin1', idStart, idEnd);
    return this.id;
  }

  text(field: number): string | undefined {
    const start = this.#fields[2 * field] as number;
    return start < 0 ? undefined : this.#buffer.toString('utf8', start, this.#fields[2 * field + 1]);
  }

  bytes(field: number): Buffer | undefined {
    const start = this.#fields[2 * field] as number;
    return start < 0 ? undefined : this.#buffer.subarray(start, this.#fields[2 * field + 1]);
  }
}
