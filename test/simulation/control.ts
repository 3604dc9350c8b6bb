// What stands for redis/control.ts: commands and scripts over a simulated wire, answers as promises.
import type { Control } from '../../src/redis/control.ts';
import { encodeCommand } from '../../src/redis/resp.ts';
import { loadScript } from '../../src/redis/scripts.ts';
import { RealReplies } from '../support/real.ts';
import type { Route } from './connection.ts';
import { Wire } from './server.ts';
import { ErrorReply, Status, text, type Value } from './values.ts';

const COMMAND_MS_MAX = 5_000;

interface Asked {
  readonly resolve: (value: Value) => void;
  readonly reject: (error: Error) => void;
  /** It is not waited for any more. */
  readonly done: () => void;
}

/** As ioredis hands it on: text, or bytes. */
function plain(value: Value, asBuffers: boolean): unknown {
  if (typeof value === 'string') return asBuffers ? Buffer.from(value, 'latin1') : text(value);
  if (value instanceof Status) return asBuffers ? Buffer.from(value.text) : value.text;
  if (value instanceof ErrorReply) return new Error(value.text);
  if (Array.isArray(value)) return value.map((item) => plain(item, asBuffers));
  return typeof value === 'symbol' ? null : value;
}

export class SimControl implements Control {
  readonly #route: Route;
  wire: Wire | null = null;
  #replies = new RealReplies();
  #asked: Asked[] = [];
  #closed = false;

  constructor(route: Route) {
    this.#route = route;
  }

  async createGroup(): Promise<void> {
    throw new Error('groups are made by ensureGroup');
  }

  async lastId(): Promise<string> {
    throw new Error('nobody follows predictions here');
  }

  async append(): Promise<string> {
    throw new Error('nobody appends here');
  }

  async serverMs(): Promise<number> {
    throw new Error('nobody asks for the time here');
  }

  async backlog(stream: string): Promise<Awaited<ReturnType<Control['backlog']>>> {
    throw new Error(`nobody counts ${stream} here`);
  }

  call(command: string, ...args: readonly (string | number | Buffer)[]): Promise<unknown> {
    return this.#ask([command, ...args]).then((value) => plain(value, false));
  }

  callBuffer(command: string, ...args: readonly (string | number | Buffer)[]): Promise<unknown> {
    return this.#ask([command, ...args]).then((value) => plain(value, true));
  }

  async script(
    name: string,
    keys: readonly string[],
    args: readonly (string | number | Buffer)[],
  ): Promise<unknown> {
    const { sha, text: body } = loadScript(name);
    const rest = [keys.length, ...keys, ...args];
    try {
      return plain(await this.#ask(['EVALSHA', sha, ...rest]), false);
    } catch (error) {
      if (!(error as Error).message.startsWith('NOSCRIPT')) throw error;
      return plain(await this.#ask(['EVAL', body, ...rest]), false);
    }
  }

  unblock(clientId: string): void {
    this.#ask(['CLIENT', 'UNBLOCK', clientId]).catch(() => {});
  }

  close(): void {
    this.#closed = true;
    this.#lost('Connection is closed.');
  }

  #ask(args: readonly (string | number | Buffer)[]): Promise<Value> {
    const { clock, random, server: find } = this.#route;
    return new Promise((resolve, reject) => {
      const fail = (reason: string) => reject(new Error(reason));
      if (this.wire === null) {
        const server = this.#closed ? undefined : find();
        if (server === null) {
          clock.later(COMMAND_MS_MAX, () => fail('Command timed out'));
          return;
        }
        if (server === undefined || server.isDown) {
          clock.later(1, () => fail('Connection is closed.'));
          return;
        }
        this.#replies = new RealReplies();
        const wire: Wire = new Wire(
          clock,
          random,
          server,
          (bytes) => wire === this.wire && this.#received(bytes),
          () => wire === this.wire && this.#lost('Connection is closed.'),
        );
        this.wire = wire;
        wire.client.name = 'control';
      }
      const timeOut = () => {
        fail('Command timed out');
        // ioredis would go on; a connection that answers nothing is replaced in the end.
        if (this.wire?.isSilent === true && this.#asked.includes(asked)) this.#lost('Connection is closed.');
      };
      const asked: Asked = { resolve, reject, done: clock.later(COMMAND_MS_MAX, timeOut) };
      this.#asked.push(asked);
      this.wire.send(encodeCommand(args));
    });
  }

  #received(bytes: Buffer): void {
    this.#replies.push(bytes);
    for (;;) {
      const value = this.#replies.next();
      if (value === undefined) return;
      const asked = this.#asked.shift();
      asked?.done();
      if (value instanceof ErrorReply) asked?.reject(new Error(value.text));
      else asked?.resolve(value);
    }
  }

  #lost(reason: string): void {
    this.wire?.close();
    this.wire = null;
    for (const { reject, done } of this.#asked.splice(0)) {
      done();
      reject(new Error(reason));
    }
  }
}
