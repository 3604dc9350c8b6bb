// Parting a batch into rows that run and rows that need not: whatever the mix, what belongs to a row stays
// with it.
import { expect, test } from 'vitest';
import { Batch, ID_BYTES_MAX, ORIGIN_DIRECT } from '../src/schedule/batch.ts';
import { cull } from '../src/schedule/cull.ts';
import type { AnswerCallback, Caller } from '../src/schedule/direct.ts';
import { ENCODING, FORM, RESULT, ROW, ROW_COLUMNS, slabLayout } from '../src/schedule/slab.ts';
import { tensor } from './support/batches.ts';
import { forSeeds, type Random } from './support/random.ts';

const ROWS_MAX = 16;
const READY_MS = 1000;
/** One of each kind: plain, without a region in the slab, and wider. */
const INPUTS = [
  tensor('a', 2),
  { ...tensor('text', 0), dtype: 'string', rowBytes: 0 } as const,
  tensor('b', 3),
];
const LAYOUT = slabLayout(INPUTS, [tensor('out', 1)], ROWS_MAX, 1024);

/** What a row is, told by its content alone: every column holds the row's own number in some form. */
interface Given {
  readonly n: number;
  readonly isData: boolean;
  readonly isDirect: boolean;
  /** RESULT. */
  readonly fate: number;
  readonly answer: AnswerCallback | null;
  readonly caller: Caller | null;
}

function newBatch(isTraced: boolean): Batch {
  const sizes = { keyBytesMax: 24, eventIdBytesMax: 10 };
  return new Batch({ rowsMax: ROWS_MAX, layout: LAYOUT, slab: 0, tracing: isTraced, ...sizes });
}

function featuresOf(n: number): number[][] {
  return [
    [n, n + 0.5],
    [-n, -n - 0.25, n * 3],
  ];
}

function put(batch: Batch, random: Random, n: number): Given {
  const row = batch.rows;
  const isDirect = random.chance(0.5);
  const isData = random.chance(0.5);
  const given = {
    n,
    isDirect,
    isData,
    fate: random.pick([RESULT.ok, RESULT.ok, RESULT.expired, RESULT.superseded, RESULT.cancelled]),
    answer: isDirect ? () => {} : null,
    caller: isDirect ? { gone: false } : null,
  };
  if (given.fate === RESULT.cancelled && given.caller === null) given.fate = RESULT.ok;
  if (given.fate === RESULT.cancelled) given.caller!.gone = true;
  // That it was superseded counts, whether somebody still waits and whether it is late or not.
  if (given.fate === RESULT.superseded) {
    batch.verdicts[row] = RESULT.superseded;
    if (given.caller !== null) given.caller.gone = random.chance(0.5);
  }
  const isLate = given.fate === RESULT.expired || (given.fate !== RESULT.ok && random.chance(0.5));
  batch.deadlinesMs[row] = isLate ? READY_MS - n : random.pick([READY_MS + n, Number.POSITIVE_INFINITY]);
  // At the very moment is in time.
  if (given.fate === RESULT.ok && random.chance(0.2)) batch.deadlinesMs[row] = READY_MS;
  batch.idBytes[row] = batch.ids.write(`${'1'.repeat(1 + (n % 30))}-${n}`, row * ID_BYTES_MAX);
  batch.keyBytes[row] = batch.keys.write(`key${n}`, row * batch.keyBytesMax);
  batch.eventBytes[row] = batch.events.write(`e${n}`, row * batch.eventIdBytesMax);
  batch.arrivedMs[row] = 10_000 + n;
  batch.readMs[row] = 20_000 + n;
  batch.origin[row] = isDirect ? ORIGIN_DIRECT : n % 7;
  batch.fences[row] = 30_000 + n;
  batch.answers[row] = given.answer;
  batch.callers[row] = given.caller;
  batch.keepTrace(row, `trace${n}`);
  const at = row * ROW_COLUMNS;
  batch.table[at + ROW.encoding] = n % 2 === 0 ? ENCODING.json : ENCODING.msgpack;
  batch.table[at + ROW.form] = isData ? FORM.data : FORM.features;
  if (isData) {
    const bytes = Buffer.from(`data of ${n}`);
    bytes.copy(batch.memory, LAYOUT.arenaInOffset + batch.arenaInUsed);
    batch.table[at + ROW.inOffset] = batch.arenaInUsed;
    batch.table[at + ROW.inLength] = bytes.length;
    batch.arenaInUsed += bytes.length;
  } else {
    placeFeatures(batch, row, n);
  }
  // Left by the batch before: must not be taken for an output of this one.
  batch.table[at + ROW.outOffset] = 777;
  batch.table[at + ROW.outLength] = 777;
  batch.rows += 1;
  return given;
}

