// What the addon does for batches on the main thread, against its twins: entries that it takes into rows, and
// rows that it writes for the commit script; random, odd, cut off and broken.
import { unpackMultiple } from 'msgpackr';
import { describe, expect, test } from 'vitest';
import type { Native, NativeBatchOptions } from '../src/native.ts';
import { nativeWriteRows, type WriteRows, writeRows } from '../src/publish/rows.ts';
import { CommandWriter, encodeBulk } from '../src/redis/resp.ts';
import { StreamReplyParser } from '../src/redis/stream-reply.ts';
import type { Batch } from '../src/schedule/batch.ts';
import { ENTRY_FIELDS } from '../src/schedule/entry.ts';
import type { IntakeStream } from '../src/schedule/intake.ts';
import { openNative } from '../src/schedule/many.ts';
import { RESULT } from '../src/schedule/slab.ts';
import {
  type Bench,
  fillBatch,
  INTAKE_LIMITS,
  intakeBench,
  type RowSpec,
  tensor,
} from './support/batches.ts';
import { native as found } from './support/native.ts';
import { forSeeds, type Random } from './support/random.ts';
import { newBatch } from './support/settle.ts';

const ENTRY_BYTES_MAX = 600;
/** The largest payload fits the smallest arena. */
const LIMITS = { ...INTAKE_LIMITS, payloadBytesMax: 400, entryBytesMax: ENTRY_BYTES_MAX };
const LANES = [
  { name: 'genre', deadlineMs: 700, rowsMax: 6, arenaBytes: 400 },
  { name: 'two', inputs: [tensor('a', 2), tensor('b', 5)], rowsMax: 5 },
  { name: 'free', inputs: [{ ...tensor('text', 0), dtype: 'string', rowBytes: 0 } as const] },
];
const TRACE = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

const native = found as Native;

function bench(withNative: boolean): Bench {
  const made = intakeBench(LANES, { ...LIMITS, native: withNative ? native : null });
  if (withNative) {
    for (const lane of made.lanes) {
      for (const batch of lane.all) {
        batch.handle = openNative(native, lane, batch, LIMITS);
      }
    }
  }
  return made;
}

/** Mostly what producers send; now and then anything. */
function randomFields(random: Random): Buffer[] {
  const fields: [string, Buffer][] = [];
  const add = (name: string, value: string | Buffer) => fields.push([name, Buffer.from(value as string)]);
  const model = random.pick(['', '', '', 'genre', 'genre@1', 'two', 'free', 'none', 'genr']);
  if (model !== '') add('model', model);
  if (random.chance(0.9)) add('key', 'k'.repeat(random.pick([0, 1, 5, 20, 128, 129])));
  const widths: Readonly<Record<string, number>> = { two: 28 };
  const width = random.chance(0.95) ? (widths[model] ?? 12) : random.int(0, 40);
  if (random.chance(0.6)) add('features', random.bytes(width));
  else add('data', random.bytes(random.pick([0, 1, 40, 90, 200, 399, 401])));
  if (random.chance(0.4)) add('event', 'e'.repeat(random.pick([0, 3, 36, 64, 65])));
  if (random.chance(0.2))
    add('trace', random.pick([TRACE, TRACE, 'cc'.repeat(28), `0f${TRACE.slice(2)}-x`, '']));
  if (random.chance(0.2))
    add('deadline_ms', random.pick(['1', '250', '3600000', '3600001', '0', '', 'x', '-1']));
  if (random.chance(0.2)) add('priority', random.pick(['0', '2', '3', '', '1.0']));
  if (random.chance(0.03)) add(random.pick(['datb', 'Key', '', 'features_']), 'x');
  if (random.chance(0.03)) add('key', 'again');
  if (random.chance(0.02)) add('data', random.bytes(700));
  return fields.flatMap(([name, value]) => [encodeBulk(name), encodeBulk(value)]);
}

