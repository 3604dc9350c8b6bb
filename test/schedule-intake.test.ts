// What intake makes of an entry: a row in its model's batch, or one among the rejected with the reason in
// words.
import { describe, expect, test } from 'vitest';
import { type Batch, ID_BYTES_MAX, ORIGIN_DIRECT, resultOf } from '../src/schedule/batch.ts';
import type { Answer } from '../src/schedule/direct.ts';
import { FORM, RESULT, ROW, ROW_COLUMNS } from '../src/schedule/slab.ts';
import {
  type Bench,
  type Fields,
  intakeBench,
  openOf,
  readyOf,
  streamOf,
  tensor,
  withEntry,
} from './support/batches.ts';

const ID = '1700000000000-0';
const ROW_BYTES = Buffer.from(new Float32Array([1, 2, 3]).buffer);
const MODELS = [
  { name: 'genre', deadlineMs: 700 },
  { name: 'free', inputs: [{ ...tensor('text', 0), dtype: 'string', rowBytes: 0 } as const] },
];

function take(
  bench: Bench,
  fields: Fields | null,
  id = ID,
  stream = streamOf(bench.lanes[0] ?? null),
): boolean {
  return withEntry(id, fields, (buffer, entry) => bench.intake.take(stream, buffer, entry));
}

/** The reason for which an entry is rejected; '' when it is taken. */
function reasonOf(fields: Fields | null, id = ID): string {
  const bench = intakeBench(MODELS);
  expect(take(bench, fields, id)).toBe(true);
  bench.batcher.flush();
  expect(bench.dispatched).toHaveLength(1);
  const { lane, batch } = bench.dispatched[0]!;
  expect(batch.id(0)).toBe(id);
  expect(batch.origin[0]).toBe(0);
  return lane === bench.rejects ? batch.details[0]! : '';
}

const features = ['features', ROW_BYTES];
const TRACE_ID = '4bf92f3577b34da6a3ce929d0e0e4736';
const SPAN_ID = '00f067aa0ba902b7';
const notTraceparent = /^trace: must be a W3C traceparent$/;

