/** The batcher: rows into open batches, batches to a worker and back. No bytes, no slabs. */
import { Batcher, type Schedulable } from '../../src/schedule/batcher.ts';
import { type MicroCase, ROWS_MAX, twinOnly } from './case.ts';

const BATCHES = 10;

function cycle(lanes: number): MicroCase {
  const running: Schedulable[] = [];
  const batcher = new Batcher<Schedulable>(1, (_lane, batch) => running.push(batch));
  const all = Array.from({ length: lanes }, (_, i) => {
    const batches = Array.from({ length: BATCHES }, () => ({
      rowsMax: ROWS_MAX,
      rows: 0,
      deadlineMs: Number.POSITIVE_INFINITY,
    }));
    return batcher.queue(batcher.addLane(`lane ${i}`, batches), 0, 1);
  });
  let turn = 0;
  const work = (events: number) => {
    const queue = all[turn++ % lanes]!;
    for (let row = 0; row < events; row++) {
      const open = batcher.open(queue);
      if (open === null) throw new Error('no room');
      open.rows += 1;
      open.deadlineMs = Math.min(open.deadlineMs, 1_700_000_000_000 + row);
      batcher.added(queue);
    }
    batcher.flush();
    const batch = running.pop();
    if (batch?.rows !== events) throw new Error('the batch was not dispatched');
    batcher.workerFreed();
    batch.rows = 0;
    batch.deadlineMs = Number.POSITIVE_INFINITY;
    batcher.release(queue.lane, batch);
    batcher.flush();
  };
  const name = lanes === 1 ? 'one model' : `${lanes} models in turn`;
  return { name, allocatesNothing: true, variants: twinOnly(work) };
}

export function cases(): MicroCase[] {
  return [cycle(1), cycle(8)];
}