function randomReply(random: Random): Buffer<ArrayBufferLike> {
  const entries = random.int(1, 30);
  const parts: Buffer[] = [Buffer.from(`*1\r\n*2\r\n$6\r\nevents\r\n*${entries}\r\n`)];
  for (let i = 0; i < entries; i += 1) {
    const id = `${1_700_000_000_000 + i}-${random.pick([0, 1, 18_446_744_073])}`;
    const fields = randomFields(random);
    const values = random.chance(0.02)
      ? [Buffer.from('*-1\r\n')]
      : [Buffer.from(`*${fields.length}\r\n`), ...fields];
    parts.push(Buffer.from('*2\r\n'), encodeBulk(id), ...values);
  }
  const reply = Buffer.concat(parts);
  if (random.chance(0.7)) return reply;
  // Broken: a byte is another, some are missing, or some are said twice.
  const at = random.int(0, reply.length - 1);
  const kind = random.int(0, 2);
  if (kind === 0) reply[at] = random.int(0, 255);
  if (kind === 1) return Buffer.concat([reply.subarray(0, at), reply.subarray(at + random.int(1, 9))]);
  if (kind === 2) return Buffer.concat([reply.subarray(0, at), reply.subarray(Math.max(0, at - 9))]);
  return reply;
}

interface Step {
  /** Bytes of the reply that have come by then. */
  readonly end: number;
  readonly mark: number;
  /** Batches that are settled then. */
  readonly settled: number;
}

function randomSteps(random: Random, bytes: number): Step[] {
  const ends = Array.from({ length: random.int(0, 6) }, () => random.int(0, bytes)).sort((a, b) => a - b);
  return [...ends, ...Array.from({ length: 40 }, () => bytes)].map((end) => ({
    end,
    mark: random.int(0, 3),
    settled: random.int(0, 2),
  }));
}

/** All that intake left in a batch. */
function left(name: string, batch: Batch): string {
  const { rows, arenaInUsed, deadlineMs, deliveries } = batch;
  const { idBytes, keyBytes, eventBytes, arrivedMs, readMs, deadlinesMs } = batch;
  const rest = [idBytes, keyBytes, eventBytes, arrivedMs, readMs, deadlinesMs];
  const columns = [...rest, batch.origin, batch.fences].map((column) => column.slice(0, rows).join());
  const texts = Array.from({ length: rows }, (_, row) => `${batch.id(row)} ${batch.key(row)}`);
  const bytes = [batch.ids, batch.keys, batch.events, batch.memory].map((part) => part.toString('base64'));
  return JSON.stringify([
    name,
    rows,
    arenaInUsed,
    deadlineMs,
    deliveries,
    columns,
    texts,
    bytes,
    batch.details,
  ]);
}

/** What came of a reply that arrived in these steps. */
function run(
  withNative: boolean,
  reply: Buffer,
  steps: readonly Step[],
  stream: Omit<IntakeStream, 'lane'>,
  lane: number,
) {
  const { batcher, intake, lanes, dispatched } = bench(withNative);
  const of = { ...stream, lane: lanes[lane] ?? null };
  const events: string[] = [];
  let mark = 0;
  let many = 0;
  const parser = new StreamReplyParser({
    fields: ENTRY_FIELDS,
    entryBytesMax: ENTRY_BYTES_MAX,
    onEntries: (buffer, start, end, max) => {
      const taken = intake.takeMany(of, buffer, start, end, max, mark);
      many += taken.entries;
      return taken;
    },
    onEntry: (buffer, entry) => intake.take(of, buffer, entry, mark),
    onOversize: (id) => intake.reject(of, id, 'too large'),
    onReplyEnd: (entries) => events.push(`end ${entries}`),
    onError: (message) => events.push(message),
  });
  let at = 0;
  try {
    for (const [i, step] of steps.entries()) {
      mark = step.mark;
      intake.received(1_700_000_000_500 + i);
      at = parser.parse(reply, at, step.end);
      batcher.flush();
      const free = batcher.freeRows(batcher.queue(lanes[0]!, of.index, 1));
      events.push(`${at} ${parser.refused} ${intake.rowsInFlight} ${free}`);
      for (const { lane: from, batch } of dispatched.splice(0, step.settled)) {
        events.push(left(from.name, batch));
        // Which of the free batches is next may differ; what the last event left in it must not show.
        for (const part of [batch.ids, batch.keys, batch.events, batch.memory]) part.fill(0);
        intake.released(from, batch, 0);
        batch.reset();
        batcher.release(from, batch);
        if (from.needsWorker) batcher.workerFreed();
      }
    }
  } catch (error) {
    events.push(`threw ${(error as Error).message}`);
  }
  return { events, many };
}

