/**
 * Requests of an open loop over plain keep-alive sockets: little work for each, so that the generator does
 * not colour the figures. A request that finds all connections taken waits for one; that is part of its
 * latency.
 */
import type { Socket } from 'node:net';
import { createConnection } from 'node:net';
import type { Settle, Way } from '../../src/load/way.ts';

export interface SocketWayOptions {
  readonly url: string;
  readonly connections: number;
  readonly bodies: readonly string[];
}

const HEAD_END = '\r\n\r\n';

/** One connection with at most one request on its way. */
interface Line {
  readonly socket: Socket;
  /** -1: none. */
  seq: number;
  received: string;
}

export class SocketWay implements Way {
  readonly notes: string[] = [];
  readonly #options: SocketWayOptions;
  readonly #settle: Settle;
  readonly #requests: readonly Buffer[];
  readonly #free: Line[] = [];
  readonly #all: Line[] = [];
  readonly #waiting: number[] = [];
  #closed = false;

  constructor(options: SocketWayOptions, settle: Settle) {
    const { host, pathname } = new URL(options.url);
    this.#options = options;
    this.#settle = settle;
    const head = `POST ${pathname} HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\n`;
    this.#requests = options.bodies.map((body) =>
      Buffer.from(`${head}content-length: ${Buffer.byteLength(body)}${HEAD_END}${body}`),
    );
  }

  async open(): Promise<void> {
    const { url, connections } = this.#options;
    const { hostname, port } = new URL(url);
    await Promise.all(
      Array.from({ length: connections }, async () => {
        const socket = createConnection({ host: hostname, port: Number(port), noDelay: true });
        await new Promise<void>((resolve, reject) => {
          socket.once('connect', resolve);
          socket.once('error', reject);
        });
        this.#add(socket);
      }),
    );
  }

  send(seq: number): void {
    const line = this.#free.pop();
    if (line === undefined) this.#waiting.push(seq);
    else this.#ask(line, seq);
  }

  flush(): void {}

  async close(): Promise<void> {
    this.#closed = true;
    for (const { socket } of this.#all) socket.destroy();
  }

  #add(socket: Socket): void {
    const line: Line = { socket, seq: -1, received: '' };
    this.#all.push(line);
    this.#free.push(line);
    socket.setEncoding('latin1');
    socket.on('data', (text: string) => this.#take(line, text));
    socket.on('error', () => {});
    socket.on('close', () => {
      if (this.#closed) return;
      if (line.seq >= 0) this.#settle(line.seq, 'connection closed');
      line.seq = -1;
      const at = this.#free.indexOf(line);
      if (at >= 0) this.#free.splice(at, 1);
    });
  }

  #ask(line: Line, seq: number): void {
    line.seq = seq;
    line.received = '';
    line.socket.write(this.#requests[seq % this.#requests.length]!);
  }

  #take(line: Line, text: string): void {
    line.received += text;
    const bodyAt = line.received.indexOf(HEAD_END) + HEAD_END.length;
    if (bodyAt < HEAD_END.length || line.seq < 0) return;
    const length = /\r\ncontent-length: *(\d+)\r\n/i.exec(line.received.slice(0, bodyAt))?.[1];
    // Without a length it would have to be taken apart; none of the servers does that.
    if (length !== undefined && line.received.length < bodyAt + Number(length)) return;
    const status = line.received.slice(9, 12);
    const good = status === '200' && length !== undefined;
    const { seq } = line;
    line.seq = -1;
    this.#settle(seq, good ? '' : `HTTP ${status}${length === undefined ? ' without a length' : ''}`);
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(line);
    else this.#ask(line, next);
  }
}
