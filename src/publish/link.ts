/**
 * One connection on which settlements go to Redis, many at a time.
 *
 * A settlement's bytes stay in its batch until it is answered. After a reconnect all unanswered ones are sent
 * again, and never as ones that may acknowledge a batch at once: whatever had been carried out is
 * acknowledged already, so the script skips it. An error of the server is retried for as long as it lasts;
 * the batch keeps its rows meanwhile, no rows are free, and reading stops. That is the backpressure.
 */
import assert from 'node:assert/strict';
import { notice } from '../observe/channels.ts';
import { faultOf } from '../redis/faults.ts';
import { readLineReply } from '../redis/resp.ts';
import { ANSWER_MS_MAX, type Connect, type Connection, connectSocket, type Where } from '../redis/socket.ts';
import type { Batch } from '../schedule/batch.ts';

/** One settlement under way. */
export interface Settlement {
  readonly batch: Batch;
  /** Index of the input stream. */
  readonly stream: number;
  /** Bytes of the batch's command buffer. */
  readonly start: number;
  readonly end: number;
  /** Where in it the epoch's digits stand; equal when there is none. */
  readonly epochStart: number;
  readonly epochEnd: number;
  readonly rows: number;
  readonly kind: 'predictions' | 'outcomes' | 'deadletters';
}

export interface LinkOptions {
  readonly endpoint: Where;
  /** Sent on every connect, before any settlement. */
  readonly greeting: readonly (readonly string[])[];
  readonly onSettled: (settlement: Settlement, rows: number) => void;
  /** The connection was lost, or there is a new one: the server may be another from now on. */
  readonly onReconnect: () => void;
  readonly connect?: Connect | undefined;
  readonly now?: (() => number) | undefined;
}

/** Errors of the server pass in seconds, not in microseconds. */
const RETRY_MS = 50;
const ZERO = 0x30;

export class CommitLink {
  readonly #options: LinkOptions;
  readonly #socket: Connection;
  /** Sent or to be sent, oldest first; answers come in this order. */
  readonly #unanswered: Settlement[] = [];
  /** Refused by the server, sent again together. */
  readonly #refused: Settlement[] = [];
  #timer: NodeJS.Timeout | null = null;
  readonly #now: () => number;
  /** Since then the oldest unanswered settlement has been waited for, at the most. */
  #answerSinceMs = 0;
  /** What the server says against the settlements that it refuses now; '' while it refuses none. */
  refusal = '';
  /** Why there was no connection the last time. */
  closedFor = '';

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    const connect = options.connect ?? connectSocket;
    this.#socket = connect({
      endpoint: options.endpoint,
      name: 'subito:committer',
      bufferBytes: 65_536,
      answerDue: () => this.#unanswered.length > 0,
      greeting: options.greeting,
      onOpen: () => {
        options.onReconnect();
        this.#resend();
      },
      onBytes: (buffer, start, end) => this.#onBytes(buffer, start, end),
      onClose: (reason) => {
        this.closedFor = reason;
        options.onReconnect();
        notice('warn', 'COMMITTER_DISCONNECTED', reason);
      },
    });
  }

  get connected(): boolean {
    return this.#socket.isOpen;
  }

  /** Settlements that Redis has not confirmed yet. */
  get unsettled(): number {
    return this.#unanswered.length + this.#refused.length;
  }

  open(): void {
    this.#socket.open();
  }

  /**
   * For a watchdog, about once a second: the socket counts from the last byte either way, and settlements may
   * go out all the while to a server that answers none.
   */
  check(): void {
    if (!this.#socket.isOpen || this.#unanswered.length === 0) return;
    if (this.#now() - this.#answerSinceMs < ANSWER_MS_MAX) return;
    notice('error', 'COMMITTER_STALLED', `no settlement was confirmed in ${ANSWER_MS_MAX} ms`);
    this.#socket.fail('no answer');
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#socket.close();
  }

  send(settlement: Settlement): void {
    if (this.#unanswered.length === 0) this.#answerSinceMs = this.#now();
    this.#unanswered.push(settlement);
    if (this.#socket.isOpen) this.#write(settlement);
  }

  #write({ batch, start, end }: Settlement): void {
    this.#socket.write(batch.commands.subarray(start, end));
  }

  #resend(): void {
    const again = this.#unanswered.splice(0);
    for (const settlement of again) this.#sendAgain(settlement);
    this.#retry();
  }

  #retry(): void {
    if (!this.#socket.isOpen) return;
    for (const settlement of this.#refused.splice(0)) this.#sendAgain(settlement);
  }

  #sendAgain(settlement: Settlement): void {
    const { batch, epochStart, epochEnd } = settlement;
    batch.commands.subarray(epochStart, epochEnd).fill(ZERO);
    this.send(settlement);
  }

  #onBytes(buffer: Buffer, start: number, end: number): number {
    let at = start;
    while (at < end) {
      const reply = readLineReply(buffer, at, end);
      if (reply === null) break;
      at = reply.next;
      this.#answerSinceMs = this.#now();
      const settlement = this.#unanswered.shift();
      assert(settlement !== undefined, 'Redis answered a settlement that was not asked for');
      if (reply.kind === 'error') this.#refuse(settlement, reply.text);
      else {
        this.refusal = '';
        this.#options.onSettled(settlement, Number(reply.text));
      }
      // The connection was given up: the other answers belong to settlements that will be sent again.
      if (!this.#socket.isOpen) return end;
    }
    return at;
  }

  #refuse(settlement: Settlement, message: string): void {
    const { action, why } = faultOf(message);
    notice('warn', 'COMMIT_REFUSED', `${message} (${why})`);
    this.refusal = message;
    this.#refused.push(settlement);
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      // A new connection asks again where to go, and loads the scripts.
      if (action === 'reconnect' || action === 'reload') this.#socket.fail(message);
      else this.#retry();
    }, RETRY_MS);
  }
}
