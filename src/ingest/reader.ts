/**
 * Reads one input stream for its consumer group, on a connection of its own, the replies parsed in place: new
 * entries by XREADGROUP, and between them, as the claimer plans it, entries that were given out before and
 * not settled (lua/claim.lua).
 *
 * It asks for no more entries than there are free rows (`demand`), so the backlog stays in Redis. A row may
 * still be missing when an entry arrives, because batches leave before they are full; then the reader stops
 * receiving in front of that entry until `kick`.
 *
 * States: idle (no demand) -> reading (one command out, `#asked`) -> idle ...; `held` within reading while an
 * entry waits for a row; waiting (a timer) after an error of the server. After every connect the claimer
 * first takes what this consumer had been given before: entries whose reply was lost with the old connection
 * or the old process. What is still in hand of that is passed over.
 */

import { messageOf } from '../errors.ts';
import { channels, notice } from '../observe/channels.ts';
import { faultOf } from '../redis/faults.ts';
import type { Fence } from '../redis/fence.ts';
import { ledgerKey } from '../redis/keys.ts';
import { encodeCommand } from '../redis/resp.ts';
import { loadScript } from '../redis/scripts.ts';
import {
  ANSWER_MS_MAX,
  type Connect,
  type Connection,
  connectSocket,
  RECEIVE_BYTES,
  type Where,
} from '../redis/socket.ts';
import { type EntryColumns, StreamReplyParser, type TakenEntries } from '../redis/stream-reply.ts';
import { Claimer } from './claimer.ts';

export interface ReaderOptions {
  readonly endpoint: Where;
  readonly stream: string;
  readonly group: string;
  /** The name under which this engine reads now. */
  readonly consumer: () => string;
  readonly fields: readonly string[];
  readonly entryBytesMax: number;
  readonly countMax: number;
  readonly blockMs: number;
  /** What another consumer has held for this long is taken over; null: nothing ever is. */
  readonly claimIdleMs: number | null;
  readonly deliveriesMax: number;
  readonly fence: Fence;
  /** Entries that can be taken now. */
  readonly demand: () => number;
  /** Of these, how many can run alone in a batch. */
  readonly demandAlone: () => number;
  /** Suspects in hand that have not run, of all streams; `exclusive`: those beside which no other may run. */
  readonly alone: { readonly suspects: number; readonly exclusive: number };
  /** Bytes came in; the entries in them are taken next. */
  readonly received: () => void;
  /**
   * Takes an entry, or returns false when there is no row for it. `mark`: the fence's mark under which it was
   * asked for; 0 when it had been given out before and may be settled by now.
   */
  readonly take: (buffer: Buffer, entry: EntryColumns, mark: number) => boolean;
  /** Takes at most `entriesMax` new entries that need no closer look, many at once. */
  readonly takeMany?: (
    buffer: Buffer,
    start: number,
    end: number,
    entriesMax: number,
    mark: number,
  ) => TakenEntries;
  /** True when this entry is in hand already. */
  readonly isInHand: (id: string) => boolean;
  /** Settles an entry that is too large to be read, or was given out too often. */
  readonly reject: (id: string, deliveries: number, detail: string) => boolean;
  /** Entries came in: give them to the workers. */
  readonly flush: () => void;
  /** The group is gone (FLUSHALL, DEL): make it again, then the reader goes on. Tells the stream's epoch. */
  readonly createGroup: () => Promise<{ readonly epoch: string }>;
  /** Ends a waiting XREADGROUP at once: CLIENT UNBLOCK from another connection. */
  readonly unblock: (clientId: string) => void;
  readonly connect?: Connect;
  /** Milliseconds of a clock that only goes forward. */
  readonly now?: () => number;
  readonly random?: () => number;
}

/** Errors of the server pass; asking again at once would only add to its trouble. */
const RETRY_MS = 100;
/** Own entries idle for longer than this consumer exists were another process's; clocks are read apart. */
const AGE_MARGIN_MS = 50;
/** There is room and a connection, and yet nothing was asked for in this time: something is stuck. */
const STALLED_MS = 5_000;

type Asked = 'nothing' | 'new' | 'claim';

export class StreamReader {
  readonly #options: ReaderOptions;
  readonly #socket: Connection;
  readonly #parser: StreamReplyParser;
  readonly #claimer: Claimer;
  readonly #now: () => number;
  #asked: Asked = 'nothing';
  /** Pieces of a sweep and reads of new entries take turns. */
  #claimedLast = false;
  #mark = 0;
  #after = '-';
  #stopping = false;
  /** After an error of the server; nothing is asked for meanwhile. */
  #waiting = false;
  #timer: NodeJS.Timeout | null = null;
  /** Waiting for room in the middle of a sweep. */
  #parked: NodeJS.Timeout | null = null;
  #bytesInReply = 0;
  #stopped: (() => void) | null = null;
  #consumer = '';
  #consumerSinceMs = 0;
  #progressMs = 0;
  /** What the server says against being read now; '' while it refuses nothing. */
  refusal = '';
  /** Why there was no connection the last time. */
  #closedFor = 'connecting';

