/**
 * Following the predictions stream (publish/tail.ts, redis/stream-tail.ts). It opens its own connection, so
 * there is a server for it in this process, which answers XREAD with what has been made before: what it
 * writes and the kernel copies is in the time, a few objects for each reply are in the memory.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { limitsDefault } from '../../src/limits.ts';
import { PredictionTail } from '../../src/publish/tail.ts';
import { parseEndpoint } from '../../src/redis/endpoint.ts';
import { type MicroCase, twinOnly } from './case.ts';
import { OUTPUT, remembered, reply } from './stream.ts';

const STREAM = 'predictions';
const EMPTY = Buffer.from('*-1\r\n');

function fields(event: number): (string | Buffer)[] {
  return [
    ...['source', `${1_763_900_000_000 + event}-0`],
    ...['event', `load-${event}`],
    ...['key', `user-${(event * 7919) % 100_000}`],
    ...['model', 'mlp@1'],
    ...['status', 'ok'],
    ...['outputs', OUTPUT],
    ...['wait_us', String(700 + event)],
    ...['infer_us', '84'],
  ];
}

/** Speaks as much of the protocol as the tail asks for. */
class Feed {
  readonly #server: Server;
  readonly #dir = mkdtempSync(join(tmpdir(), 'subito-micro-'));
  readonly path = join(this.#dir, 'feed.sock');
  #socket: Socket | null = null;
  /** What the next XREAD is answered with; null: it waits. */
  #next: Buffer | null = null;
  #waits = false;

  constructor() {
    this.#server = createServer((socket) => {
      this.#socket = socket;
      socket.setEncoding('latin1').on('data', (text: string) => this.#take(String(text)));
      socket.on('error', () => {});
    });
  }

  listen(): Promise<void> {
    return new Promise((resolve) => this.#server.listen(this.path, resolve));
  }

  /** One command at a time, as the tail sends them, but for the greeting. */
  #take(text: string): void {
    for (const [name] of text.matchAll(/SETNAME|\r\nID\r\n|XREAD/g)) {
      if (name === 'SETNAME') this.#socket?.write('+OK\r\n');
      else if (name !== 'XREAD') this.#socket?.write(':1\r\n');
      else {
        this.#waits = true;
        this.#answer();
      }
    }
  }

  /** The next XREAD gets this. */
  feed(bytes: Buffer): void {
    this.#next = bytes;
    this.#answer();
  }

  #answer(): void {
    if (!this.#waits || this.#next === null) return;
    const bytes = this.#next;
    this.#waits = false;
    this.#next = null;
    this.#socket?.write(bytes);
  }

  close(): void {
    this.#socket?.destroy();
    this.#server.close();
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

async function follow(name: string, wanted: boolean): Promise<MicroCase> {
  const replies = remembered((events) =>
    reply(
      STREAM,
      Array.from({ length: events }, (_, event) => fields(event)),
    ),
  );
  const feed = new Feed();
  await feed.listen();
  let left = 0;
  let done: () => void = () => {};
  const seen = () => {
    left -= 1;
    if (left === 0) done();
  };
  const tail = new PredictionTail({
    endpoint: parseEndpoint(`unix://${feed.path}`),
    stream: STREAM,
    entryBytesMax: limitsDefault.entryBytesMax,
    countMax: limitsDefault.readCountMax,
    blockMs: limitsDefault.readBlockMs,
    lastId: async () => '0-0',
    interested: () => {
      if (!wanted) seen();
      return wanted;
    },
    onPrediction: seen,
  });
  tail.start();
  tail.want(true);
  feed.feed(EMPTY);
  const work = (events: number) => {
    left = events;
    const { promise, resolve } = Promise.withResolvers<void>();
    done = resolve;
    feed.feed(replies(events));
    return promise;
  };
  const close = () => {
    tail.close();
    feed.close();
  };
  return { name, unit: 'prediction', variants: twinOnly(work), close };
}

export async function cases(): Promise<MicroCase[]> {
  return [await follow('nobody wants it', false), await follow('made a prediction', true)];
}
