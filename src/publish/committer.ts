/**
 * Settles batches in Redis: predictions and dead letters, on a connection of its own, many batches at a time.
 *
 * A batch's commands are written into the batch itself and stay there until every one is answered. After a
 * reconnect all unanswered ones are sent again: whatever had been carried out is acknowledged already, so the
 * script skips it. An error of the server (OOM, READONLY, a key of the wrong type) is retried for as long as
 * it lasts; the batch keeps its rows meanwhile, no rows are free, and reading stops. That is the
 * backpressure.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { notice } from '../observe/channels.ts';

import { readLineReply } from '../redis/resp.ts';
import { RedisSocket, type Where } from '../redis/socket.ts';
import { type Batch, ID_BYTES_MAX, ORIGIN_DIRECT } from '../schedule/batch.ts';
import { RESULT, ROW, ROW_COLUMNS } from '../schedule/slab.ts';

export interface CommitStream {
  readonly name: string;
  readonly group: string;
  readonly predictions: string;
  readonly deadletters: string;
  readonly predictionsMax: number;
}

export interface CommitterOptions {
  readonly endpoint: Where;
  /** The name under which this engine reads. */
  readonly consumer: string;
  readonly streams: readonly CommitStream[];
  /** Every command of the batch is answered. */
  readonly onSettled: (batch: Batch) => void;
}

/** One settlement under way. */
interface Command {
  readonly batch: Batch;
  /** Bytes of the batch's command buffer. */
  readonly start: number;
  readonly end: number;
  readonly rows: number;
  /** Predictions, or dead letters. */
  readonly predicted: boolean;
}

const load = (file: string) => readFileSync(new URL(`../redis/lua/${file}`, import.meta.url), 'utf8');
const sha1 = (text: string) => createHash('sha1').update(text).digest('hex');
/**
 * A refused settlement is tried again after this long: errors of the server pass in seconds, not in
 * microseconds.
 */
const RETRY_MS = 50;
const DETAIL_BYTES_MAX = 500;
const detailBytes = new Uint8Array(DETAIL_BYTES_MAX);
const utf8 = new TextEncoder();

export class Committer {
  readonly #options: CommitterOptions;
  readonly #socket: RedisSocket;
  readonly #commitSha: string;
  readonly #deadletterSha: string;
  /** Sent or to be sent, oldest first; answers come in this order. */
  #unanswered: Command[] = [];
  #retryTimer: NodeJS.Timeout | null = null;
  /** What the server says against the settlements that it refuses now; '' while it refuses none. */
  refusal = '';
  /** Commands refused by the server, sent again together. */
  #refused: Command[] = [];

