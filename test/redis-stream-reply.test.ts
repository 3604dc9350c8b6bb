// The columnar parser against a plain reference: random replies, cut anywhere, refused at random.
import { expect, test } from 'vitest';
import { type EntryColumns, StreamReplyParser } from '../src/redis/stream-reply.ts';
import { forSeeds, type Random } from './support/random.ts';

const FIELDS = ['key', 'features', 'data', 'priority'];
const ENTRY_BYTES_MAX = 200;

interface Entry {
  readonly id: string;
  /** Null: deleted from the stream, still pending. */
  readonly pairs: readonly (readonly [Buffer, Buffer])[] | null;
  /** Undefined: XREADGROUP does not say. */
  readonly deliveries?: number;
}
type Reply =
  | { readonly error: string }
  | { readonly entries: readonly Entry[] | null; readonly head?: string };

/** What the owner is told, as text: comparable and readable in a failure. */
type Event = string;

const bulk = (value: Buffer) =>
  Buffer.concat([Buffer.from(`$${value.length}\r\n`), value, Buffer.from('\r\n')]);

function encodeEntry({ id, pairs, deliveries }: Entry): Buffer {
  const isClaimed = deliveries !== undefined;
  const head = Buffer.concat([Buffer.from(isClaimed ? '*3\r\n' : '*2\r\n'), bulk(Buffer.from(id))]);
  // A script cannot answer with nil here.
  if (pairs === null && !isClaimed) return Buffer.concat([head, Buffer.from('*-1\r\n')]);
  const values = (pairs ?? []).flat().map(bulk);
  const end = Buffer.from(isClaimed ? `:${deliveries}\r\n` : '');
  return Buffer.concat([head, Buffer.from(`*${values.length}\r\n`), ...values, end]);
}

function encodeReply(reply: Reply): Buffer {
  if ('error' in reply) return Buffer.from(`-${reply.error}\r\n`);
  if (reply.entries === null) return Buffer.from('*-1\r\n');
  const name = bulk(Buffer.from(reply.head ?? 'events'));
  const count = Buffer.from(`*${reply.entries.length}\r\n`);
  const head = Buffer.concat([Buffer.from('*1\r\n*2\r\n'), name, count]);
  return Buffer.concat([head, ...reply.entries.map(encodeEntry)]);
}

function randomValue(random: Random): Buffer {
  const kind = random.int(0, 5);
  if (kind === 0) return Buffer.alloc(0);
  if (kind === 1) return Buffer.from('a\r\n$3\r\n*2\r\n-ERR\r\n');
  if (kind === 2) return random.bytes(random.int(100, 400));
  return random.bytes(random.int(1, 30));
}

function randomEntry(random: Random, n: number, isClaimed: boolean): Entry {
  const claimed = isClaimed ? { deliveries: random.pick([0, 1, 2, 6, 123_456]) } : {};
  const id = `${1_700_000_000_000 + n}-${random.int(0, 3)}`;
  if (random.chance(0.1)) return { id, pairs: null, ...claimed };
  const names = [...FIELDS, 'Key', 'datas', '', 'x'.repeat(random.int(1, 40))];
  const pairs = Array.from(
    { length: random.int(isClaimed ? 1 : 0, 5) },
    () => [Buffer.from(random.pick(names)), randomValue(random)] as const,
  );
  return { id, pairs, ...claimed };
}

function randomReply(random: Random): Reply {
  const kind = random.int(0, 9);
  if (kind === 0) return { error: 'LOADING Redis is loading the dataset in memory' };
  if (kind === 1) return { entries: null };
  const isClaim = random.chance(0.4);
  return {
    entries: Array.from({ length: random.int(0, 8) }, (_, n) => randomEntry(random, n, isClaim)),
    ...(isClaim ? { head: random.pick(['', '1700000000000 -', '17 1700000000000-3']) } : {}),
  };
}

function entryEvent(entry: Entry): Event {
  const deliveries = entry.deliveries ?? 1;
  if (encodeEntry(entry).length > ENTRY_BYTES_MAX) return `oversize ${entry.id} ${deliveries}`;
  const known: string[] = [];
  let unknown = '';
  for (const [name, value] of entry.pairs ?? []) {
    const at = FIELDS.indexOf(name.toString('latin1'));
    if (at >= 0) known[at] = value.toString('hex');
    else if (unknown === '') unknown = `unknown:${name.toString('latin1')}`;
  }
  const fields = FIELDS.map((_, i) => known[i] ?? 'none').join(',');
  const state = `${entry.pairs === null ? 'deleted' : ''} ${deliveries}`;
  return `entry ${entry.id} ${state} ${fields} ${unknown}`;
}

function referenceEvents(replies: readonly Reply[]): Event[] {
  return replies.flatMap((reply) => {
    if ('error' in reply) return [`error ${reply.error}`];
    const entries = reply.entries ?? [];
    const head = reply.entries === null ? [] : [`head ${reply.head ?? 'events'}`];
    return [...head, ...entries.map(entryEvent), `end ${entries.length}`];
  });
}

/** The owner's side: a receive buffer that moves its bytes as the socket does. */
class Owner {
  readonly events: Event[] = [];
  readonly #parser: StreamReplyParser;
  #waiting = Buffer.alloc(0);
  waitingMax = 0;

