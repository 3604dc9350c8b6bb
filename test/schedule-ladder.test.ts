// The ladder's rungs, and the cache of last predictions, on batches filled by hand.
import { expect, test } from 'vitest';
import { Batch } from '../src/schedule/batch.ts';
import { Ladder, type Rung, rungOf } from '../src/schedule/ladder.ts';
import { LastKnown } from '../src/schedule/last-known.ts';
import { ENCODING, RESULT, ROW, ROW_COLUMNS, slabLayout } from '../src/schedule/slab.ts';
import { fillBatch, type RowSpec, tensor } from './support/batches.ts';

const LAYOUT = slabLayout([tensor('features', 1)], [tensor('out', 1)], 8, 64);
const PLENTY = { entriesMax: 100, bytesMax: 1e6, ageMsMax: 1000 };
const CONSTANT: Rung = { kind: 'constant', msgpack: Buffer.from('packed'), json: Buffer.from('text') };
const PREVIOUS: Rung = { kind: 'previous', slot: 7, label: 'm@1' };

const newBatch = () =>
  new Batch({ rowsMax: 8, layout: LAYOUT, slab: 0, keyBytesMax: 128, eventIdBytesMax: 64 });

const batchOf = (rows: readonly Partial<RowSpec>[]) =>
  fillBatch(
    newBatch(),
    rows.map((row, i) => ({ id: `${i + 1}-0`, ...row })),
  );

/** By row: rung, result, and what it says. */
function rowsOf(batch: Batch): string[] {
  return Array.from({ length: batch.rows }, (_, row) => {
    const at = row * ROW_COLUMNS;
    const start = batch.table[at + ROW.outOffset] as number;
    const text = batch.outputs.toString('utf8', start, start + (batch.table[at + ROW.outLength] as number));
    const result = Object.entries(RESULT).find(([, value]) => value === batch.table[at + ROW.result])?.[0];
    return `${rungOf(batch, row)} ${result} ${text}`;
  });
}

const all = (batch: Batch) => new Uint8Array(batch.rows).fill(1);
const fill = (ladder: Ladder, batch: Batch, changes: Partial<Parameters<Ladder['fill']>[1]> = {}) =>
  ladder.fill(batch, { wanted: all(batch), nowMs: 0, previousRan: false, reason: 'why', ...changes });

test('rungs are tried in their order, each row for itself', () => {
  const known = new LastKnown(PLENTY);
  const ladder = new Ladder([{ kind: 'last_known', known }, CONSTANT]);
  ladder.keep(
    batchOf([
      { key: 'a', output: 'for a' },
      { key: 'b', result: 'failed' },
    ]),
    2,
    0,
  );
  const batch = batchOf([{ key: 'a' }, { key: 'b' }, { key: '' }, { key: 'a' }]);
  batch.table[3 * ROW_COLUMNS + ROW.encoding] = ENCODING.json;
  expect(fill(ladder, batch, { nowMs: 1000 })).toBe(0);
  expect(rowsOf(batch)).toEqual([
    'last_known ok for a',
    'constant ok packed',
    'constant ok packed',
    'constant ok text',
  ]);
  batch.reset();
  expect(rungOf(batch, 0)).toBe('');
});

test('rows that no rung answers have failed, with the reason; others stay as they are', () => {
  const ladder = new Ladder([{ kind: 'last_known', known: new LastKnown(PLENTY) }]);
  const batch = batchOf([
    { result: 'invalid', output: 'x: missing' },
    { result: 'failed', output: 'why not' },
    {},
  ]);
  const wanted = Uint8Array.of(0, 1, 1);
  expect(fill(ladder, batch, { wanted })).toBe(2);
  expect(rowsOf(batch)).toEqual([' invalid x: missing', ' failed why', ' failed why']);
  const kept = batchOf([{ result: 'failed', output: 'its own reason' }]);
  expect(fill(ladder, kept, { reason: null })).toBe(1);
  expect(rowsOf(kept)).toEqual([' failed its own reason']);
});

test('what the previous version gave is one rung of several; what it calls invalid is', () => {
  const known = new LastKnown(PLENTY);
  known.keep('a', ENCODING.msgpack, Buffer.from('known'), 0, 5, 0);
  const rows = [
    { key: 'a', output: 'old' },
    { key: 'b', output: 'old' },
    { key: 'c', result: 'failed', output: 'no' },
    { key: 'a', result: 'invalid', output: 'x: missing' },
  ] as const;
  const options = { previousRan: true, reason: null };
  const first = batchOf(rows);
  fill(new Ladder([PREVIOUS, { kind: 'last_known', known }, CONSTANT]), first, options);
  expect(rowsOf(first)).toEqual([
    'previous ok old',
    'previous ok old',
    'constant ok packed',
    ' invalid x: missing',
  ]);
  const second = batchOf(rows);
  const ladder = new Ladder([{ kind: 'last_known', known }, PREVIOUS]);
  expect(ladder.needsPrevious(second, all(second), 0)).toBe(true);
  expect(ladder.needsPrevious(second, Uint8Array.of(1, 0, 0, 1), 0)).toBe(false);
  expect(fill(ladder, second, options)).toBe(1);
  expect(rowsOf(second)).toEqual([
    'last_known ok known',
    'previous ok old',
    ' failed no',
    ' invalid x: missing',
  ]);
});

test('answers that are larger than the slab have memory of their own', () => {
  const long = Buffer.alloc(1000, 'x');
  const batch = batchOf([{}, {}]);
  fill(new Ladder([{ ...CONSTANT, msgpack: long }]), batch);
  expect(rowsOf(batch)).toEqual([`constant ok ${long}`, `constant ok ${long}`]);
});

const put = (known: LastKnown, key: string, text: string, nowMs = 0) => {
  const bytes = Buffer.from(`--${text}--`);
  known.keep(key, ENCODING.msgpack, bytes, 2, bytes.length - 2, nowMs);
};
const get = (known: LastKnown, key: string, nowMs = 0) => {
  const bytes = known.get(key, ENCODING.msgpack, nowMs);
  return bytes === undefined ? null : Buffer.from(bytes).toString();
};

test('of each key the last one is known, in its encoding, until it is too old', () => {
  const known = new LastKnown(PLENTY);
  put(known, 'a', 'one');
  put(known, 'a', 'two');
  put(known, 'b', 'other');
  expect([get(known, 'a', 1000), get(known, 'b'), get(known, 'c')]).toEqual(['two', 'other', null]);
  expect(known.get('a', ENCODING.json, 0)).toBeUndefined();
  put(known, 'a', 'longer than before', 500);
  expect(get(known, 'a', 1500)).toBe('longer than before');
  expect(get(known, 'a', 1501)).toBeNull();
  expect(get(known, 'b', 1501)).toBeNull();
  expect([known.entries, known.bytes]).toEqual([0, 0]);
});

test('there are never more entries or bytes than allowed: the oldest go first', () => {
  const few = new LastKnown({ ...PLENTY, entriesMax: 2 });
  for (const key of ['a', 'b', 'a', 'c']) put(few, key, key);
  expect(['a', 'b', 'c'].map((key) => get(few, key))).toEqual(['a', null, 'c']);
  const small = new LastKnown({ ...PLENTY, bytesMax: 10_000 });
  for (let i = 0; i < 1000; i += 1) {
    put(small, `k${i % 70}`, 'x'.repeat((i * 37) % 900));
    expect(small.bytes).toBeLessThanOrEqual(10_000);
  }
  expect(small.entries).toBeGreaterThan(5);
  put(small, 'huge', 'x'.repeat(20_000));
  expect([small.entries, small.bytes]).toEqual([0, 0]);
});
