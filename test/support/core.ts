// What the tests of the stream path share: notices, waiting, a TCP relay that misbehaves.
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { channels, type NoticeReport } from '../../src/observe/channels.ts';
import { parseEndpoint, type RedisEndpoint } from '../../src/redis/endpoint.ts';
import type { TestRedis } from './redis.ts';

/** Collects the notices published from now on. */
export function collectNotices(): {
  readonly codes: () => string[];
  readonly all: NoticeReport[];
  stop: () => void;
} {
  const all: NoticeReport[] = [];
  const handler = (notice: unknown) => all.push(notice as NoticeReport);
  channels.notice.subscribe(handler);
  return { all, codes: () => all.map(({ code }) => code), stop: () => channels.notice.unsubscribe(handler) };
}

/** Waits until `condition` holds; fails with `what` after `msMax`. */
export async function until(
  what: string,
  condition: () => unknown | Promise<unknown>,
  msMax = 8000,
): Promise<void> {
  const giveUpAt = performance.now() + msMax;
  while (!(await condition())) {
    if (performance.now() > giveUpAt) throw new Error(`not within ${msMax} ms: ${what}`);
    await sleep(2);
  }
}

export function endpointOf(redis: TestRedis, port = redis.port): RedisEndpoint {
  const url = new URL(redis.url);
  url.port = String(port);
  return parseEndpoint(url.href, redis.ca === '' ? {} : { tls: { ca: redis.ca } });
}

/** Stands between a client and a server, and loses what it is told to lose. */
export class Relay {
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  /** Answers of the server are thrown away. */
  dropReplies = false;
  /** Nothing passes either way, and no connection ends: a cable that was pulled. */
  silent = false;
  connections = 0;
  readonly #kept: { readonly client: Socket; readonly chunk: Buffer }[] = [];
  #keeping = false;
  repliedBytes = 0;

  constructor(targetPort: number) {
    this.#server = createServer((client) => {
      this.connections += 1;
      const server = createConnection({ port: targetPort, host: '127.0.0.1' });
      const pair = [client, server] as const;
      this.#pairs.add(pair);
      const silentFromStart = this.silent;
      client.on('data', (chunk) => this.silent || silentFromStart || server.write(chunk));
      server.on('data', (chunk) => {
        if (this.silent || this.dropReplies || silentFromStart) return;
        this.repliedBytes += chunk.length;
        if (this.#keeping) {
          this.#kept.push({ client, chunk });
          return;
        }
        client.write(chunk);
      });
      for (const end of pair) {
        end.on('error', () => {});
        end.on('close', () => {
          this.#pairs.delete(pair);
          client.destroy();
          server.destroy();
        });
      }
    });
  }

  /** Listens on `port`; 0: on any free one. */
  static async to(targetPort: number, port = 0): Promise<Relay> {
    const relay = new Relay(targetPort);
    await new Promise<void>((resolve) => relay.#server.listen(port, '127.0.0.1', resolve));
    return relay;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  /** Answers are kept back from now on; then let through in one piece. */
  keepReplies(): void {
    this.#keeping = true;
  }

  get keptReplies(): number {
    return this.#kept.length;
  }

  passReplies(): void {
    this.#keeping = false;
    const kept = this.#kept.splice(0);
    for (const client of new Set(kept.map((one) => one.client))) {
      client.write(Buffer.concat(kept.filter((one) => one.client === client).map(({ chunk }) => chunk)));
    }
  }

  /** Ends every connection at once. */
  cut(): void {
    for (const [client] of this.#pairs) client.resetAndDestroy();
  }

  close(): void {
    this.cut();
    this.#server.close();
  }
}
