/**
 * For models whose manifest says `latest_only`: an event whose key has a newer one need not be run any more,
 * if it has not been yet.
 */
import type { Batch } from './batch.ts';
import { RESULT } from './slab.ts';

interface Place {
  readonly batch: Batch;
  readonly row: number;
}

export class Latest {
  /** By key: its newest event, until a worker has it. As many as there are rows that wait. */
  readonly #waiting = new Map<string, Place>();

  /** A row was taken, and waits from now on. */
  taken(batch: Batch, row: number): void {
    const key = batch.key(row);
    if (key === '') return;
    const older = this.#waiting.get(key);
    if (older !== undefined) older.batch.verdicts[older.row] = RESULT.superseded;
    this.#waiting.set(key, { batch, row });
  }

  /** The batch waits no longer: its rows are where they were when they were taken. */
  leaves(batch: Batch): void {
    for (let row = 0; row < batch.rows; row += 1) {
      const key = batch.key(row);
      const place = this.#waiting.get(key);
      if (place?.batch === batch && place.row === row) this.#waiting.delete(key);
    }
  }
}
