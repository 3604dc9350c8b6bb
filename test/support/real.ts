// A plain connection to a real redis-server: commands in, replies with their types kept, for comparison with
// the model of the simulation.
import { createConnection, type Socket } from 'node:net';
import { encodeCommand } from '../../src/redis/resp.ts';
import { ErrorReply, NIL_ARRAY, Status, type Value } from '../simulation/values.ts';

const INCOMPLETE = Symbol('incomplete');

/** Reads one reply of `text` from `at`; `next` is where it ends. */
export class RealReplies {
  #text = '';
  #at = 0;

  push(chunk: Buffer): void {
    this.#text = this.#text.slice(this.#at) + chunk.toString('latin1');
    this.#at = 0;
  }

  next(): Value | undefined {
    const start = this.#at;
    const value = this.#read();
    if (value !== INCOMPLETE) return value;
    this.#at = start;
    return undefined;
  }

  #read(): Value | typeof INCOMPLETE {
    const line = this.#text.indexOf('\r\n', this.#at);
    if (line < 0) return INCOMPLETE;
    const type = this.#text[this.#at];
    const rest = this.#text.slice(this.#at + 1, line);
    this.#at = line + 2;
    if (type === '+') return new Status(rest);
    if (type === '-') return new ErrorReply(rest);
    if (type === ':') return Number(rest);
    const length = Number(rest);
    if (type === '$') {
      if (length < 0) return null;
      if (this.#at + length + 2 > this.#text.length) return INCOMPLETE;
      this.#at += length + 2;
      return this.#text.slice(this.#at - length - 2, this.#at - 2);
    }
    if (length < 0) return NIL_ARRAY;
    const items: Value[] = [];
    for (let i = 0; i < length; i += 1) {
      const item = this.#read();
      if (item === INCOMPLETE) return INCOMPLETE;
      items.push(item);
    }
    return items;
  }
}

export class RealConnection {
  readonly #socket: Socket;
  readonly #replies = new RealReplies();
  readonly #waiting: ((value: Value) => void)[] = [];

  constructor(port: number) {
    this.#socket = createConnection({ port, host: '127.0.0.1', noDelay: true });
    this.#socket.on('data', (chunk) => {
      this.#replies.push(chunk);
      for (;;) {
        const value = this.#replies.next();
        if (value === undefined) break;
        this.#waiting.shift()?.(value);
      }
    });
  }

  call(...args: readonly (string | number)[]): Promise<Value> {
    this.#socket.write(encodeCommand(args.map((arg) => Buffer.from(String(arg), 'latin1'))));
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  close(): void {
    this.#socket.destroy();
  }
}