  constructor(options: ReaderOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#claimer = new Claimer({ idleMs: options.claimIdleMs, random: options.random ?? Math.random });
    this.#parser = new StreamReplyParser({
      fields: options.fields,
      entryBytesMax: options.entryBytesMax,
      onHead: (buffer, start, end) => this.#onHead(buffer, start, end),
      onEntry: (buffer, entry) => this.#onEntry(buffer, entry),
      onEntries: (buffer, start, end, max) => this.#onEntries(buffer, start, end, max),
      onOversize: (id, deliveries) => this.#onOversize(id, deliveries),
      onReplyEnd: (entries) => this.#onReplyEnd(entries),
      onError: (message) => this.#onError(message),
    });
    const connect = options.connect ?? connectSocket;
    this.#socket = connect({
      endpoint: options.endpoint,
      name: `subito:reader:${options.stream}`,
      bufferBytes: Math.max(RECEIVE_BYTES, options.entryBytesMax * 2),
      greeting: [['SCRIPT', 'LOAD', loadScript('claim').text]],
      onOpen: () => this.#onOpen(),
      onBytes: (buffer, start, end) => this.#onBytes(buffer, start, end),
      answerDue: () => this.#asked !== 'nothing',
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

  /** Why there is no connection; '' while there is one. */
  get trouble(): string {
    return this.connected ? '' : this.#closedFor;
  }

  /** Rows became free, or suspects have run: read on. Cheap when there is nothing to do. */
  kick(): void {
    if (this.#parser.refused) this.#socket.release();
    else {
      if (this.#parked !== null) this.#unpark();
      this.#read();
    }
  }

  /**
   * For a watchdog, about once a second. A reader that has room and asks for nothing has a bug; a new
   * connection makes it start afresh, and nothing is lost by that.
   */
  check(): void {
    const nowMs = this.#now();
    // Whether there is room for the entry that is held, only another try can tell.
    if (this.#parser.refused) this.kick();
    if (!this.#isFree || this.#options.demand() <= 0) {
      this.#progressMs = nowMs;
    } else if (nowMs - this.#progressMs > STALLED_MS) {
      this.#progressMs = nowMs;
      notice('error', 'READER_STALLED', `${this.#options.stream}: there is room, and nothing is read`);
      this.#socket.fail('the reader had stalled');
    }
  }

  /**
   * Asks for nothing more. Resolves when no reply is outstanding: every entry that Redis gave out has been
   * taken.
   */
  stop(): Promise<void> {
    this.#stopping = true;
    if (this.#asked === 'nothing' || !this.#socket.isOpen) return Promise.resolve();
    this.#options.unblock(this.#socket.clientId);
    return new Promise((resolve) => {
      this.#stopped = resolve;
    });
  }

  close(): void {
    this.#stopping = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#parked !== null) clearTimeout(this.#parked);
    this.#socket.close();
  }

  #onOpen(): void {
    this.#parser.reset();
    this.#asked = 'nothing';
    this.#claimedLast = false;
    this.#claimer.connected(this.#now());
    this.#unpark();
    this.#read();
  }

  #onClose(reason: string): void {
    this.#closedFor = reason;
    this.#asked = 'nothing';
    this.#parser.reset();
    this.#options.flush();
    this.#endStop();
    notice('warn', 'READER_DISCONNECTED', `${this.#options.stream}: ${reason}`);
  }

  /** Something may be asked for now, if there is room. */
  get #isFree(): boolean {
    const isBusy = this.#asked !== 'nothing' || this.#parked !== null || this.#waiting;
    return !isBusy && !this.#stopping && this.#socket.isOpen;
  }

  #read(): void {
    if (!this.#isFree) return;
    const { countMax, demand } = this.#options;
    const count = Math.min(demand(), countMax);
    if (count <= 0) return;
    const dueInMs = this.#claimer.dueInMs(this.#now());
    this.#bytesInReply = 0;
    if (dueInMs === 0 && !this.#claimedLast) this.#claim(count);
    else this.#readNew(count, dueInMs);
  }

  #readNew(count: number, dueInMs: number): void {
    const { stream, group, blockMs } = this.#options;
    // BLOCK 0 would wait for ever. During a sweep nothing waits in Redis, where no kick could reach it.
    const waitMs = Math.max(1, Math.ceil(Math.min(blockMs, dueInMs)));
    const block = this.#claimer.sweeping ? [] : ['BLOCK', waitMs];
    this.#asked = 'new';
    this.#claimedLast = false;
    this.#mark = this.#options.fence.mark;
    const consumer = this.#name();
    this.#socket.write(
      encodeCommand([
        ...['XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, ...block, 'STREAMS', stream, '>'],
      ]),
    );
  }

  #claim(count: number): void {
    const { stream, group, deliveriesMax, demandAlone, alone } = this.#options;
    const { othersIdleMs, ownIdleMs, after } = this.#claimer.begin(this.#now());
    const consumer = this.#name();
    const ageMs = Math.ceil(this.#now() - this.#consumerSinceMs) + AGE_MARGIN_MS;
    this.#asked = 'claim';
    this.#claimedLast = true;
    this.#after = '-';
    const keys = [stream, ledgerKey(stream)];
    const aloneMax = alone.exclusive > 0 ? 0 : demandAlone();
    const limits = [count, aloneMax, alone.suspects === 0 ? 1 : 0, deliveriesMax, ageMs];
    this.#socket.write(
      encodeCommand([
        ...['EVALSHA', loadScript('claim').sha, keys.length, ...keys, group, consumer],
        ...[othersIdleMs, ownIdleMs, after, ...limits],
      ]),
    );
  }

  #name(): string {
    const consumer = this.#options.consumer();
    if (consumer !== this.#consumer) {
      this.#consumer = consumer;
      this.#consumerSinceMs = this.#now();
    }
    return consumer;
  }

  #onBytes(buffer: Buffer, start: number, end: number): number {
    this.#options.received();
    const next = this.#parser.parse(buffer, start, end);
    this.#bytesInReply += next - start;
    if (this.#parser.refused) this.#socket.hold();
    this.#options.flush();
    return next;
  }

  /** Of a claim: `epoch after`. XREADGROUP has the stream's name there. */
  #onHead(buffer: Buffer, start: number, end: number): void {
    if (this.#asked !== 'claim') return;
    const [epoch = '', after = '-'] = buffer.toString('latin1', start, end).split(' ');
    this.#options.fence.learn(epoch);
    this.#after = after;
  }

  /** What had been given out before is looked at one by one. */
  #onEntries(buffer: Buffer, start: number, end: number, entriesMax: number): TakenEntries {
    const { takeMany } = this.#options;
    if (takeMany === undefined || this.#asked !== 'new') return { entries: 0, next: start };
    return takeMany(buffer, start, end, entriesMax, this.#mark);
  }

  #onEntry(buffer: Buffer, entry: EntryColumns): boolean {
    if (this.#asked === 'new') return this.#options.take(buffer, entry, this.#mark);
    const id = buffer.toString('latin1', entry.idStart, entry.idEnd);
    if (this.#options.isInHand(id)) return true;
    const { deliveriesMax } = this.#options;
    if (entry.deliveries <= deliveriesMax || entry.deleted) return this.#options.take(buffer, entry, 0);
    return this.#options.reject(id, entry.deliveries, givenUp(deliveriesMax));
  }

  #onOversize(id: string, deliveries: number): boolean {
    if (this.#asked === 'claim' && this.#options.isInHand(id)) return true;
    const detail = `the entry is larger than ${this.#options.entryBytesMax} bytes`;
    return this.#options.reject(id, Math.min(deliveries, this.#options.deliveriesMax), detail);
  }

  #onReplyEnd(entries: number): void {
    const asked = this.#asked;
    this.#asked = 'nothing';
    this.refusal = '';
    if (asked === 'claim') this.#claimer.answered(this.#after, entries, this.#now());
    if (entries > 0 && channels.read.hasSubscribers) {
      channels.read.publish({ stream: this.#options.stream, rows: entries, bytes: this.#bytesInReply });
    }
    if (this.#stopping) this.#endStop();
    else if (asked === 'new' && entries === 0 && this.#claimer.sweeping) this.#park();
    // What has just been read goes to the workers first; only then is it known how many rows are free.
    else setImmediate(() => this.#read());
  }

  #onError(message: string): void {
    this.#asked = 'nothing';
    this.#endStop();
    if (this.#stopping) return;
    const { stream, createGroup, fence } = this.#options;
    const { action, why } = faultOf(message);
    this.#waiting = true;
    if (action === 'regroup') {
      notice('warn', 'GROUP_LOST', `${stream}: ${message}`);
      createGroup().then(
        ({ epoch }) => {
          fence.learn(epoch);
          // What has to be served again is pending now, and waits for nobody.
          this.#claimer.connected(this.#now());
          this.#again('', 0);
        },
        (error: unknown) => this.#again(messageOf(error), RETRY_MS),
      );
      return;
    }
    notice('warn', 'READER_REFUSED', `${stream}: ${message} (${why})`);
    this.#again(message, RETRY_MS, action === 'reconnect' || action === 'reload');
  }

  #again(refusal: string, waitMs: number, reconnect = false): void {
    if (this.#stopping) return;
    this.refusal = refusal;
    this.#timer = setTimeout(() => {
      this.#waiting = false;
      if (reconnect && this.#socket.isOpen) this.#socket.fail(refusal);
      else this.#read();
    }, waitMs);
  }

  /** Nothing is new, and what is left of the sweep has to wait: until a kick, or for a moment. */
  #park(): void {
    this.#parked = setTimeout(() => {
      this.#parked = null;
      this.#read();
    }, this.#claimer.dueInMs(this.#now()));
  }

  #unpark(): void {
    this.#claimer.hurry(this.#now());
    if (this.#parked !== null) clearTimeout(this.#parked);
    this.#parked = null;
  }

  #endStop(): void {
    this.#stopped?.();
    this.#stopped = null;
  }
}

function givenUp(deliveriesMax: number): string {
  return `given out ${deliveriesMax} times and never settled: whoever ran it died of it, or hung`;
}
