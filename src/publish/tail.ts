/**
 * Follows a predictions stream while anyone is subscribed: what it hands on is committed, whichever engine
 * committed it. It starts behind the last entry at that moment and then misses none, over reconnects too.
 *
 * States: off -> placing (asks for the last entry id) -> following (one XREAD out at a time) -> off.
 */
import { channels } from '../observe/channels.ts';
import type { RedisEndpoint } from '../redis/endpoint.ts';
import { encodeCommand } from '../redis/resp.ts';
import { RedisSocket } from '../redis/socket.ts';
import { type EntryColumns, StreamReplyParser } from '../redis/stream-reply.ts';
import type { Prediction } from './prediction.ts';

export interface TailOptions {
  readonly endpoint: RedisEndpoint;
  readonly stream: string;
  readonly entryBytesMax: number;
  readonly countMax: number;
  readonly blockMs: number;
  /** Asks for the id of the stream's last entry; '0' when it is empty. */
  readonly lastId: () => Promise<string>;
  /** Cheap check before anything is read from the entry. */
  readonly interested: (key: string, model: string) => boolean;
  readonly onPrediction: (prediction: Prediction) => void;
}

const FIELDS = ['source', 'event', 'key', 'model', 'status', 'outputs', 'wait_us', 'infer_us'] as const;
const [SOURCE, EVENT, KEY, MODEL, STATUS, OUTPUTS, WAIT, INFER] = [0, 1, 2, 3, 4, 5, 6, 7] as const;
const RETRY_MS = 100;
/** Beyond the time that Redis was asked to wait. */
const ANSWER_MS_MAX = 5_000;
const RECEIVE_BYTES = 262_144;

export class PredictionTail {
  readonly #options: TailOptions;
  readonly #socket: RedisSocket;
  readonly #parser: StreamReplyParser;
  #wanted = false;
  #reading = false;
  /** Null: not placed yet. */
  #lastId: string | null = null;

  constructor(options: TailOptions) {
    this.#options = options;
    this.#parser = new StreamReplyParser({
      fields: FIELDS,
      entryBytesMax: options.entryBytesMax,
      onEntry: (buffer, entry) => this.#onEntry(buffer, entry),
      onOversize: (id) => {
        this.#lastId = id;
        return true;
      },
      onReplyEnd: () => {
        this.#reading = false;
        this.#read();
      },
      onError: (message) => this.#onError(message),
    });
    this.#socket = new RedisSocket({
      endpoint: options.endpoint,
      name: `subito:tail:${options.stream}`,
      bufferBytes: Math.max(RECEIVE_BYTES, options.entryBytesMax * 2),
      onOpen: () => {
        this.#parser.reset();
        this.#reading = false;
        this.#read();
      },
      onBytes: (buffer, start, end) => this.#parser.parse(buffer, start, end),
      answerDue: () => this.#reading,
      answerMsMax: options.blockMs + ANSWER_MS_MAX,
      onClose: (reason) => {
        this.#reading = false;
        channels.notice.publish({
          level: 'warn',
          code: 'TAIL_DISCONNECTED',
          message: `${options.stream}: ${reason}`,
        });
      },
    });
  }

  start(): void {
    this.#socket.open();
  }

  close(): void {
    this.#wanted = false;
    this.#socket.close();
  }

  /** Turns following on or off. Entries appended after this call are seen, ones before it are not. */
  want(wanted: boolean): void {
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    this.#lastId = null;
    if (wanted) this.#place();
  }

  #place(): void {
    this.#options.lastId().then(
      (id) => {
        if (!this.#wanted || this.#lastId !== null) return;
        this.#lastId = id;
        this.#read();
      },
      () => this.#wanted && setTimeout(() => this.#place(), RETRY_MS),
    );
  }

  #read(): void {
    if (!this.#wanted || this.#reading || this.#lastId === null || !this.#socket.isOpen) return;
    this.#reading = true;
    const { countMax, blockMs, stream } = this.#options;
    this.#socket.write(
      encodeCommand(['XREAD', 'COUNT', countMax, 'BLOCK', blockMs, 'STREAMS', stream, this.#lastId]),
    );
  }

  #onEntry(buffer: Buffer, entry: EntryColumns): boolean {
    const sid = buffer.toString('latin1', entry.idStart, entry.idEnd);
    // Turned off meanwhile, or off and on again: this reply belongs to the past.
    if (this.#lastId === null) return true;
    this.#lastId = sid;
    const text = (field: number) => {
      const start = entry.fields[2 * field] as number;
      return start < 0 ? '' : buffer.toString('utf8', start, entry.fields[2 * field + 1] as number);
    };
    const key = text(KEY);
    const model = text(MODEL);
    if (!this.#options.interested(key, model)) return true;
    const start = entry.fields[2 * OUTPUTS] as number;
    this.#options.onPrediction({
      sid,
      key,
      model,
      status: text(STATUS),
      event: text(EVENT),
      source: text(SOURCE),
      outputs:
        start < 0 ? buffer.subarray(0, 0) : buffer.subarray(start, entry.fields[2 * OUTPUTS + 1] as number),
      waitUs: Number(text(WAIT)) || 0,
      inferUs: Number(text(INFER)) || 0,
    });
    return true;
  }

  #onError(message: string): void {
    this.#reading = false;
    const { stream } = this.#options;
    channels.notice.publish({ level: 'warn', code: 'TAIL_REFUSED', message: `${stream}: ${message}` });
    setTimeout(() => this.#read(), RETRY_MS);
  }
}
