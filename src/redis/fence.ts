/**
 * Tells whether rows that were read for the first time can still be nobody else's, so that a batch of them
 * may be acknowledged at once instead of row by row (lua/commit.lua).
 *
 * What could have come between reading and committing: entries changed hands, which changes the stream's
 * epoch in Redis, and the script compares it. Or the server is no longer the one that was read from (a
 * failover, a restart that lost a second of writes): then the committer has another connection. The mark
 * changes with either. A row carries the mark under which it was asked for; it is good while that is still
 * the present one. That a row had been delivered even before it was read, and Redis forgot, only the script
 * can tell (`contested`).
 */
export class Fence {
  #mark = 1;
  #epoch = '';

  /** Above 0. */
  get mark(): number {
    return this.#mark;
  }

  /** The stream's epoch as last heard; '' before that. */
  get epoch(): string {
    return this.#epoch;
  }

  /** A reply of Redis said the epoch. An old one that comes late does no harm: the script compares. */
  learn(epoch: string): void {
    if (epoch === this.#epoch) return;
    this.#epoch = epoch;
    this.#mark += 1;
  }

  /** The committer's connection was lost, or there is a new one. */
  reconnected(): void {
    this.#mark += 1;
  }
}
