/**
 * Reads one input stream for its consumer group: XREADGROUP on a connection of its own, the reply parsed in
 * place.
 *
 * It asks for no more entries than there are free rows (`demand`), so the backlog stays in Redis. A row may
 * still be missing when an entry arrives, because batches leave before they are full; then the reader stops
 * receiving in front of that entry until `kick`.
 *
 * States: idle (no demand) -> reading (one XREADGROUP out) -> idle ...; `held` within reading while an entry
 * waits for a row. After every connect it first reads what this consumer had been given before
 * (`recovering`): entries whose reply was lost with the old connection or the old process. What is in hand
 * already is then seen twice, and settled once, because the commit acknowledges first.
 */

import { messageOf } from '../errors.ts';
import { channels, notice } from '../observe/channels.ts';

import { encodeCommand } from '../redis/resp.ts';
import { ANSWER_MS_MAX, RECEIVE_BYTES, RedisSocket, type Where } from '../redis/socket.ts';
import { type EntryColumns, StreamReplyParser } from '../redis/stream-reply.ts';

export interface ReaderOptions {
  readonly endpoint: Where;
  readonly stream: string;
  readonly group: string;
  readonly consumer: string;
  readonly fields: readonly string[];
  readonly entryBytesMax: number;
  readonly countMax: number;
  readonly blockMs: number;
  /** Entries that can be taken now. */
  readonly demand: () => number;
  /** Bytes came in; the entries in them are taken next. */
  readonly received: () => void;
  /**
   * Takes an entry, or returns false when there is no row for it. `again`: it had been given out before, and
   * may be settled by now.
   */
  readonly take: (buffer: Buffer, entry: EntryColumns, again: boolean) => boolean;
  /** Settles an entry that is too large to be read. */
  readonly reject: (id: string, detail: string) => boolean;
  /** Entries came in: give them to the workers. */
  readonly flush: () => void;
  /** The group is gone (FLUSHALL, DEL): make it again, then the reader goes on. */
  readonly createGroup: () => Promise<void>;
  /** Ends a waiting XREADGROUP at once: CLIENT UNBLOCK from another connection. */
  readonly unblock: (clientId: string) => void;
}

/** Errors of the server pass; asking again at once would only add to its trouble. */
const RETRY_MS = 100;

export class StreamReader {
  readonly #options: ReaderOptions;
  readonly #socket: RedisSocket;
  readonly #parser: StreamReplyParser;
  #reading = false;
  #stopping = false;
  /** Id after which to read: '>' for new entries, else this consumer's own pending ones from there. */
  #cursor = '0';
  #lastId = '0';
  #bytesInReply = 0;
  #stopped: (() => void) | null = null;
  /** What the server says against being read now; '' while it refuses nothing. */
  refusal = '';