describe('refused, with the field, the value and the rule', () => {
  const cases: readonly (readonly [string, Fields | null, RegExp])[] = [
    ['nothing', [], /^data: missing; give features or data$/],
    ['neither payload', ['key', 'u1'], /^data: missing/],
    ['both payloads', [...features, 'data', '{}'], /^features: give features or data, not both$/],
    [
      'features too short',
      ['features', ROW_BYTES.subarray(0, 11)],
      /^features: 11 bytes; a row of genre has 12$/,
    ],
    ['features too long', ['features', Buffer.alloc(13)], /^features: 13 bytes; a row of genre has 12$/],
    ['features empty', ['features', ''], /^features: 0 bytes; a row of genre has 12$/],
    [
      'features of a free shape',
      ['model', 'free', ...features],
      /^features: free has inputs without a fixed size; use data$/,
    ],
    ['data too long', ['data', Buffer.alloc(1001)], /^data: 1001 bytes; at most 1000 are taken$/],
    ['key too long', [...features, 'key', 'k'.repeat(129)], /^key: 129 bytes; at most 128 are taken$/],
    ['key too long in bytes', [...features, 'key', 'é'.repeat(65)], /^key: 130 bytes/],
    ['event id too long', [...features, 'event', 'e'.repeat(65)], /^event: 65 bytes; at most 64 are taken$/],
    ['trace too long', [...features, 'trace', 't'.repeat(56)], /^trace: 56 bytes; a traceparent has 55$/],
    ['trace empty', [...features, 'trace', ''], notTraceparent],
    ['trace too short', [...features, 'trace', `00-${TRACE_ID}-${SPAN_ID}-0`], notTraceparent],
    ['trace of other text', [...features, 'trace', 't'.repeat(55)], notTraceparent],
    [
      'trace in capitals',
      [...features, 'trace', `00-${TRACE_ID.toUpperCase()}-${SPAN_ID}-01`],
      notTraceparent,
    ],
    ['trace id all zeros', [...features, 'trace', `00-${'0'.repeat(32)}-${SPAN_ID}-01`], notTraceparent],
    ['span id all zeros', [...features, 'trace', `00-${TRACE_ID}-${'0'.repeat(16)}-01`], notTraceparent],
    ['trace of no version', [...features, 'trace', `ff-${TRACE_ID}-${SPAN_ID}-01`], notTraceparent],
    ['trace with odd dashes', [...features, 'trace', `00_${TRACE_ID}-${SPAN_ID}-01`], notTraceparent],
    ['trace with odd flags', [...features, 'trace', `00-${TRACE_ID}-${SPAN_ID}-0g`], notTraceparent],
    [
      'deadline zero',
      [...features, 'deadline_ms', '0'],
      /^deadline_ms: must be a whole number from 1 to 3600000$/,
    ],
    ['deadline below zero', [...features, 'deadline_ms', '-1'], /^deadline_ms/],
    ['deadline in powers', [...features, 'deadline_ms', '1e99'], /^deadline_ms/],
    ['deadline with a point', [...features, 'deadline_ms', '1.5'], /^deadline_ms/],
    ['deadline empty', [...features, 'deadline_ms', ''], /^deadline_ms/],
    ['deadline with a space', [...features, 'deadline_ms', ' 5'], /^deadline_ms/],
    ['deadline too far', [...features, 'deadline_ms', '3600001'], /^deadline_ms/],
    ['deadline of many digits', [...features, 'deadline_ms', '9'.repeat(400)], /^deadline_ms/],
    [
      'priority unknown',
      [...features, 'priority', '3'],
      /^priority: must be 0 \(playing\), 1 \(prefetch\) or 2/,
    ],
    ['priority below zero', [...features, 'priority', '-1'], /^priority/],
    ['model unknown', ['model', 'genre@2', ...features], /^model: "genre@2" is not served here$/],
    ['model empty', ['model', '', ...features], /^model: "" is not served here$/],
    ['model of any length', ['model', 'm'.repeat(5000), ...features], /^model: "m{128}" is not served here$/],
    [
      'unknown field',
      [...features, 'colour', 'red'],
      /^colour: unknown field of an entry; known are key, model, features/,
    ],
    ['unknown field of any length', [...features, 'c'.repeat(900), 'red'], /^c{64}: unknown field/],
    ['field in capitals', [...features, 'Key', 'u1'], /^Key: unknown field/],
    ['deleted', null, /^the entry was deleted from the stream while it was pending$/],
  ];
  test.each(cases)('%s', (_, fields, reason) => {
    expect(reasonOf(fields)).toMatch(reason);
  });

  test('no model named, and none by default', () => {
    const bench = intakeBench(MODELS);
    expect(take(bench, features, ID, streamOf(null))).toBe(true);
    expect(openOf(bench.rejects)?.details[0]).toBe('model: missing, and the stream has no default model');
  });
});

describe('taken, at the very edge', () => {
  const cases: readonly (readonly [string, Fields])[] = [
    ['features alone', features],
    ['longest key', [...features, 'key', 'k'.repeat(128)]],
    ['empty key', [...features, 'key', '']],
    ['longest event id', [...features, 'event', 'e'.repeat(64)]],
    ['trace', [...features, 'trace', `00-${TRACE_ID}-${SPAN_ID}-01`]],
    ['trace of a later version', [...features, 'trace', `cc-${TRACE_ID}-${SPAN_ID}-ff`]],
    [
      'trace with the smallest ids',
      [...features, 'trace', `00-${'1'.padStart(32, '0')}-${'1'.padStart(16, '0')}-00`],
    ],
    ['shortest deadline', [...features, 'deadline_ms', '1']],
    ['longest deadline', [...features, 'deadline_ms', '3600000']],
    ['priority 0', [...features, 'priority', '0']],
    ['priority 2', [...features, 'priority', '2']],
    ['longest data', ['data', Buffer.alloc(1000)]],
    ['empty data, which its worker judges', ['data', '']],
    ['by name', ['model', 'genre', ...features]],
    ['by name and version', ['model', 'genre@1', ...features]],
  ];
  test.each(cases)('%s', (_, fields) => {
    expect(reasonOf(fields)).toBe('');
  });
});

test('only a later version of traceparent may say more', () => {
  const reasonWith = (trace: string): string | undefined => {
    const bench = intakeBench(MODELS, { traceBytesMax: 60 });
    take(bench, [...features, 'trace', trace]);
    return openOf(bench.rejects)?.details[0];
  };
  expect(reasonWith(`01-${TRACE_ID}-${SPAN_ID}-01-new`)).toBeUndefined();
  expect(reasonWith(`01-${TRACE_ID}-${SPAN_ID}-01new`)).toMatch(notTraceparent);
  expect(reasonWith(`00-${TRACE_ID}-${SPAN_ID}-01-new`)).toMatch(notTraceparent);
});