  constructor(options: CommitterOptions) {
    this.#options = options;
    const commit = load('commit.lua');
    const deadletter = load('deadletter.lua');
    this.#commitSha = sha1(commit);
    this.#deadletterSha = sha1(deadletter);
    this.#socket = new RedisSocket({
      endpoint: options.endpoint,
      name: 'subito:committer',
      bufferBytes: 65_536,
      answerDue: () => this.#unanswered.length > 0,
      greeting: [
        ['SCRIPT', 'LOAD', commit],
        ['SCRIPT', 'LOAD', deadletter],
      ],
      onOpen: () => this.#resend(),
      onBytes: (buffer, start, end) => this.#onBytes(buffer, start, end),
      onClose: (reason) => notice('warn', 'COMMITTER_DISCONNECTED', reason),
    });
  }

  start(): void {
    this.#socket.open();
  }

  get connected(): boolean {
    return this.#socket.isOpen;
  }

  close(): void {
    if (this.#retryTimer !== null) clearTimeout(this.#retryTimer);
    this.#socket.close();
  }

  /** Commands that Redis has not confirmed yet. */
  get unsettledCommands(): number {
    return this.#unanswered.length + this.#refused.length;
  }

  /**
   * Settles a batch that came back from a worker, or one of rejected events. `record` is the stream whose
   * predictions also take the batch's direct rows, or null. Calls `onSettled` when done; before it returns
   * when there was nothing to tell Redis.
   */
  settle(batch: Batch, model: string, record: number | null): void {
    batch.commands.reset();
    batch.unsettled = 0;
    const before = this.#unanswered.length;
    for (let stream = 0; stream < this.#options.streams.length; stream += 1) {
      this.#writePredictions(batch, model, stream, record === stream);
      this.#writeDeadletters(batch, stream);
    }
    if (batch.unsettled === 0) this.#options.onSettled(batch);
    else if (this.#socket.isOpen) {
      for (let i = before; i < this.#unanswered.length; i += 1) this.#send(this.#unanswered[i] as Command);
    }
  }

  #writePredictions(batch: Batch, model: string, stream: number, record: boolean): void {
    const { rows, table, origin, commands } = batch;
    if (batch.layout === null) return;
    const predicted = (row: number) =>
      (origin[row] === stream || (record && origin[row] === ORIGIN_DIRECT)) &&
      table[row * ROW_COLUMNS + ROW.result] === RESULT.ok;
    let count = 0;
    for (let row = 0; row < rows; row += 1) if (predicted(row)) count += 1;
    if (count === 0) return;
    const { name, group, predictions, predictionsMax } = this.#options.streams[stream] as CommitStream;
    const start = commands.length;
    commands.array(10 + 5 * count);
    commands.ascii('EVALSHA');
    commands.ascii(this.#commitSha);
    commands.ascii('2');
    commands.utf8(name);
    commands.utf8(predictions);
    commands.utf8(group);
    commands.utf8(model);
    commands.int(batch.inferUs);
    commands.int(predictionsMax);
    commands.utf8(batch.firstHand ? this.#options.consumer : '');
    for (let row = 0; row < rows; row += 1) {
      if (!predicted(row)) continue;
      const at = row * ROW_COLUMNS;
      const id = row * ID_BYTES_MAX;
      const key = row * batch.keyBytesMax;
      const event = row * batch.eventIdBytesMax;
      const out = table[at + ROW.outOffset] as number;
      commands.slice(batch.ids, id, id + (batch.idBytes[row] as number));
      commands.slice(batch.keys, key, key + (batch.keyBytes[row] as number));
      commands.slice(batch.events, event, event + (batch.eventBytes[row] as number));
      commands.int(waitUs(batch, row));
      commands.slice(batch.outputs, out, out + (table[at + ROW.outLength] as number));
    }
    this.#queue(batch, start, count, true);
  }

  #writeDeadletters(batch: Batch, stream: number): void {
    const { rows, table, origin, commands } = batch;
    const dead = (row: number) =>
      origin[row] === stream &&
      (batch.layout === null || table[row * ROW_COLUMNS + ROW.result] !== RESULT.ok);
    let count = 0;
    for (let row = 0; row < rows; row += 1) if (dead(row)) count += 1;
    if (count === 0) return;
    const { name, group, deadletters } = this.#options.streams[stream] as CommitStream;
    const start = commands.length;
    commands.array(6 + 3 * count);
    commands.ascii('EVALSHA');
    commands.ascii(this.#deadletterSha);
    commands.ascii('2');
    commands.utf8(name);
    commands.utf8(deadletters);
    commands.utf8(group);
    for (let row = 0; row < rows; row += 1) {
      if (!dead(row)) continue;
      const failed = batch.layout !== null && table[row * ROW_COLUMNS + ROW.result] === RESULT.failed;
      commands.ascii(batch.id(row));
      commands.ascii(failed ? 'failed' : 'invalid');
      commands.utf8(shortDetail(rowDetail(batch, row)));
    }
    this.#queue(batch, start, count, false);
  }

  #queue(batch: Batch, start: number, rows: number, predicted: boolean): void {
    batch.unsettled += 1;
    this.#unanswered.push({ batch, start, end: batch.commands.length, rows, predicted });
  }

  #send(command: Command): void {
    this.#socket.write(command.batch.commands.subarray(command.start, command.end));
  }

  #resend(): void {
    this.#unanswered.push(...this.#refused);
    this.#refused = [];
    for (const command of this.#unanswered) this.#send(command);
  }

  #onBytes(buffer: Buffer, start: number, end: number): number {
    let at = start;
    while (at < end) {
      const reply = readLineReply(buffer, at, end);
      if (reply === null) break;
      at = reply.next;
      const command = this.#unanswered.shift();
      assert(command !== undefined, 'Redis answered a settlement that was not asked for');
      if (reply.kind === 'error') this.#retry(command, reply.text);
      else this.#done(command, Number(reply.text));
      // The connection was given up: the other answers belong to commands that will be sent again.
      if (!this.#socket.isOpen) return end;
    }
    return at;
  }

  #done(command: Command, settled: number): void {
    const { batch } = command;
    if (command.predicted) batch.duplicatesOk += command.rows - settled;
    else batch.duplicatesDead += command.rows - settled;
    this.refusal = '';
    batch.unsettled -= 1;
    if (batch.unsettled === 0) this.#options.onSettled(batch);
  }

  #retry(command: Command, message: string): void {
    notice('warn', 'COMMIT_REFUSED', message);
    this.refusal = message;
    // The server lost its scripts (restart, SCRIPT FLUSH): a new connection loads them again. Or it is a
    // replica now: a new connection asks again where the name leads.
    if (message.startsWith('NOSCRIPT') || message.startsWith('READONLY')) {
      this.#unanswered.unshift(command);
      this.#socket.fail(message);
      return;
    }
    this.#refused.push(command);
    this.#retryTimer ??= setTimeout(() => {
      this.#retryTimer = null;
      const again = this.#refused;
      this.#refused = [];
      this.#unanswered.push(...again);
      if (this.#socket.isOpen) for (const one of again) this.#send(one);
    }, RETRY_MS);
  }
}

/**
 * Entry id, or arrival, to the moment a worker took the row. Clocks of two machines may disagree: never
 * negative.
 */
function waitUs(batch: Batch, row: number): number {
  const us = Math.round((batch.dispatchedMs - (batch.arrivedMs[row] as number)) * 1000);
  return Math.max(0, Math.min(us, 0x7fff_ffff));
}

/** Why a row has no prediction. */
function rowDetail(batch: Batch, row: number): string {
  if (batch.layout === null) return batch.details[row] as string;
  const at = row * ROW_COLUMNS;
  const offset = batch.table[at + ROW.outOffset] as number;
  return batch.outputs.toString('utf8', offset, offset + (batch.table[at + ROW.outLength] as number));
}

/** What of a detail fits, never cut within a character. */
function shortDetail(detail: string): string {
  return detail.slice(0, utf8.encodeInto(detail, detailBytes).read);
}
