/**
 * Follows a predictions stream while anyone is subscribed: what it hands on is committed, whichever engine
 * committed it. It starts behind the last entry at that moment and then misses none, over reconnects too.
 *
 * States: off -> placing (asks for the last entry id) -> following -> off.
 */
import { notice } from '../observe/channels.ts';

import type { Where } from '../redis/socket.ts';
import { StreamTail, type TailEntry } from '../redis/stream-tail.ts';
import type { Prediction } from './prediction.ts';

export interface TailOptions {
  readonly endpoint: Where;
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

const FIELDS = [
  'source',
  'event',
  'key',
  'model',
  'status',
  'outputs',
  'wait_us',
  'infer_us',
  'rung',
] as const;
const [SOURCE, EVENT, KEY, MODEL, STATUS, OUTPUTS, WAIT, INFER, RUNG] = [0, 1, 2, 3, 4, 5, 6, 7, 8] as const;
const RETRY_MS = 100;
const NO_OUTPUTS = new Uint8Array(0);

export class PredictionTail {
  readonly #options: TailOptions;
  readonly #tail: StreamTail;
  #wanted = false;

  constructor(options: TailOptions) {
    this.#options = options;
    const { endpoint, stream, entryBytesMax, countMax, blockMs } = options;
    this.#tail = new StreamTail({
      endpoint,
      name: `subito:tail:${stream}`,
      stream,
      fields: FIELDS,
      entryBytesMax,
      countMax,
      blockMs,
      onEntry: (entry) => this.#onEntry(entry),
      onRefused: (message) => notice('warn', 'TAIL_REFUSED', `${stream}: ${message}`),
      onClose: (reason) => notice('warn', 'TAIL_DISCONNECTED', `${stream}: ${reason}`),
    });
  }

  start(): void {
    this.#tail.open();
  }

  close(): void {
    this.#wanted = false;
    this.#tail.close();
  }

  /** Turns following on or off. Entries appended after this call are seen, ones before it are not. */
  want(wanted: boolean): void {
    if (wanted === this.#wanted) return;
    this.#wanted = wanted;
    this.#tail.rest();
    if (wanted) this.#place();
  }

  #place(): void {
    this.#options.lastId().then(
      (id) => {
        // Turned off meanwhile, or off and on again, and the later call was faster.
        if (this.#wanted && !this.#tail.isFollowing) this.#tail.follow(id);
      },
      () => this.#wanted && setTimeout(() => this.#place(), RETRY_MS),
    );
  }

  #onEntry(entry: TailEntry): void {
    const key = entry.text(KEY) ?? '';
    const model = entry.text(MODEL) ?? '';
    if (!this.#options.interested(key, model)) return;
    this.#options.onPrediction({
      sid: entry.id,
      key,
      model,
      status: entry.text(STATUS) ?? '',
      rung: entry.text(RUNG) ?? '',
      event: entry.text(EVENT) ?? '',
      source: entry.text(SOURCE) ?? '',
      outputs: entry.bytes(OUTPUTS) ?? NO_OUTPUTS,
      waitUs: Number(entry.text(WAIT)) || 0,
      inferUs: Number(entry.text(INFER)) || 0,
    });
  }
}