test('the columns and the slab hold what the entry said', () => {
  const bench = intakeBench([{ name: 'two', inputs: [tensor('a', 2), tensor('b', 3)], rowsMax: 3 }]);
  const values = (n: number) => Buffer.from(new Float32Array([n, n + 1, n + 2, n + 3, n + 4]).buffer);
  const id = '18446744073709551615-18446744073709551615';
  expect(id).toHaveLength(ID_BYTES_MAX);
  take(bench, ['features', values(10), 'key', 'ключ', 'event', 'e-1', 'deadline_ms', '5'], ID);
  take(bench, ['data', '{"a":1}', 'key', 'k'.repeat(128), 'event', 'e'.repeat(64)], id);
  take(bench, ['features', values(20)], '1700000000001-7');
  const batch = readyOf(bench.lanes[0]!)[0] as Batch;
  expect([batch.id(0), batch.id(1), batch.id(2)]).toEqual([ID, id, '1700000000001-7']);
  expect([batch.key(0), batch.key(1), batch.key(2)]).toEqual(['ключ', 'k'.repeat(128), '']);
  expect(batch.events.toString('utf8', 0, batch.eventBytes[0])).toBe('e-1');
  expect(batch.events.toString('utf8', 64, 64 + (batch.eventBytes[1] as number))).toBe('e'.repeat(64));
  expect(batch.eventBytes[2]).toBe(0);
  expect(batch.arrivedMs[0]).toBe(1_700_000_000_000);
  expect(batch.deadlineMs).toBe(1_700_000_000_005);
  const layout = batch.layout!;
  const floats = (input: number, row: number, n: number) => {
    const at = layout.inputOffsets[input]! + row * n * 4;
    return [...new Float32Array(batch.shared!, at, n)];
  };
  expect([floats(0, 0, 2), floats(1, 0, 3)]).toEqual([
    [10, 11],
    [12, 13, 14],
  ]);
  expect([floats(0, 2, 2), floats(1, 2, 3)]).toEqual([
    [20, 21],
    [22, 23, 24],
  ]);
  expect([0, 1, 2].map((row) => batch.table[row * ROW_COLUMNS + ROW.form])).toEqual([
    FORM.features,
    FORM.data,
    FORM.features,
  ]);
  const offset = layout.arenaInOffset + (batch.table[ROW_COLUMNS + ROW.inOffset] as number);
  const length = batch.table[ROW_COLUMNS + ROW.inLength] as number;
  expect(batch.memory.toString('utf8', offset, offset + length)).toBe('{"a":1}');
  expect(bench.intake.rowsInFlight).toBe(3);
});

test('the deadline comes from the event, else the stream, else the model, else the default', () => {
  const deadlineOf = (fields: Fields, streamMs: number, model: string) => {
    const bench = intakeBench([...MODELS, { name: 'plain' }]);
    const lane = bench.lanes.find(({ name }) => name === model)!;
    take(bench, [...features, ...fields], ID, { ...streamOf(lane), deadlineMs: streamMs });
    return openOf(lane)!.deadlineMs - 1_700_000_000_000;
  };
  expect(deadlineOf(['deadline_ms', '9'], 50, 'genre')).toBe(9);
  expect(deadlineOf([], 50, 'genre')).toBe(50);
  expect(deadlineOf([], 0, 'genre')).toBe(700);
  expect(deadlineOf([], 0, 'plain')).toBe(1000);
});

test('an arena that is full closes the batch and opens the next', () => {
  const bench = intakeBench([{ name: 'm', rowsMax: 4, batches: 3, arenaBytes: 1024 }]);
  const lane = bench.lanes[0]!;
  for (let i = 0; i < 2; i += 1) expect(take(bench, ['data', Buffer.alloc(600, i)])).toBe(true);
  expect([readyOf(lane).length, openOf(lane)?.rows, lane.free.length]).toEqual([1, 1, 1]);
  expect(openOf(lane)?.arenaInUsed).toBe(600);
  // The last free batch is not for streams: the entry has to wait, and the full batch leaves without it.
  expect(take(bench, ['data', Buffer.alloc(600)])).toBe(false);
  expect([readyOf(lane).length, openOf(lane), lane.free.length]).toEqual([2, null, 1]);
  expect(bench.intake.demand(streamOf(lane))).toBe(0);
  expect(bench.intake.rowsInFlight).toBe(2);
});

