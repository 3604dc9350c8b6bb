/** What long or dangerous work says on the way: progress, and a question. */
import type { Readable, Writable } from 'node:stream';

const LIVE_MS = 200;
/** Where stderr is a file or a pipe: lines that somebody may read later. */
const LOGGED_MS = 10_000;

/** `1200 requeued` on stderr, once the work has taken a while. */
export class Progress {
  readonly #err: Writable & { readonly isTTY?: boolean };
  readonly #verb: string;
  #saidMs = performance.now();
  #said = false;

  constructor(err: Writable & { readonly isTTY?: boolean }, verb: string) {
    this.#err = err;
    this.#verb = verb;
  }

  at(count: number): void {
    const live = this.#err.isTTY === true;
    const nowMs = performance.now();
    if (nowMs - this.#saidMs < (live ? LIVE_MS : LOGGED_MS)) return;
    this.#saidMs = nowMs;
    this.#said = true;
    const text = `${count} ${this.#verb}`;
    this.#err.write(live ? `\r\x1b[K${text}` : `${text}\n`);
  }

  end(): void {
    if (this.#said && this.#err.isTTY === true) this.#err.write('\r\x1b[K');
  }
}

/** True for `y` or `yes`; the end of the input is a no. */
export async function confirm(input: Readable, err: Writable, question: string): Promise<boolean> {
  const { createInterface } = await import('node:readline');
  err.write(`${question}[y/N] `);
  const lines = createInterface({ input });
  try {
    const { promise, resolve } = Promise.withResolvers<string>();
    lines.once('line', resolve);
    lines.once('close', () => resolve(''));
    return /^y(es)?$/i.test((await promise).trim());
  } finally {
    lines.close();
  }
}
