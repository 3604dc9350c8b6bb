/**
 * Filling the input stream and reading the predictions: the same for all contestants that work on streams.
 */
import { seededRandom } from '../src/random.ts';
import { RedisReplyError } from '../src/redis/reply.ts';
import { encodeBulk } from '../src/redis/resp.ts';
import type { RedisWire } from '../src/redis/wire.ts';
import { ROW_FLOATS } from './peers/session.ts';

const CHUNK = 1000;
const PAGE = 5000;
export const KEYS = 1000;

/** Distinct payloads of 256 bytes, the same in every run. */
export const payloads: readonly Buffer[] = (() => {
  const random = seededRandom(7);
  return Array.from({ length: 256 }, () =>
    Buffer.from(Float32Array.from({ length: ROW_FLOATS }, () => random() * 2 - 1).buffer),
  );
})();

/** Adds `count` events named `<batch>-0` and so on. */
export async function fillStream(wire: RedisWire, batch: string, count: number): Promise<void> {
  const head = Buffer.concat([Buffer.from('*9\r\n'), ...['XADD', 'events', '*', 'key'].map(encodeBulk)]);
  const bodies = payloads.map((payload) =>
    Buffer.concat([encodeBulk('features'), encodeBulk(payload), encodeBulk('event')]),
  );
  for (let from = 0; from < count; from += CHUNK) {
    const parts: Buffer[] = [];
    const size = Math.min(CHUNK, count - from);
    for (let i = from; i < from + size; i++) {
      const key = encodeBulk(`load-${i % KEYS}`);
      parts.push(head, key, bodies[i % bodies.length]!, encodeBulk(`${batch}-${i}`));
    }
    await written(wire, Buffer.concat(parts), size);
  }
}

function written(wire: RedisWire, bytes: Buffer, replies: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let left = replies;
    wire.write(bytes, replies, (reply) => {
      if (reply instanceof RedisReplyError) reject(reply);
      else if (--left === 0) resolve();
    });
  });
}

/** Entries ever added to a stream, whatever was trimmed since. */
export async function added(wire: RedisWire, stream: string): Promise<number> {
  return Number((await streamInfo(wire, stream)).get('entries-added') ?? 0);
}

/** Unix milliseconds of the stream's last entry. */
export async function lastAddedMs(wire: RedisWire, stream: string): Promise<number> {
  const id = (await streamInfo(wire, stream)).get('last-generated-id') ?? '0-0';
  return Number(id.split('-')[0]);
}

async function streamInfo(wire: RedisWire, stream: string): Promise<Map<string, string>> {
  const info = new Map<string, string>();
  try {
    const flat = (await wire.call(['XINFO', 'STREAM', stream])) as unknown[];
    for (let i = 0; i < flat.length; i += 2) info.set(String(flat[i]), String(flat[i + 1]));
  } catch (error) {
    // Before the first prediction there is no stream.
    if (!(error as Error).message.includes('no such key')) throw error;
  }
  return info;
}

/**
 * Reads a whole stream and checks that each event of the batch is answered exactly once. `idOf` gives the
 * event's id from an entry's fields, or undefined for an entry that is no answer. Null when all is well, else
 * what is wrong.
 */
export async function verifyOnce(
  wire: RedisWire,
  stream: string,
  batch: string,
  count: number,
  idOf: (fields: readonly string[]) => string | undefined,
): Promise<string | null> {
  const seen = new Uint8Array(count);
  let answered = 0;
  let twice = 0;
  let from = '-';
  for (;;) {
    const entries = (await wire.call(['XRANGE', stream, from, '+', 'COUNT', `${PAGE}`])) as [
      string,
      string[],
    ][];
    for (const [, fields] of entries) {
      const id = idOf(fields);
      if (id === undefined || !id.startsWith(`${batch}-`)) continue;
      const index = Number(id.slice(batch.length + 1));
      if (seen[index] === 0) answered++;
      else twice++;
      seen[index] = 1;
    }
    if (entries.length < PAGE) break;
    from = `(${entries.at(-1)![0]}`;
  }
  if (answered === count && twice === 0) return null;
  return `${answered} of ${count} events answered, ${twice} more than once`;
}

export function field(fields: readonly string[], name: string): string | undefined {
  const at = fields.findIndex((value, index) => index % 2 === 0 && value === name);
  return at === -1 ? undefined : fields[at + 1];
}