describe.runIf(found !== null)('entries', () => {
  test('taken as the twin takes them, odd and broken ones too', { timeout: 120_000 }, () => {
    let many = 0;
    forSeeds(4000, (random) => {
      const reply = randomReply(random);
      const steps = randomSteps(random, reply.length);
      const stream = { index: random.int(0, 3), deadlineMs: random.pick([0, 300]), json: random.chance(0.5) };
      const lane = random.int(-1, 2);
      const expected = run(false, reply, steps, stream, lane);
      const found = run(true, reply, steps, stream, lane);
      expect(found.events).toEqual(expected.events);
      many += found.many;
    });
    // Or the twin would have been compared with itself.
    expect(many).toBeGreaterThan(1500);
  });

  test('arguments that would lead out of the memory are refused', () => {
    const { lanes } = bench(true);
    const [lane] = lanes;
    const batch = lane!.all[0]!;
    const bytes = Buffer.from('*2\r\n');
    const fill = new Float64Array(9);
    const handle = batch.handle!;
    const calls: readonly (() => unknown)[] = [
      () => native.takeEntries(handle, bytes, 0, 5, 1, fill),
      () => native.takeEntries(handle, bytes, 3, 2, 1, fill),
      () => native.takeEntries(handle, bytes, 0, 4, 1, new Float64Array(3)),
      () => native.takeEntries(handle, bytes, 0, 4, 1, new Float64Array(9).fill(7)),
      () => native.takeEntries(handle, bytes, 0, 4, 1, new Float64Array(9).fill(Number.NaN)),
      () => native.takeEntries({} as never, bytes, 0, 4, 1, fill),
      () => native.takeEntries(Buffer.alloc(8) as never, bytes, 0, 4, 1, fill),
      () => native.takeEntries(handle, new Int32Array(4) as never, 0, 4, 1, fill),
      () => native.writeRows(handle, new Uint16Array(1), 2, bytes, 0, bytes, 0),
      () => native.writeRows(handle, new Uint16Array([999]), 1, bytes, 0, bytes, 0),
      () => native.writeRows(handle, new Uint16Array(1), 1, bytes, 0, bytes, 5),
    ];
    for (const call of calls) expect(call, String(call)).toThrow(/^(takeEntries|writeRows)/);
    const limits = { ...INTAKE_LIMITS, entryBytesMax: 100 };
    const given: NativeBatchOptions[] = [];
    const openBatch = (options: NativeBatchOptions) => {
      given.push(options);
      return native.openBatch(options);
    };
    openNative({ ...native, openBatch }, lane!, batch, limits);
    const options = given[0]!;
    const wrong: readonly Partial<NativeBatchOptions>[] = [
      { rowsMax: 7 },
      { table: new Int32Array(1) },
      { ids: Buffer.alloc(1) },
      { keyBytes: new Uint8Array(6) as never },
      { inputOffsets: [batch.memory.length - 8] },
      { inputOffsets: [] },
      { featuresBytes: 16 },
      { arenaBytes: batch.memory.length },
      { names: [1] as never },
      { deadlineMsMax: Number.NaN },
    ];
    for (const change of wrong) {
      expect(() => native.openBatch({ ...options, ...change }), JSON.stringify(change)).toThrow(/^openBatch/);
    }
  });
});

function randomRows(random: Random): { batch: Batch; picked: Uint16Array } {
  const batch = newBatch();
  const rows: RowSpec[] = Array.from({ length: random.int(1, 64) }, (_, row) => ({
    id: random.chance(0.1) ? '' : `${random.int(0, 1_800_000_000_000)}-${row}`,
    key: 'k'.repeat(random.pick([0, 1, 31, 32, 128])),
    event: random.chance(0.5) ? '' : 'e'.repeat(random.pick([1, 36, 64])),
    output: random.bytes(random.pick([0, 12, 31, 32, 255, 256, 3000])),
  }));
  if (random.chance(0.05)) rows[0] = { ...rows[0]!, output: random.bytes(70_000) };
  fillBatch(batch, rows, random.pick([1_700_000_000_000, 1_700_000_000_000.123, 900_000_000_000]));
  for (let row = 0; row < rows.length; row += 1) {
    if (random.chance(0.5)) batch.arrivedMs[row] = batch.dispatchedMs - random.int(0, 99_999) / 1000;
  }
  const picked = Uint16Array.from(rows.keys()).filter(() => random.chance(0.9));
  return { batch, picked };
}

function written(how: WriteRows, random: Random, batch: Batch, picked: Uint16Array): Buffer {
  const commands = new CommandWriter(random.pick([1, 64, 100_000]));
  commands.ascii('x');
  how(batch, picked, picked.length, commands);
  commands.ascii('y');
  return Buffer.from(commands.subarray(0, commands.length));
}

