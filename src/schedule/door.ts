/** What is known of a stream's entries at the moment, and which of them come in. */
import type { EntryColumns } from '../redis/stream-reply.ts';
import type { Admission } from './admission.ts';
import type { Batch } from './batch.ts';
import type { Queue } from './batcher.ts';
import { Codel } from './codel.ts';
import { FIELD, PRIORITY_DEFAULT } from './entry.ts';
import type { ModelLane } from './intake.ts';
import { bucketOf, KeyShares } from './key-shares.ts';
import { RESULT } from './slab.ts';
import { TIME } from './values.ts';

/**
 * Of the time that an event has, so much may pass in the stream before more is read than there is room for.
 */
const WAIT_SHARE_MAX = 0.2;

export interface DoorOptions {
  readonly admission: Admission<Batch>;
}

export class StreamDoor {
  /** That took the last entry. The next ones are probably for it too. */
  lane: ModelLane | null = null;
  /** Of the last entry. */
  priority: number = PRIORITY_DEFAULT;
  readonly codel = new Codel();
  readonly #keys = new KeyShares();
  /** Of those that were received together, the least part of its time that one has waited. */
  readonly #leastShare = Float64Array.of(Number.POSITIVE_INFINITY);
  readonly #options: DoorOptions;

  constructor(options: DoorOptions) {
    this.#options = options;
  }

  /** Bytes came in: what is read from here on was received now. */
  received(nowMs: number): void {
    const least = this.#leastShare[0] as number;
    if (least !== Number.POSITIVE_INFINITY) this.codel.waited(least, WAIT_SHARE_MAX, nowMs);
    this.#leastShare[0] = Number.POSITIVE_INFINITY;
  }

  /** An entry was read. */
  waited(times: Float64Array): void {
    const arrivedMs = times[TIME.arrivedMs] as number;
    const share =
      ((times[TIME.nowMs] as number) - arrivedMs) / ((times[TIME.deadlineMs] as number) - arrivedMs);
    if (share < (this.#leastShare[0] as number)) this.#leastShare[0] = share;
  }

  /** RESULT.ok, or why the entry is not taken. */
  verdict(queue: Queue<Batch>, buffer: Buffer, { fields }: EntryColumns, times: Float64Array): number {
    const isFree = times[TIME.deadlineMs] === Number.POSITIVE_INFINITY;
    if (isFree && !this.codel.shedding) return RESULT.ok;
    const { admission } = this.#options;
    const verdict = admission.admit(queue, times);
    if (verdict !== RESULT.ok || !this.codel.shedding) return verdict;
    const nowMs = times[TIME.nowMs] as number;
    if (admission.isFull(queue)) return RESULT.overloaded;
    // The second half of the room there is goes to keys that have not had their part.
    const bucket = bucketOf(buffer, fields[2 * FIELD.key] as number, fields[2 * FIELD.key + 1] as number);
    if (admission.isFull(queue, 0.5) && this.#keys.isAbove(bucket, nowMs)) return RESULT.overloaded;
    this.#keys.admitted(bucket);
    return RESULT.ok;
  }
}