test('demand is what can really be taken, over the lanes that an entry may name', () => {
  const bench = intakeBench([
    { name: 'a', rowsMax: 4, batches: 3 },
    { name: 'b', rowsMax: 2, batches: 2 },
  ]);
  // The rejected have two batches of four rows, none of them reserved.
  expect(bench.intake.demand(streamOf(bench.lanes[0]!))).toBe(8);
  expect(bench.intake.demand(streamOf(null))).toBe(2);
  for (let i = 0; i < 8; i += 1) expect(take(bench, ['key', 'bad'])).toBe(true);
  expect(take(bench, ['key', 'bad'])).toBe(false);
  expect(bench.intake.demand(streamOf(bench.lanes[0]!))).toBe(0);
});

test('a request takes a row of its own kind, and finds one when streams have taken theirs', () => {
  const bench = intakeBench([{ name: 'm', rowsMax: 2, batches: 2, record: true }]);
  const lane = bench.lanes[0]!;
  while (take(bench, features));
  const answer = (_: Answer) => {};
  const event = {
    model: 'm',
    key: 'é'.repeat(100),
    event: 'x',
    data: new Uint8Array([1, 2]),
    json: true,
    deadlineMs: 9,
  };
  expect(bench.intake.takeDirect(lane, event, 5000.5, answer)).toBe(RESULT.ok);
  const batch = openOf(lane)!;
  expect(batch.origin[0]).toBe(ORIGIN_DIRECT);
  expect([batch.idBytes[0], batch.answers[0], batch.deadlineMs, batch.arrivedMs[0]]).toEqual([
    0,
    answer,
    5009.5,
    5000.5,
  ]);
  // Cut at the limit, never within a character.
  expect(batch.key(0)).toBe('é'.repeat(64));
});

test('a request that brings its row as it is finds it in the tensors', () => {
  const bench = intakeBench([{ name: 'two', inputs: [tensor('a', 2), tensor('b', 3)], rowsMax: 3 }]);
  const lane = bench.lanes[0]!;
  const rowOf = (first: number) => Buffer.from(Float32Array.from({ length: 5 }, (_, i) => first + i).buffer);
  const send = (data: Uint8Array) => {
    const event = { model: 'two', key: '', event: '', data, raw: true, json: true, deadlineMs: 9 };
    return bench.intake.takeDirect(lane, event, 5000, () => {});
  };
  expect([send(rowOf(1)), send(new Uint8Array(rowOf(6)))]).toEqual([RESULT.ok, RESULT.ok]);
  const { layout, shared, table, arenaInUsed } = openOf(lane)!;
  const floats = (i: number, count: number) =>
    Array.from(new Float32Array(shared as SharedArrayBuffer, layout!.inputOffsets[i]!, count));
  expect([floats(0, 4), floats(1, 6)]).toEqual([
    [1, 2, 6, 7],
    [3, 4, 5, 8, 9, 10],
  ]);
  expect([table[ROW.form], table[ROW_COLUMNS + ROW.form], arenaInUsed]).toEqual([
    FORM.features,
    FORM.features,
    0,
  ]);
  expect(() => send(rowOf(1).subarray(1))).toThrow(/a row of two@1 has 20 bytes, got 19/);
  expect(openOf(lane)!.rows).toBe(2);
});