describe('rows for the commit script', () => {
  test('say what is in the batch', () => {
    forSeeds(300, (random) => {
      const { batch, picked } = randomRows(random);
      const bytes = written(writeRows, random, batch, picked);
      const head = /^\$1\r\nx\r\n\$(\d+)\r\n/.exec(bytes.toString('latin1'))!;
      const start = head[0].length;
      const end = start + Number(head[1]);
      expect(bytes.toString('latin1', end)).toBe('\r\n$1\r\ny\r\n');
      const columns: string[][] = [];
      let column: string[] = [];
      // As text of one byte a character: outputs are no UTF-8.
      const body = bytes.subarray(start, end);
      for (const text of strings(body)) {
        column.push(text);
        if (column.length < picked.length) continue;
        columns.push(column);
        column = [];
      }
      const rows = Array.from(picked);
      const at = (row: number) => row * 8;
      const outputs = rows.map((row) => {
        const from = batch.table[at(row) + 5]!;
        return batch.outputs.toString('latin1', from, from + batch.table[at(row) + 6]!);
      });
      const waits = rows.map((row) => {
        const us = Math.round((batch.dispatchedMs - batch.arrivedMs[row]!) * 1000);
        return String(Math.max(0, Math.min(us, 2 ** 31 - 1)));
      });
      const events = rows.map((row) =>
        batch.events.toString('utf8', row * 64, row * 64 + batch.eventBytes[row]!),
      );
      const ids = rows.map((row) => batch.id(row));
      const keys = rows.map((row) => batch.key(row));
      if (rows.length > 0) expect(columns).toEqual([ids, keys, events, waits, outputs]);
    });
  });

  test('are what a MessagePack library reads', () => {
    const batch = fillBatch(newBatch(), [{ id: '5-0', key: 'a', output: 'o'.repeat(300) }, { id: '6-0' }], 7);
    const commands = new CommandWriter(16);
    writeRows(batch, Uint16Array.of(0, 1), 2, commands);
    const text = commands.subarray(0, commands.length);
    const body = text.subarray(text.indexOf('\n') + 1, text.length - 2);
    const columns = [
      ['5-0', '6-0'],
      ['a', 'k'],
      ['', ''],
      ['2000', '1000'],
      ['o'.repeat(300), 'out'],
    ];
    expect(unpackMultiple(body)).toEqual(columns);
  });

  test.runIf(found !== null)(
    'are the same from the addon, whatever the lengths, and while the buffer grows',
    () => {
      forSeeds(2000, (random) => {
        const { batch, picked } = randomRows(random);
        const { lanes } = bench(false);
        const lane = { ...lanes[0]!, featuresBytes: 4, inputs: [tensor('features', 1)] };
        batch.handle = openNative(native, lane, batch, { ...INTAKE_LIMITS, entryBytesMax: 100 });
        const expected = written(writeRows, random, batch, picked);
        expect(written(nativeWriteRows(native), random, batch, picked).equals(expected)).toBe(true);
      });
    },
  );

  test.runIf(found !== null)('of a row table that points outside of the outputs are refused', () => {
    const { lanes } = bench(true);
    const batch = lanes[0]!.all[0]!;
    batch.rows = 1;
    batch.table[4] = RESULT.ok;
    for (const [offset, length] of [
      [0, 9],
      [-1, 2],
      [8, 1],
      [0, -1],
      [2 ** 31 - 1, 2 ** 31 - 1],
    ] as const) {
      batch.table[5] = offset;
      batch.table[6] = length;
      const write = () =>
        native.writeRows(batch.handle!, Uint16Array.of(0), 1, Buffer.alloc(8), 0, Buffer.alloc(99), 0);
      expect(write, `${offset} ${length}`).toThrow('writeRows: the row table points outside of the outputs');
    }
  });
});

/** The strings of MessagePack arrays of 16 bits, one byte a character. */
function* strings(body: Buffer): Generator<string> {
  for (let at = 0; at < body.length; ) {
    expect(body[at]).toBe(0xdc);
    const items = body.readUInt16BE(at + 1);
    at += 3;
    for (let i = 0; i < items; i += 1) {
      const head = body[at]!;
      const size = head < 0xc0 ? 0 : { 217: 1, 218: 2, 219: 4 }[head]!;
      const length = size === 0 ? head & 0x1f : body.readUIntBE(at + 1, size);
      at += 1 + size;
      yield body.toString('latin1', at, at + length);
      at += length;
    }
  }
}