function placeFeatures(batch: Batch, row: number, n: number): void {
  const [a = [], b = []] = featuresOf(n);
  for (const [input, values] of [[0, a] as const, [2, b] as const]) {
    const bytes = Buffer.from(new Float32Array(values).buffer);
    bytes.copy(batch.memory, LAYOUT.inputOffsets[input]! + row * INPUTS[input]!.rowBytes);
  }
}

function inputsAt(batch: Batch, row: number): number[][] {
  return [0, 2].map((input) => {
    const { elements, rowBytes } = INPUTS[input]!;
    const from = LAYOUT.inputOffsets[input]! + row * rowBytes;
    return Array.from({ length: elements }, (_, i) => batch.memory.readFloatLE(from + 4 * i));
  });
}

/** Everything in the columns at this row says the same number. */
function expectRow(batch: Batch, row: number, given: Given, deadlineMs: number): void {
  const { n } = given;
  const at = row * ROW_COLUMNS;
  expect(batch.id(row)).toBe(`${'1'.repeat(1 + (n % 30))}-${n}`);
  expect([batch.key(row), batch.event(row)]).toEqual([`key${n}`, `e${n}`]);
  expect([batch.arrivedMs[row], batch.readMs[row]]).toEqual([10_000 + n, 20_000 + n]);
  expect(batch.deadlinesMs[row]).toBe(deadlineMs);
  expect(batch.origin[row]).toBe(given.isDirect ? ORIGIN_DIRECT : n % 7);
  expect(batch.fences[row]).toBe(30_000 + n);
  expect(batch.answers[row]).toBe(given.answer);
  expect(batch.callers[row]).toBe(given.caller);
  if (batch.traces !== null) expect(batch.traces[row]).toBe(`trace${n}`);
  expect(batch.verdicts[row]).toBe(given.fate === RESULT.superseded ? RESULT.superseded : 0);
  expect(batch.table[at + ROW.encoding]).toBe(n % 2 === 0 ? ENCODING.json : ENCODING.msgpack);
  expect(batch.table[at + ROW.form]).toBe(given.isData ? FORM.data : FORM.features);
  if (!given.isData) return;
  const from = LAYOUT.arenaInOffset + batch.table[at + ROW.inOffset]!;
  expect(batch.memory.toString('utf8', from, from + batch.table[at + ROW.inLength]!)).toBe(`data of ${n}`);
}

test('rows that run come first, and all that belongs to a row stays together', () => {
  forSeeds(400, (random) => {
    const batch = newBatch(random.chance(0.5));
    const rows = Array.from({ length: random.int(1, ROWS_MAX) }, (_, i) => put(batch, random, i + 1));
    const deadlines = rows.map((_, row) => batch.deadlinesMs[row]!);
    cull(batch, INPUTS, READY_MS);
    const found = rows.map((_, row) => rows[batch.arrivedMs[row]! - 10_001]!);
    expect(new Set(found).size).toBe(rows.length);
    expect(batch.rows).toBe(rows.length);
    expect(batch.live).toBe(rows.filter(({ fate }) => fate === RESULT.ok).length);
    for (const [row, given] of found.entries()) {
      expectRow(batch, row, given, deadlines[given.n - 1]!);
      expect(given.fate === RESULT.ok).toBe(row < batch.live);
      if (row < batch.live && !given.isData) expect(inputsAt(batch, row)).toEqual(featuresOf(given.n));
      if (row < batch.live) continue;
      const at = row * ROW_COLUMNS;
      const { result, outOffset, outLength } = ROW;
      expect([result, outOffset, outLength].map((c) => batch.table[at + c])).toEqual([given.fate, 0, 0]);
    }
    expect(batch.isReordered).toBe(found.some((given, row) => given !== rows[row]));
  });
});

test('where all run, or only the last do not, nothing moves', () => {
  const batch = newBatch(false);
  const random = { chance: () => false, pick: <T>(items: readonly T[]) => items[0] } as unknown as Random;
  for (let n = 1; n <= 6; n += 1) put(batch, random, n);
  cull(batch, INPUTS, READY_MS);
  expect([batch.live, batch.isReordered]).toEqual([6, false]);
  batch.deadlinesMs.fill(READY_MS - 1, 4, 6);
  cull(batch, INPUTS, READY_MS);
  expect([batch.live, batch.isReordered]).toEqual([4, false]);
  batch.deadlinesMs.fill(READY_MS - 1);
  cull(batch, INPUTS, READY_MS);
  expect([batch.live, batch.isReordered]).toEqual([0, false]);
});

test('only who waits on a socket can have gone', () => {
  const batch = newBatch(false);
  const random = { chance: () => false, pick: <T>(items: readonly T[]) => items[0] } as unknown as Random;
  put(batch, random, 1);
  batch.callers[0] = { gone: true };
  cull(batch, INPUTS, READY_MS);
  expect(batch.live).toBe(1);
  batch.origin[0] = ORIGIN_DIRECT;
  cull(batch, INPUTS, READY_MS);
  expect([batch.live, batch.table[ROW.result]]).toEqual([0, RESULT.cancelled]);
});
