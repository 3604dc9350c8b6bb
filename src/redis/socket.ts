/**
 * A connection of its own for one job: reader, committer, tail or wire. It hands over received bytes where
 * they lie and leaves their meaning to the owner; the control client (ioredis) is kept for everything that is
 * not hot.
 *
 * States: connecting -> greeting (AUTH, SELECT, CLIENT SETNAME and the owner's own commands, one reply each)
 *   -> open -> waiting (backoff with jitter) -> connecting ... -> closed.
 * Bytes are handed to the owner only while open. After a reconnect the owner starts afresh in `onOpen`: what
 * it had sent may or may not have been carried out.
 */
import { AssertionError } from 'node:assert';
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { messageOf } from '../errors.ts';
import type { RedisEndpoint } from './endpoint.ts';
import { encodeCommand, readLineReply } from './resp.ts';

/** Where to connect; asked before every connect when it may change: a new master, a slot that moved. */
export type Where = RedisEndpoint | (() => Promise<RedisEndpoint>);

export interface RedisSocketOptions {
  readonly endpoint: Where;
  /** Shown by CLIENT LIST. */
  readonly name: string;
  /** Sent after authentication on every connect; any error reply drops the connection. */
  readonly greeting?: readonly (readonly string[])[];
  /** Received bytes are at most this many; one reply element must fit. */
  readonly bufferBytes: number;
  readonly onOpen: () => void;
  /** Takes bytes `start` to `end` and returns where the first byte lies that it could not use yet. */
  readonly onBytes: (buffer: Buffer, start: number, end: number) => number;
  readonly onClose: (reason: string) => void;
  /** True while an answer is due. A server that then says nothing for `answerMsMax` is taken for gone. */
  readonly answerDue: () => boolean;
  readonly answerMsMax?: number;
  readonly random?: () => number;
}

/** What an owner needs of its connection. */
export type Connection = Pick<
  RedisSocket,
  'isOpen' | 'clientId' | 'open' | 'write' | 'hold' | 'release' | 'fail' | 'close'
>;

/** Makes the connection of a stage; a simulation makes its own. */
export type Connect = (options: RedisSocketOptions) => Connection;

export const connectSocket: Connect = (options) => new RedisSocket(options);

const BACKOFF_MS_MIN = 20;
/** A server that is back is met again within a second, greeting included. */
const BACKOFF_MS_MAX = 500;
/**
 * A connect that has not finished by then is given up; Redis answers a greeting in well under a millisecond.
 */
const CONNECT_MS_MAX = 5_000;
/** A peer that vanished ends no connection: a lost machine, a pulled cable. TCP notices after minutes. */
export const ANSWER_MS_MAX = 5_000;
/** For replies that come in bursts of many entries; a larger buffer means fewer system calls. */
export const RECEIVE_BYTES = 262_144;

export class RedisSocket {
  readonly #options: RedisSocketOptions;
  #buffer: Buffer;
  #start = 0;
  #end = 0;
  #socket: Socket | null = null;
  #state: 'connecting' | 'greeting' | 'open' | 'waiting' | 'closed' = 'closed';
  #repliesLeft = 0;
  #attempts = 0;
  #lookups = 0;
  #timer: NodeJS.Timeout | null = null;
  /** The server's number for this connection, for CLIENT UNBLOCK. */
  clientId = '';
  /** Set while the owner holds back bytes on purpose: see `hold`. */
  #held = false;

  constructor(options: RedisSocketOptions) {
    this.#options = options;
    this.#buffer = Buffer.allocUnsafeSlow(options.bufferBytes);
  }

  get isOpen(): boolean {
    return this.#state === 'open';
  }

