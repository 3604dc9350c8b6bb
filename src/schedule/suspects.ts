/**
 * Entries that had been given out before, each of which runs alone: with others of its kind in one slab, but
 * in a run of its own.
 */
import type { Batch } from './batch.ts';
import type { Batcher } from './batcher.ts';
import type { ModelLane } from './intake.ts';

/** In one slab: enough that a worker's turn costs less than what it does. */
const SUSPECTS_MAX = 16;

export class Suspects {
  readonly #batcher: Batcher<Batch>;
  /** Those that are not settled yet. */
  suspects = 0;
  /**
   * Of them, those beside which no other may be in hand, because if one of them ends the process, it must not
   * take another one's deliveries with it.
   */
  exclusive = 0;

  constructor(batcher: Batcher<Batch>) {
    this.#batcher = batcher;
  }

  /** How many may be read for these lanes now. */
  demand(lanes: readonly ModelLane[]): number {
    let rows = Number.POSITIVE_INFINITY;
    for (const lane of lanes) {
      const rowsMax = Math.min(SUSPECTS_MAX, lane.free[0]?.rowsMax ?? 0);
      rows = Math.min(rows, this.#batcher.freeAlone(lane) * rowsMax);
    }
    return rows;
  }

  /** The batch for one; null when there is none. One that was given out more than twice has it to itself. */
  room(lane: ModelLane, dataBytes: number, deliveries: number): Batch | null {
    const { suspects } = lane;
    if (suspects !== null) {
      const fits = suspects.arenaInUsed + dataBytes <= (suspects.layout?.arenaInBytes ?? 0);
      const isFull = suspects.rows === Math.min(SUSPECTS_MAX, suspects.rowsMax);
      if (fits && !isFull && suspects.deliveries === 2 && deliveries === 2) return suspects;
      this.#batcher.closeSuspects(lane);
    }
    const batch = this.#batcher.openSuspects(lane);
    if (batch !== null) batch.deliveries = deliveries;
    return batch;
  }

  taken(deliveries: number): void {
    this.suspects += 1;
    if (isExclusive(deliveries)) this.exclusive += 1;
  }

  /** Rows of a batch, suspects or not. */
  settled(rows: number, deliveries: number): void {
    if (deliveries < 2) return;
    this.suspects -= rows;
    if (isExclusive(deliveries)) this.exclusive -= rows;
  }
}

/** By the same rule lua/claim.lua hands it out by itself. */
function isExclusive(deliveries: number): boolean {
  return deliveries > 2;
}
