/** What is known of a stream's entries at the moment, and which of them come in. */
import type { EntryColumns } from '../redis/stream-reply.ts';
import type { Admission } from './admission.ts';
import type { Batch } from './batch.ts';
import type { Batcher, Queue } from './batcher.ts';
import { Codel } from './codel.ts';
import { FIELD, PRIORITY_DEFAULT } from './entry.ts';
import type { ModelLane } from './intake.ts';
import { bucketOf, KeyShares } from './key-shares.ts';
import { RESULT } from './slab.ts';

/**
 * Of the time that an event has, so much may pass in the stream before more is read than there is room for.
 */
const WAIT_SHARE_MAX = 0.2;

export interface DoorOptions {
  readonly batcher: Batcher<Batch>;
  readonly admission: Admission<Batch>;
}

export class StreamDoor {
  /** That took the last entry. The next ones are probably for it too. */
  lane: ModelLane | null = null;
  /** Of the last entry. */
  priority: number = PRIORITY_DEFAULT;
  readonly codel = new Codel();
  readonly #keys = new KeyShares();
  readonly #options: DoorOptions;

  constructor(options: DoorOptions) {
    this.#options = options;
  }

  /** An entry was read. Unix milliseconds; `deadlineMs` is Infinity where there is none. */
  waited(arrivedMs: number, deadlineMs: number, nowMs: number): void {
    this.codel.waited((nowMs - arrivedMs) / (deadlineMs - arrivedMs), WAIT_SHARE_MAX, nowMs);
  }

  /** RESULT.ok, or why the entry is not taken. */
  verdict(
    queue: Queue<Batch>,
    buffer: Buffer,
    { fields }: EntryColumns,
    deadlineMs: number,
    nowMs: number,
  ): number {
    const { admission, batcher } = this.#options;
    const verdict = admission.admit(queue, deadlineMs, nowMs);
    if (verdict !== RESULT.ok || !this.codel.shedding) return verdict;
    if (admission.roomOf(queue.lane) === 0) return RESULT.overloaded;
    // The second half of the room there is goes to keys that have not had their part.
    const bucket = bucketOf(buffer, fields[2 * FIELD.key] as number, fields[2 * FIELD.key + 1] as number);
    const isHalfFull = batcher.rowsOf(queue) > batcher.freeRows(queue);
    if (isHalfFull && this.#keys.isAbove(bucket, nowMs)) return RESULT.overloaded;
    this.#keys.admitted(bucket);
    return RESULT.ok;
  }
}