  open(): void {
    if (this.#state === 'closed') this.#connect();
  }

  /** The bytes must not change until a reply to them has come. */
  write(bytes: Uint8Array): void {
    this.#socket?.write(bytes);
  }

  /** The owner has no room: stop receiving until `release`. TCP tells the server. */
  hold(): void {
    this.#held = true;
    this.#socket?.pause();
  }

  /** Offers the kept bytes again and goes on receiving, unless the owner holds again meanwhile. */
  release(): void {
    if (!this.#held) return;
    this.#held = false;
    this.#deliver(true);
    if (this.#held) return;
    this.#socket?.resume();
    this.#watch();
  }

  /** Drops the connection because the owner cannot make sense of it; a new one is opened. */
  fail(reason: string): void {
    this.#lost(reason);
  }

  close(): void {
    this.#state = 'closed';
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#socket?.destroy();
    this.#socket = null;
  }

  #connect(): void {
    const { endpoint } = this.#options;
    this.#state = 'connecting';
    this.#start = 0;
    this.#end = 0;
    this.#held = false;
    this.#timer = setTimeout(() => this.#lost('connecting took too long'), CONNECT_MS_MAX);
    if (typeof endpoint !== 'function') {
      this.#connectTo(endpoint);
      return;
    }
    const attempt = ++this.#lookups;
    const isCurrent = () => this.#state === 'connecting' && attempt === this.#lookups;
    endpoint().then(
      (found) => isCurrent() && this.#connectTo(found),
      (error: unknown) => isCurrent() && this.#lost(messageOf(error)),
    );
  }

  #connectTo(endpoint: RedisEndpoint): void {
    const { host, port, path } = endpoint;
    const where = path === null ? { host, port } : { path };
    let socket: Socket;
    if (endpoint.tls === null) {
      // The kernel writes straight behind the bytes that are still waiting: no chunk objects, no
      // concatenation.
      socket = connectTcp({
        ...where,
        noDelay: true,
        keepAlive: true,
        onread: {
          buffer: () => this.#space(),
          callback: (bytes: number) => {
            this.#end += bytes;
            this.#deliver();
            return !this.#held;
          },
        },
      });
    } else {
      socket = connectTls({ ...where, ...endpoint.tls });
      socket.setNoDelay(true);
      socket.on('data', (chunk: Buffer) => this.#append(chunk));
    }
    this.#socket = socket;
    socket.on('timeout', () => {
      if (socket === this.#socket && this.isOpen && !this.#held && this.#options.answerDue())
        this.#lost('no answer');
    });
    socket.once(endpoint.tls === null ? 'connect' : 'secureConnect', () => this.#greet(endpoint));
    // A socket that was replaced meanwhile still reports its end: only the current one counts.
    socket.once('error', (error: Error) => socket === this.#socket && this.#lost(error.message));
    socket.once('close', () => socket === this.#socket && this.#lost('connection closed'));
  }

  #greet(endpoint: RedisEndpoint): void {
    const { name, greeting = [] } = this.#options;
    const commands: (readonly string[])[] = [];
    if (endpoint.password !== '') {
      commands.push(
        endpoint.username === ''
          ? ['AUTH', endpoint.password]
          : ['AUTH', endpoint.username, endpoint.password],
      );
    }
    if (endpoint.db !== 0) commands.push(['SELECT', String(endpoint.db)]);
    commands.push(['CLIENT', 'SETNAME', name], ...greeting, ['CLIENT', 'ID']);
    this.#state = 'greeting';
    this.#repliesLeft = commands.length;
    for (const command of commands) this.#socket?.write(encodeCommand(command));
  }

  /** Every read and write starts the time anew; so does the end of a hold. */
  #watch(): void {
    this.#socket?.setTimeout(this.#options.answerMsMax ?? ANSWER_MS_MAX);
  }

  #takeGreeting(): void {
    while (this.#repliesLeft > 0) {
      const reply = readLineReply(this.#buffer, this.#start, this.#end);
      if (reply === null) return;
      // The reply's text may name the user, never the password.
      if (reply.kind === 'error') {
        this.#lost(reply.text);
        return;
      }
      this.#start = reply.next;
      this.#repliesLeft -= 1;
      if (this.#repliesLeft === 0) this.clientId = reply.text;
    }
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#state = 'open';
    this.#attempts = 0;
    this.#watch();
    this.#options.onOpen();
  }

  /** `again`: also when no byte is waiting, for an owner that has to repeat its last step. */
  #deliver(again = false): void {
    if (this.#held) return;
    try {
      if (this.#state === 'greeting') this.#takeGreeting();
      if (this.#state === 'open' && (this.#start < this.#end || again)) {
        this.#start = this.#options.onBytes(this.#buffer, this.#start, this.#end);
      }
    } catch (error) {
      // A broken assertion is a bug of ours: taken for a lost connection it would leave events behind in
      // silence.
      if (error instanceof AssertionError) throw error;
      this.#lost(messageOf(error));
    }
  }

  /**
   * Where the next bytes go: behind the waiting ones, which move to the front first when less than half of
   * the buffer is left. Bytes move here only. Node asks for this place right after the last read, long before
   * the next one, so nothing else may assume that the next bytes land anywhere but at #end.
   */
  #space(): Buffer {
    if (this.#start >= this.#end) {
      this.#start = 0;
      this.#end = 0;
    }
    if (this.#end > this.#buffer.length / 2 && this.#start > 0) {
      this.#buffer.copyWithin(0, this.#start, this.#end);
      this.#end -= this.#start;
      this.#start = 0;
    }
    if (this.#end === this.#buffer.length) {
      const grown = Buffer.allocUnsafeSlow(this.#buffer.length * 2);
      this.#buffer.copy(grown, 0, 0, this.#end);
      this.#buffer = grown;
    }
    // Half a buffer at a time: whatever waits behind a hold then fits, and the buffer doubles once at the
    // most.
    return this.#buffer.subarray(this.#end, this.#end + this.#options.bufferBytes / 2);
  }

  #append(chunk: Buffer): void {
    for (let from = 0; from < chunk.length; ) {
      const space = this.#space();
      const taken = chunk.copy(space, 0, from);
      from += taken;
      this.#end += taken;
      this.#deliver();
    }
  }

  #lost(reason: string): void {
    if (this.#state === 'closed' || this.#state === 'waiting') return;
    this.#state = 'waiting';
    if (this.#timer !== null) clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    // Its late 'error' must not become an uncaught exception.
    socket?.on('error', () => {});
    socket?.destroy();
    const random = this.#options.random ?? Math.random;
    const ceiling = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** this.#attempts);
    this.#attempts += 1;
    this.#timer = setTimeout(() => this.#connect(), ceiling * (0.5 + random() / 2));
    // Last, because the owner may close for good.
    this.#options.onClose(reason);
  }
}
