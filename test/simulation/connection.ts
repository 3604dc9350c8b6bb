// What stands for redis/socket.ts: the same states, over a simulated wire.
import { AssertionError } from 'node:assert';
import { messageOf } from '../../src/errors.ts';
import { encodeCommand, readLineReply } from '../../src/redis/resp.ts';
import { ANSWER_MS_MAX, type Connection, type RedisSocketOptions } from '../../src/redis/socket.ts';
import type { Random } from '../support/random.ts';
import type { Clock } from './clock.ts';
import { type Server, Wire } from './server.ts';

const BACKOFF_MS_MIN = 20;
const BACKOFF_MS_MAX = 1_000;
const CONNECT_MS_MAX = 5_000;
/** Put over bytes that were handed out, for whoever kept them. */
const USED = 0xee;

/** Where a process gets when it connects. */
export interface Route {
  readonly clock: Clock;
  readonly random: Random;
  /** The server that the name leads to now; null: nobody answers, not even with a refusal. */
  readonly server: () => Server | null;
}

export class SimConnection implements Connection {
  readonly #options: RedisSocketOptions;
  readonly #route: Route;
  #state: 'connecting' | 'greeting' | 'open' | 'waiting' | 'closed' = 'closed';
  wire: Wire | null = null;
  #buffer = Buffer.alloc(0);
  #start = 0;
  /** Came while the owner held back. */
  #kept: Buffer[] = [];
  #held = false;
  #repliesLeft = 0;
  #attempts = 0;
  #cancel = () => {};
  #cancelWatch = () => {};
  clientId = '';

  constructor(options: RedisSocketOptions, route: Route) {
    this.#options = options;
    this.#route = route;
  }

  get isOpen(): boolean {
    return this.#state === 'open';
  }

  open(): void {
    if (this.#state === 'closed') this.#connect();
  }

  write(bytes: Uint8Array): void {
    this.wire?.send(Buffer.from(bytes));
    if (this.#state === 'open') this.#watch();
  }

  hold(): void {
    this.#held = true;
  }

  release(): void {
    if (!this.#held) return;
    this.#held = false;
    this.#deliver(true);
    if (this.#held) return;
    const { wire } = this;
    this.#route.clock.later(0, () => wire !== null && wire === this.wire && this.#takeKept());
    this.#watch();
  }

  fail(reason: string): void {
    this.#lost(reason);
  }

  close(): void {
    this.#state = 'closed';
    this.#cancel();
    this.#drop();
  }

  #drop(): void {
    this.#cancelWatch();
    this.wire?.close();
    this.wire = null;
  }

  #connect(): void {
    const { clock, random } = this.#route;
    this.#state = 'connecting';
    this.#buffer = Buffer.alloc(0);
    this.#start = 0;
    this.#kept = [];
    this.#held = false;
    this.#cancel = clock.later(CONNECT_MS_MAX, () => this.#lost('connecting took too long'));
    clock.later(0.1 + random.next(), () => this.#state === 'connecting' && this.#reach());
  }

  #reach(): void {
    const { clock, random, server: find } = this.#route;
    const server = find();
    if (server === null) return;
    if (server.isDown) {
      this.#lost('connect ECONNREFUSED');
      return;
    }
    const wire: Wire = new Wire(
      clock,
      random,
      server,
      (bytes) => wire === this.wire && this.#received(bytes),
      (reason) => wire === this.wire && this.#lost(reason),
    );
    this.wire = wire;
    const { name, greeting = [] } = this.#options;
    const commands = [['CLIENT', 'SETNAME', name], ...greeting, ['CLIENT', 'ID']];
    this.#state = 'greeting';
    this.#repliesLeft = commands.length;
    for (const command of commands) wire.send(encodeCommand(command));
  }

  #watch(): void {
    this.#cancelWatch();
    this.#cancelWatch = this.#route.clock.later(this.#options.answerMsMax ?? ANSWER_MS_MAX, () => {
      if (this.isOpen && !this.#held && this.#options.answerDue()) this.#lost('no answer');
    });
  }

  #received(bytes: Buffer): void {
    if (this.#held) {
      this.#kept.push(bytes);
      return;
    }
    const rest = this.#buffer.subarray(this.#start);
    const joined = Buffer.concat([rest, bytes]);
    this.#buffer.fill(USED);
    this.#buffer = joined;
    this.#start = 0;
    if (this.#state === 'open') this.#watch();
    this.#deliver();
  }

  #takeKept(): void {
    const kept = this.#kept;
    this.#kept = [];
    for (const bytes of kept) this.#received(bytes);
  }

  #deliver(again = false): void {
    if (this.#held) return;
    try {
      if (this.#state === 'greeting') this.#takeGreeting();
      if (this.#state === 'open' && (this.#start < this.#buffer.length || again))
        this.#start = this.#options.onBytes(this.#buffer, this.#start, this.#buffer.length);
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      this.#lost(messageOf(error));
    }
  }

  #takeGreeting(): void {
    while (this.#repliesLeft > 0) {
      const reply = readLineReply(this.#buffer, this.#start, this.#buffer.length);
      if (reply === null) return;
      if (reply.kind === 'error') {
        this.#lost(reply.text);
        return;
      }
      this.#start = reply.next;
      this.#repliesLeft -= 1;
      if (this.#repliesLeft === 0) this.clientId = reply.text;
    }
    this.#cancel();
    this.#state = 'open';
    this.#attempts = 0;
    this.#watch();
    this.#options.onOpen();
  }

  #lost(reason: string): void {
    if (this.#state === 'closed' || this.#state === 'waiting') return;
    this.#state = 'waiting';
    this.#cancel();
    this.#drop();
    const ceiling = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** this.#attempts);
    this.#attempts += 1;
    const waitMs = ceiling * (0.5 + this.#route.random.next() / 2);
    this.#cancel = this.#route.clock.later(waitMs, () => this.#connect());
    this.#options.onClose(reason);
  }
}