  constructor(options: ReaderOptions) {
    this.#options = options;
    this.#parser = new StreamReplyParser({
      fields: options.fields,
      entryBytesMax: options.entryBytesMax,
      onEntry: (buffer, entry) => this.#onEntry(buffer, entry),
      onOversize: (id) => this.#onOversize(id),
      onReplyEnd: (entries) => this.#onReplyEnd(entries),
      onError: (message) => this.#onError(message),
    });
    this.#socket = new RedisSocket({
      endpoint: options.endpoint,
      name: `subito:reader:${options.stream}`,
      bufferBytes: Math.max(RECEIVE_BYTES, options.entryBytesMax * 2),
      onOpen: () => this.#onOpen(),
      onBytes: (buffer, start, end) => this.#onBytes(buffer, start, end),
      answerDue: () => this.#reading,
      answerMsMax: options.blockMs + ANSWER_MS_MAX,
      onClose: (reason) => this.#onClose(reason),
    });
  }

  start(): void {
    this.#socket.open();
  }

  get connected(): boolean {
    return this.#socket.isOpen;
  }

  /** Rows became free: read on. Cheap when there is nothing to do. */
  kick(): void {
    if (this.#parser.refused) this.#socket.release();
    else this.#read();
  }

  /**
   * Asks for nothing more. Resolves when no reply is outstanding: every entry that Redis gave out has been
   * taken.
   */
  stop(): Promise<void> {
    this.#stopping = true;
    if (!this.#reading || !this.#socket.isOpen) return Promise.resolve();
    this.#options.unblock(this.#socket.clientId);
    return new Promise((resolve) => {
      this.#stopped = resolve;
    });
  }

  close(): void {
    this.#socket.close();
  }

  #onOpen(): void {
    this.#parser.reset();
    this.#cursor = '0';
    this.#reading = false;
    this.#read();
  }

  #onClose(reason: string): void {
    this.#reading = false;
    this.#parser.reset();
    this.#options.flush();
    this.#endStop();
    notice('warn', 'READER_DISCONNECTED', `${this.#options.stream}: ${reason}`);
  }

  #read(): void {
    if (this.#reading || this.#stopping || !this.#socket.isOpen) return;
    const { stream, group, consumer, countMax, blockMs } = this.#options;
    const count = Math.min(this.#options.demand(), countMax);
    if (count <= 0) return;
    this.#reading = true;
    this.#bytesInReply = 0;
    const block = this.#cursor === '>' ? ['BLOCK', blockMs] : [];
    this.#socket.write(
      encodeCommand([
        'XREADGROUP',
        'GROUP',
        group,
        consumer,
        'COUNT',
        count,
        ...block,
        'STREAMS',
        stream,
        this.#cursor,
      ]),
    );
  }

  #onBytes(buffer: Buffer, start: number, end: number): number {
    this.#options.received();
    const next = this.#parser.parse(buffer, start, end);
    this.#bytesInReply += next - start;
    if (this.#parser.refused) this.#socket.hold();
    this.#options.flush();
    return next;
  }

  #onEntry(buffer: Buffer, entry: EntryColumns): boolean {
    if (!this.#options.take(buffer, entry, this.#cursor !== '>')) return false;
    if (this.#cursor !== '>') this.#lastId = buffer.toString('latin1', entry.idStart, entry.idEnd);
    return true;
  }

  #onOversize(id: string): boolean {
    const taken = this.#options.reject(id, `the entry is larger than ${this.#options.entryBytesMax} bytes`);
    if (taken) this.#lastId = id;
    return taken;
  }

  #onReplyEnd(entries: number): void {
    this.#reading = false;
    this.refusal = '';
    if (this.#cursor !== '>') this.#cursor = entries === 0 ? '>' : this.#lastId;
    if (entries > 0 && channels.read.hasSubscribers) {
      channels.read.publish({ stream: this.#options.stream, rows: entries, bytes: this.#bytesInReply });
    }
    if (this.#stopping) this.#endStop();
    // What has just been read goes to the workers first; only then is it known how many rows are free.
    else setImmediate(() => this.#read());
  }

  #onError(message: string): void {
    this.#reading = false;
    this.#endStop();
    if (this.#stopping) return;
    notice('warn', 'READER_REFUSED', `${this.#options.stream}: ${message}`);
    // Redis 7.0 ends a wait with UNBLOCKED when the stream is deleted; NOGROUP comes only to the next read.
    if (/^(NOGROUP|UNBLOCKED)/.test(message)) {
      this.#options.createGroup().then(
        () => this.#again(''),
        (error: unknown) => this.#again(messageOf(error)),
      );
    } else this.#again(message);
  }

  #again(refusal: string): void {
    this.refusal = refusal;
    setTimeout(() => {
      // It is a replica now: a new connection asks again where the name leads.
      if (refusal.startsWith('READONLY') && this.#socket.isOpen) this.#socket.fail(refusal);
      else this.#read();
    }, RETRY_MS);
  }

  #endStop(): void {
    this.#stopped?.();
    this.#stopped = null;
  }
}
