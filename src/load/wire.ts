/**
 * One raw connection to Redis for the generator: pipelined writes of prepared bytes, replies in order. A
 * general client would cost several microseconds an event, on cores that the engine under test needs.
 */

import type { Socket } from 'node:net';
import { connect as connectTcp } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { SubitoError } from '../errors.ts';
import { parseEndpoint, type RedisEndpoint } from '../redis/endpoint.ts';
import type { Reply } from './resp.ts';
import { encodeCommand, RedisReplyError, RespParser } from './resp.ts';

const CONNECT_MS_MAX = 5000;

interface Expected {
  left: number;
  readonly take: (reply: Reply) => void;
}

export class RedisWire {
  readonly #socket: Socket;
  readonly #parser = new RespParser();
  readonly #expected: Expected[] = [];
  #head = 0;
  #failed: Error | null = null;
  /** Called once when the connection ends other than by close(). */
  onLost: (error: Error) => void = () => {};

  /** `redis://[user:password@]host:port/db`, `rediss://` for TLS, `unix:///path`. */
  static async connect(url: string): Promise<RedisWire> {
    const endpoint = parseEndpoint(url);
    const { username, password, db } = endpoint;
    const wire = new RedisWire(await openSocket(endpoint));
    if (password !== '') await wire.call(['AUTH', ...(username === '' ? [] : [username]), password]);
    if (db !== 0) await wire.call(['SELECT', `${db}`]);
    return wire;
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk) => {
      try {
        this.#parser.push(chunk, (reply) => this.#reply(reply));
      } catch (error) {
        socket.destroy(error as Error);
      }
    });
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('Redis closed the connection')));
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

  close(): void {
    this.onLost = () => {};
    this.#socket.destroy();
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

function openSocket({ path, host, port, tls }: RedisEndpoint): Promise<Socket> {
  return new Promise((resolve, reject) => {
    let socket: Socket;
    if (tls !== null) socket = connectTls({ host, port, servername: tls.servername });
    else socket = connectTcp(path === null ? { host, port } : { path });
    const fail = (cause: Error) => {
      socket.destroy();
      reject(
        new SubitoError('REDIS_UNREACHABLE', `no Redis at ${path ?? `${host}:${port}`}: ${cause.message}`, {
          cause,
        }),
      );
    };
    const timer = setTimeout(() => fail(new Error('no connection in 5 s')), CONNECT_MS_MAX);
    socket.once('error', fail);
    socket.once(tls === null ? 'connect' : 'secureConnect', () => {
      clearTimeout(timer);
      socket.off('error', fail);
      socket.setNoDelay(true);
      resolve(socket);
    });
    socket.once('close', () => clearTimeout(timer));
  });
}