  constructor(refuses: () => boolean) {
    const take = (event: Event) => {
      if (refuses()) return false;
      this.events.push(event);
      return true;
    };
    this.#parser = new StreamReplyParser({
      fields: FIELDS,
      entryBytesMax: ENTRY_BYTES_MAX,
      onEntry: (buffer, entry) => take(columnsEvent(buffer, entry)),
      onOversize: (id, deliveries) => take(`oversize ${id} ${deliveries}`),
      onHead: (buffer, start, end) => this.events.push(`head ${buffer.toString('latin1', start, end)}`),
      onReplyEnd: (entries) => this.events.push(`end ${entries}`),
      onError: (message) => this.events.push(`error ${message}`),
    });
  }

  get refused(): boolean {
    return this.#parser.refused;
  }

  receive(chunk: Buffer): void {
    // Bytes in front and behind, so that an offset taken from the wrong place shows.
    const pad = Buffer.alloc(3, '*');
    const buffer = Buffer.concat([pad, this.#waiting, chunk, pad]);
    const end = buffer.length - pad.length;
    const next = this.#parser.parse(buffer, pad.length, end);
    if (next < pad.length || next > end)
      throw new Error(`stopped at ${next}, outside of ${pad.length} to ${end}`);
    this.#waiting = Buffer.from(buffer.subarray(next, end));
    if (!this.refused) this.waitingMax = Math.max(this.waitingMax, this.#waiting.length);
  }
}

function columnsEvent(buffer: Buffer, entry: EntryColumns): Event {
  const text = (start: number, end: number, as: BufferEncoding) => buffer.toString(as, start, end);
  const fields = FIELDS.map((_, i) => {
    const start = entry.fields[2 * i] as number;
    return start < 0 ? 'none' : text(start, entry.fields[2 * i + 1] as number, 'hex');
  });
  const unknown =
    entry.unknownStart < 0 ? '' : `unknown:${text(entry.unknownStart, entry.unknownEnd, 'latin1')}`;
  const id = text(entry.idStart, entry.idEnd, 'latin1');
  const state = `${entry.deleted ? 'deleted' : ''} ${entry.deliveries}`;
  return `entry ${id} ${state} ${fields.join(',')} ${unknown}`;
}

test('any stream of replies, cut anywhere and refused at random, gives what the reference gives', () => {
  forSeeds(3000, (random) => {
    const replies = Array.from({ length: random.int(1, 5) }, () => randomReply(random));
    const bytes = Buffer.concat(replies.map(encodeReply));
    const refusals = random.pick([0, 0.2, 0.7]);
    const owner = new Owner(() => random.chance(refusals));
    const chunkMax = random.pick([1, 7, 64, 1000, 100_000]);
    for (let at = 0; at < bytes.length; ) {
      const size = random.int(1, chunkMax);
      owner.receive(bytes.subarray(at, at + size));
      // A refusal stops the receiving; what has come is offered again without a further byte.
      while (owner.refused) owner.receive(Buffer.alloc(0));
      at += size;
    }
    expect(owner.events).toEqual(referenceEvents(replies));
    expect(owner.waitingMax).toBeLessThan(ENTRY_BYTES_MAX);
  });
});

test('a reply that will not be completed is forgotten', () => {
  const owner = new Owner(() => false);
  const parser = new StreamReplyParser({
    fields: FIELDS,
    entryBytesMax: ENTRY_BYTES_MAX,
    onEntry: () => true,
    onOversize: () => true,
    onReplyEnd: (entries) => owner.events.push(`end ${entries}`),
    onError: () => {},
  });
  const reply = encodeReply({
    entries: [
      { id: '1-1', pairs: [] },
      { id: '1-2', pairs: [] },
    ],
  });
  parser.parse(reply, 0, reply.length - 5);
  parser.reset();
  expect(parser.parse(reply, 0, reply.length)).toBe(reply.length);
  expect(owner.events).toEqual(['end 2']);
});

test('bytes that are no such reply throw, and never loop', () => {
  const entry = (rest: string) => `*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n${rest}`;
  const hostile = [
    '+OK\r\n',
    'HTTP/1.1 400 Bad Request\r\n',
    '*2\r\n*2\r\n$1\r\na\r\n*0\r\n',
    '*1\r\n*3\r\n$1\r\na\r\n*0\r\n',
    '*1\r\n$2\r\n',
    '*one\r\n',
    `*${'1'.repeat(64)}`,
    '*1\r\n*2\r\n$-1\r\n*0\r\n',
    // A length below zero would send the cursor back, for as often as the entry claims to have fields.
    entry('*1000000000000000\r\n$1\r\na\r\n$-15\r\n'),
    entry('*2\r\n$-3\r\n\r\n$1\r\na\r\n'),
    entry('*2\r\n:1\r\n$1\r\na\r\n'),
  ];
  for (const text of hostile) {
    const owner = new Owner(() => false);
    expect(() => owner.receive(Buffer.from(text)), text).toThrow();
  }
  forSeeds(2000, (random) => {
    const owner = new Owner(() => false);
    const alphabet = ['*', '$', '-', '1', '2', '9', '\r\n', '*1\r\n*2\r\n$1\r\ns\r\n*3\r\n', 'a', '\0'];
    const text = Array.from({ length: random.int(1, 40) }, () => random.pick(alphabet)).join('');
    try {
      owner.receive(Buffer.from(text));
    } catch (error) {
      expect(error).toBeInstanceOf(Error);
    }
  });
});
