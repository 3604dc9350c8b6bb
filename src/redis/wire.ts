/**
 * A connection for those who drive the engine from outside (load, demo, benchmarks): pipelined writes of
 * prepared bytes, replies in order. A general client would cost several microseconds an event, on cores that
 * the engine under test needs. It does not come back: whoever holds it decides what a lost one means.
 */
import { SubitoError } from '../errors.ts';
import { parseEndpoint, type RedisEndpoint } from './endpoint.ts';
import { RedisReplyError, type Reply, ReplyReader } from './reply.ts';
import { encodeCommand } from './resp.ts';
import { RECEIVE_BYTES, RedisSocket } from './socket.ts';
import { StreamTail, type StreamTailOptions } from './stream-tail.ts';

/** Shown by CLIENT LIST. */
const CLIENT_NAME = 'subito:wire';

interface Expected {
  left: number;
  readonly take: (reply: Reply) => void;
}

export class RedisWire {
  readonly #endpoint: RedisEndpoint;
  readonly #socket: RedisSocket;
  readonly #reader = new ReplyReader();
  readonly #expected: Expected[] = [];
  #head = 0;
  #failed: Error | null = null;
  /** Called once when the connection ends other than by close(). */
  onLost: (error: Error) => void = () => {};

  /** `redis://[user:password@]host:port/db`, `rediss://` for TLS, `unix:///path`. */
  static connect(url: string): Promise<RedisWire> {
    const endpoint = parseEndpoint(url);
    return new Promise((resolve, reject) => {
      const wire: RedisWire = new RedisWire(endpoint, () => {
        wire.onLost = () => {};
        resolve(wire);
      });
      wire.onLost = (cause) => {
        const { path, host, port } = endpoint;
        const message = `no Redis at ${path ?? `${host}:${port}`}: ${cause.message}`;
        reject(new SubitoError('REDIS_UNREACHABLE', message, { cause }));
      };
      wire.#socket.open();
    });
  }

  private constructor(endpoint: RedisEndpoint, onOpen: () => void) {
    this.#endpoint = endpoint;
    this.#socket = new RedisSocket({
      endpoint,
      name: CLIENT_NAME,
      // Grows to the largest reply.
      bufferBytes: RECEIVE_BYTES,
      onOpen,
      onBytes: (buffer, start, end) => this.#take(buffer, start, end),
      onClose: (reason) => {
        this.#socket.close();
        this.#fail(new Error(reason));
      },
      // A slow server is what a load test is there to see.
      answerDue: () => false,
    });
  }

  /**
   * Writes prepared commands that will bring `replies` replies. After the connection is lost: error replies.
   */
  write(bytes: Buffer, replies: number, take: (reply: Reply) => void): void {
    if (this.#failed !== null) {
      const error = new RedisReplyError(`connection ${this.#failed.message}`);
      for (let i = 0; i < replies; i++) take(error);
      return;
    }
    this.#expected.push({ left: replies, take });
    this.#socket.write(bytes);
  }

  /** One command; rejects with the error reply. */
  call(args: readonly (string | Buffer)[]): Promise<Reply> {
    return new Promise((resolve, reject) => {
      this.write(encodeCommand(args), 1, (reply) => {
        if (reply instanceof RedisReplyError) reject(reply);
        else resolve(reply);
      });
    });
  }

  /**
   * Follows a stream, on a connection of its own that does come back. Resolves when everything added from now
   * on will be seen.
   */
  async tail(
    stream: string,
    fields: readonly string[],
    onEntry: StreamTailOptions['onEntry'],
  ): Promise<StreamTail> {
    const name = `${CLIENT_NAME}:${stream}`;
    const tail = new StreamTail({ endpoint: this.#endpoint, name, stream, fields, onEntry });
    // `$` would miss what comes between two reads, so the id itself is asked for.
    const last = await this.call(['XREVRANGE', stream, '+', '-', 'COUNT', '1']);
    tail.follow((last as [string, string[]][])[0]?.[0] ?? '0-0');
    tail.open();
    return tail;
  }

  close(): void {
    this.onLost = () => {};
    this.#socket.close();
    // What is still out is told so once the caller is done.
    setImmediate(() => this.#fail(new Error('closed')));
  }

  #take(buffer: Buffer, start: number, end: number): number {
    let at = start;
    while (at < end) {
      const reply = this.#reader.read(buffer, at, end);
      if (reply === undefined) break;
      at = this.#reader.next;
      this.#reply(reply);
    }
    return at;
  }

  #reply(reply: Reply): void {
    const expected = this.#expected[this.#head];
    if (expected === undefined) throw new Error('a reply that nobody asked for');
    if (--expected.left === 0) {
      this.#head++;
      if (this.#head > 1024) {
        this.#expected.splice(0, this.#head);
        this.#head = 0;
      }
    }
    expected.take(reply);
  }

  #fail(error: Error): void {
    if (this.#failed !== null) return;
    this.#failed = error;
    const reply = new RedisReplyError(`connection ${error.message}`);
    for (const expected of this.#expected.splice(0).slice(this.#head)) {
      while (expected.left-- > 0) expected.take(reply);
    }
    this.onLost(error);
  }
}
