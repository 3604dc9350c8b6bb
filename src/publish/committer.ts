/**
 * Settles batches in Redis: predictions, outcomes without one, and dead letters, each partition's on the
 * connection that leads to it (link.ts). A batch's commands are written into the batch itself and stay there
 * until every one is answered.
 */
import type { Fence } from '../redis/fence.ts';
import { ledgerKey } from '../redis/keys.ts';
import { encodeBulk } from '../redis/resp.ts';
import { loadScript } from '../redis/scripts.ts';
import type { Connect, Where } from '../redis/socket.ts';
import { type Batch, ORIGIN_DIRECT, resultOf } from '../schedule/batch.ts';
import { RESULT, ROW, ROW_COLUMNS, RUNG } from '../schedule/slab.ts';
import { CommitLink, type Settlement } from './link.ts';
import { type OutcomeStream, writeOutcomes } from './outcomes.ts';
import { type WriteRows, writeRows } from './rows.ts';

export interface CommitStream {
  readonly name: string;
  readonly group: string;
  readonly predictions: string;
  readonly deadletters: string;
  readonly predictionsMax: number;
  /** Streams that name the very same place share a connection. */
  readonly endpoint: Where;
  readonly fence: Fence;
}

export interface CommitterOptions {
  /** The name under which this engine reads now. */
  readonly consumer: () => string;
  readonly streams: readonly CommitStream[];
  /** Every command of the batch is answered. */
  readonly onSettled: (batch: Batch) => void;
  readonly writeRows?: WriteRows;
  readonly connect?: Connect;
  /** Milliseconds of a clock that only goes forward. */
  readonly now?: () => number;
}

const DETAIL_BYTES_MAX = 500;
const detailBytes = new Uint8Array(DETAIL_BYTES_MAX);
const utf8 = new TextEncoder();

export class Committer {
  readonly #options: CommitterOptions;
  /** By stream; several may share one. */
  readonly #links: readonly CommitLink[];
  readonly #deadletterSha = loadScript('deadletter').sha;
  /** By stream and model, the part of a commit that is always the same. */
  readonly #heads: readonly Map<string, Buffer>[];
  /** Of the batch being settled: the streams that it has rows of. */
  readonly #present: Uint8Array;
  /** Rows of the predictions being written. */
  #picked = new Uint16Array(0);
  readonly #writeRows: WriteRows;
  readonly #settlements: Settlement[] = [];

  constructor(options: CommitterOptions) {
    this.#options = options;
    this.#writeRows = options.writeRows ?? writeRows;
    const { streams, connect, now } = options;
    this.#present = new Uint8Array(streams.length);
    this.#heads = streams.map(() => new Map());
    const links = new Map<Where, CommitLink>();
    for (const { endpoint } of streams) {
      if (links.has(endpoint)) continue;
      const served = streams.filter((stream) => stream.endpoint === endpoint);
      const link = new CommitLink({
        endpoint,
        connect,
        now,
        greeting: greeting(served),
        onSettled: (settlement, rows) => this.#onSettled(settlement, rows),
        onReconnect: () => {
          for (const { fence } of served) fence.reconnected();
        },
      });
      links.set(endpoint, link);
    }
    this.#links = streams.map(({ endpoint }) => links.get(endpoint) as CommitLink);
  }

