/** TCP ports of the loopback address that nobody listens on. */
import { createServer } from 'node:net';

const HOST = '127.0.0.1';
/**
 * Below those that systems give to outgoing connections (32,768 and up on Linux): one of these could take a
 * port before it is listened on.
 */
const PORT_MIN = 10_000;
const PORT_MAX = 32_767;
const ATTEMPTS_MAX = 100;

/** A port that was free a moment ago. Rejects when none of a hundred is. */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
    const port = PORT_MIN + Math.floor(Math.random() * (PORT_MAX - PORT_MIN));
    if (await isFree(port)) return port;
  }
  throw new Error(
    `none of ${ATTEMPTS_MAX} ports tried between ${PORT_MIN} and ${PORT_MAX} can be listened on`,
  );
}

export function isFree(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const server = createServer();
  server.once('error', () => resolve(false));
  server.listen({ host: HOST, port, exclusive: true }, () => server.close(() => resolve(true)));
  return promise;
}
