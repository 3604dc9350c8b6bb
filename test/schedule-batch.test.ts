// How many rows a batch may have, when that changes while the engine runs.
import { expect, test } from 'vitest';
import { Batch } from '../src/schedule/batch.ts';
import { Batcher } from '../src/schedule/batcher.ts';

const make = (slab: number) =>
  new Batch({ rowsMax: 8, layout: null, slab, keyBytesMax: 8, eventIdBytesMax: 8 });

test('a limit holds from the next time on that the batch is empty, and is never raised', () => {
  const batch = make(0);
  batch.rows = 5;
  batch.limitRows(3);
  expect(batch.rowsMax).toBe(8);
  batch.reset();
  expect(batch.rowsMax).toBe(3);
  batch.limitRows(6);
  expect(batch.rowsMax).toBe(3);
  batch.limitRows(2);
  expect(batch.rowsMax).toBe(2);
});

test('a batcher has room for no more rows than that', () => {
  const batcher = new Batcher<Batch>(0, () => {});
  const batches = [make(0), make(1), make(2)];
  const queue = batcher.queue(batcher.addLane('m', batches), 0, 1);
  // One is kept for direct requests.
  expect(batcher.freeRows(queue)).toBe(16);
  const open = batcher.open(queue) as Batch;
  for (let row = 0; row < 5; row++) {
    open.rows += 1;
    batcher.added(queue);
  }
  for (const batch of batches) batch.limitRows(3);
  expect(batcher.freeRows(queue)).toBe(3 + 3);
  while (queue.open !== null) {
    open.rows += 1;
    batcher.added(queue);
  }
  expect(open.rows).toBe(8);
  const next = batcher.open(queue) as Batch;
  expect(next.rowsMax).toBe(3);
});