describe('an entry that was given out before', () => {
  const again = (bench: Bench, id: string, deliveries: number, fields: Fields | null = features, mark = 9) =>
    withEntry(
      id,
      fields,
      (buffer, entry) => bench.intake.take(streamOf(bench.lanes[0]!), buffer, entry, mark),
      deliveries,
    );

  test('runs alone, beside the batch that fills, and is counted until it has run', () => {
    const bench = intakeBench([{ name: 'm', rowsMax: 4, batches: 4 }]);
    const [lane] = bench.lanes;
    expect(bench.intake.demandAlone(streamOf(lane!))).toBe(12);
    expect([again(bench, '1-0', 1), again(bench, '2-0', 2), again(bench, '3-0', 3)]).toEqual([
      true,
      true,
      true,
    ]);
    expect(bench.intake.alone).toMatchObject({ suspects: 2, exclusive: 1 });
    expect([openOf(lane!)?.rows, readyOf(lane!).map(({ rows }) => rows), lane!.suspects?.rows]).toEqual([
      1,
      [1],
      1,
    ]);
    // Of the last batch nothing is for streams; and beside that one nothing may run.
    expect([again(bench, '4-0', 2), bench.intake.demandAlone(streamOf(lane!))]).toEqual([false, 0]);
    bench.batcher.flush();
    expect(bench.dispatched.map(({ batch }) => [batch.id(0), batch.deliveries, batch.fences[0]])).toEqual([
      ['2-0', 2, 0],
      ['3-0', 3, 0],
      ['1-0', 1, 9],
    ]);
    for (const { batch } of bench.dispatched) bench.intake.released(lane!, batch, 0);
    expect(bench.intake.alone).toMatchObject({ suspects: 0, exclusive: 0 });
    expect(bench.intake.rowsInFlight).toBe(0);
  });

  test('shares a slab with others of its kind, as many as fit', () => {
    const bench = intakeBench([{ name: 'm', rowsMax: 40, batches: 4, arenaBytes: 1024 }]);
    const [lane] = bench.lanes;
    for (let n = 1; n <= 17; n += 1) expect(again(bench, `${n}-0`, 2)).toBe(true);
    expect([readyOf(lane!).map(({ rows }) => rows), lane!.suspects?.rows]).toEqual([[16], 1]);
    // Its bytes do not fit beside the others'.
    expect(again(bench, '18-0', 2, ['data', Buffer.alloc(900)])).toBe(true);
    expect(again(bench, '19-0', 2, ['data', Buffer.alloc(900)])).toBe(true);
    expect([readyOf(lane!).map(({ rows }) => rows), lane!.suspects?.rows]).toEqual([[16, 2], 1]);
    expect(bench.intake.alone).toMatchObject({ suspects: 19, exclusive: 0 });
    bench.batcher.flush();
    expect(bench.dispatched.map(({ batch }) => [batch.rows, batch.deliveries])).toEqual([
      [16, 2],
      [2, 2],
      [1, 2],
    ]);
  });

  test('is found in hand wherever its batch is, until it is settled', () => {
    const bench = intakeBench([{ name: 'm', rowsMax: 2, batches: 4 }]);
    const stream = streamOf(bench.lanes[0]!);
    for (const id of ['1-0', '1-1', '11-1', '2-0']) again(bench, id, 1);
    again(bench, '3-0', 2);
    bench.intake.reject(stream, '4-0', 'bad');
    const found = () =>
      ['1-0', '1-1', '11-1', '2-0', '3-0', '4-0'].filter((id) => bench.intake.isInHand(stream, id));
    expect(found()).toHaveLength(6);
    for (const id of ['1-2', '1-11', '1', '41-0']) expect(bench.intake.isInHand(stream, id)).toBe(false);
    expect(bench.intake.isInHand({ ...stream, index: 1 }, '1-0')).toBe(false);
    bench.batcher.flush();
    expect(found()).toHaveLength(6);
    for (const { batch } of bench.dispatched) batch.reset();
    expect(found()).toEqual([]);
  });

  test('and is with a worker is told apart from what only waits', () => {
    const bench = intakeBench([{ name: 'm', rowsMax: 2, batches: 4 }]);
    const stream = streamOf(bench.lanes[0]!);
    for (const id of ['1-0', '2-0', '3-0']) again(bench, id, 1);
    bench.intake.reject(stream, '4-0', 'bad');
    bench.batcher.flush();
    expect(bench.intake.runningIds(0)).toEqual([]);
    const [, first] = bench.dispatched;
    first!.batch.running = true;
    first!.batch.live = 2;
    expect([bench.intake.runningIds(0), bench.intake.runningIds(1)]).toEqual([['1-0', '2-0'], []]);
    first!.batch.reset();
    expect(bench.intake.runningIds(0)).toEqual([]);
  });

  test('and was deleted meanwhile, or was given out too often, is rejected with its reason', () => {
    const bench = intakeBench(MODELS);
    const stream = streamOf(bench.lanes[0]!);
    expect(again(bench, '1-0', 3, [])).toBe(true);
    expect(bench.intake.reject(stream, '2-0', 'too often', true)).toBe(true);
    bench.batcher.flush();
    const { batch } = bench.dispatched[0]!;
    expect(batch.details.slice(0, 2)).toEqual([expect.stringContaining('deleted'), 'too often']);
    expect([resultOf(batch, 0), resultOf(batch, 1)]).toEqual([RESULT.invalid, RESULT.failed]);
    expect(bench.intake.alone).toMatchObject({ suspects: 0, exclusive: 0 });
  });
});
