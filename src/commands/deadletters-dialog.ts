/** The question before work that cannot be taken back. */
import type { Readable, Writable } from 'node:stream';

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