  start(): void {
    for (const link of new Set(this.#links)) link.open();
  }

  get connected(): boolean {
    return this.#links.every(({ connected }) => connected);
  }

  /** Why a connection is missing; '' while none is. */
  get trouble(): string {
    const link = this.#links.find(({ connected }) => !connected);
    return link === undefined ? '' : link.closedFor || 'connecting';
  }

  /** What the server says against settlements that it refuses now; '' while it refuses none. */
  get refusal(): string {
    return this.#links.find(({ refusal }) => refusal !== '')?.refusal ?? '';
  }

  close(): void {
    for (const link of new Set(this.#links)) link.close();
  }

  /** For a watchdog, about once a second. */
  check(): void {
    for (const link of new Set(this.#links)) link.check();
  }

  /** Commands that Redis has not confirmed yet. */
  get unsettledCommands(): number {
    let commands = 0;
    for (const link of new Set(this.#links)) commands += link.unsettled;
    return commands;
  }

  /**
   * Settles a batch that came back from a worker, or one of rejected events. `record` is the stream whose
   * predictions also take the batch's direct rows, or null. Calls `onSettled` when done; before it returns
   * when there was nothing to tell Redis.
   */
  settle(batch: Batch, model: string, record: number | null): void {
    batch.commands.reset();
    const present = this.#present.fill(0);
    for (let row = 0; row < batch.rows; row += 1) {
      const origin = batch.origin[row] as number;
      if (origin !== ORIGIN_DIRECT) present[origin] = 1;
      else if (record !== null) present[record] = 1;
    }
    for (let stream = 0; stream < present.length; stream += 1) {
      if (present[stream] === 0) continue;
      const predicted = this.#writePredictions(batch, model, stream, record === stream);
      if (predicted === batch.rows) continue;
      writeOutcomes(batch, model, this.#outcomeStream(stream), record === stream, this.#settlements);
      this.#writeDeadletters(batch, stream);
    }
    // Sent only when all are written: the buffer moves while it grows.
    const settlements = this.#settlements.splice(0);
    batch.unsettled = settlements.length;
    if (batch.unsettled === 0) this.#options.onSettled(batch);
    for (const settlement of settlements) (this.#links[settlement.stream] as CommitLink).send(settlement);
  }

  /** How many there are. */
  #writePredictions(batch: Batch, model: string, stream: number, record: boolean): number {
    const { rows, table, origin, commands, fences } = batch;
    if (batch.layout === null) return 0;
    const { predictionsMax, fence } = this.#options.streams[stream] as CommitStream;
    const { mark } = fence;
    let picked = this.#picked;
    if (picked.length < rows) {
      picked = new Uint16Array(batch.rowsMax);
      this.#picked = picked;
    }
    let count = 0;
    let isOurs = fence.epoch !== '' && !batch.isReordered;
    for (let row = 0; row < rows; row += 1) {
      const isDirect = origin[row] === ORIGIN_DIRECT;
      if (isDirect ? !record : origin[row] !== stream) continue;
      if (table[row * ROW_COLUMNS + ROW.result] !== RESULT.ok || batch.rungs[row] !== RUNG.none) continue;
      picked[count] = row;
      count += 1;
      if (isDirect || fences[row] !== mark) isOurs = false;
    }
    if (count === 0) return 0;
    const start = commands.length;
    commands.encoded(this.#headOf(stream, model));
    commands.int(batch.inferUs);
    commands.int(predictionsMax);
    commands.utf8(this.#options.consumer());
    const epoch = isOurs ? fence.epoch : '0';
    commands.ascii(epoch);
    const epochEnd = commands.length - 2;
    this.#writeRows(batch, picked, count, commands);
    const [end, epochStart] = [commands.length, epochEnd - epoch.length];
    this.#settlements.push({
      batch,
      stream,
      start,
      end,
      epochStart,
      epochEnd,
      rows: count,
      kind: 'predictions',
    });
    return count;
  }

  #headOf(stream: number, model: string): Buffer {
    const heads = this.#heads[stream] as Map<string, Buffer>;
    let head = heads.get(model);
    if (head === undefined) {
      const { name, group, predictions } = this.#options.streams[stream] as CommitStream;
      const args = [
        'EVALSHA',
        loadScript('commit').sha,
        '3',
        name,
        predictions,
        ledgerKey(name),
        group,
        model,
      ];
      head = Buffer.concat([Buffer.from(`*${args.length + 5}\r\n`), ...args.map(encodeBulk)]);
      heads.set(model, head);
    }
    return head;
  }

  #outcomeStream(stream: number): OutcomeStream {
    const { name, group, predictions, predictionsMax } = this.#options.streams[stream] as CommitStream;
    return { index: stream, name, group, predictions, predictionsMax, consumer: this.#options.consumer() };
  }

  #writeDeadletters(batch: Batch, stream: number): void {
    const { rows, origin, commands } = batch;
    const dead = (row: number) => origin[row] === stream && isDead(resultOf(batch, row));
    let count = 0;
    for (let row = 0; row < rows; row += 1) if (dead(row)) count += 1;
    if (count === 0) return;
    const { name, group, deadletters } = this.#options.streams[stream] as CommitStream;
    const start = commands.length;
    commands.array(7 + 3 * count);
    commands.ascii('EVALSHA');
    commands.ascii(this.#deadletterSha);
    commands.ascii('3');
    commands.utf8(name);
    commands.utf8(deadletters);
    commands.utf8(ledgerKey(name));
    commands.utf8(group);
    for (let row = 0; row < rows; row += 1) {
      if (!dead(row)) continue;
      commands.ascii(batch.id(row));
      commands.ascii(resultOf(batch, row) === RESULT.failed ? 'failed' : 'invalid');
      commands.utf8(shortDetail(rowDetail(batch, row)));
    }
    const end = commands.length;
    const [epochStart, epochEnd] = [end, end];
    this.#settlements.push({
      batch,
      stream,
      start,
      end,
      epochStart,
      epochEnd,
      rows: count,
      kind: 'deadletters',
    });
  }

  #onSettled({ batch, rows, kind }: Settlement, settled: number): void {
    if (kind === 'predictions') batch.duplicatesOk += rows - settled;
    else if (kind === 'outcomes') batch.duplicatesUnrun += rows - settled;
    else batch.duplicatesDead += rows - settled;
    batch.unsettled -= 1;
    if (batch.unsettled === 0) this.#options.onSettled(batch);
  }
}

/** Loads the scripts, and tells each stream's ledger that there is a committer on this server. */
function greeting(streams: readonly CommitStream[]): string[][] {
  const load = ['commit', 'outcome', 'deadletter'].map((name) => ['SCRIPT', 'LOAD', loadScript(name).text]);
  const arrive = streams.map(({ name, group }) => {
    return ['EVAL', loadScript('arrive').text, '2', name, ledgerKey(name), group];
  });
  return [...load, ...arrive];
}

function isDead(result: number): boolean {
  return result === RESULT.invalid || result === RESULT.failed;
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
