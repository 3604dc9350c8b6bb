/**
 * How events reach the engine and answers come back: what the driver asks of the three ways.
 */

import type { LoadOptions } from './options.ts';
import type { PacingReport } from './paced-way.ts';

/**
 * Reports the outcome of event `seq`; `code` is '' for a good answer, `degraded` for one of the ladder's.
 * `entryMs`: from its entry id, -1 if unknown.
 */
export type Settle = (seq: number, code: string, entryMs?: number) => void;

export interface Way {
  /** Resolves when events can be sent. Rejects with a SubitoError. */
  open(): Promise<void>;
  /** May hold the event back until `flush`, which follows at once. */
  send(seq: number): void;
  flush(): void;
  /**
   * Waits a moment for what may still come without being asked for (duplicates, dead letters), then closes.
   */
  close(): Promise<void>;
  /** Things the user should know: connections raised, clocks compared. */
  readonly notes: readonly string[];
  /** Of a way that is kept to a suggested rate. */
  pacing?(): PacingReport;
}

/** Event ids of a run: `<run>-<seq>`. Gives the number, or -1 for an id of another run. */
export function eventNumber(run: string, id: string | undefined): number {
  if (id === undefined || id.length <= run.length || !id.startsWith(run) || id[run.length] !== '-') return -1;
  const seq = Number(id.slice(run.length + 1));
  return Number.isInteger(seq) ? seq : -1;
}

export const eventId = (run: string, seq: number) => `${run}-${seq}`;

/** Spreads events over keys so that neighbours in time have different keys. */
export const keyOf = (seq: number, { keys, keyPrefix }: Pick<LoadOptions, 'keys' | 'keyPrefix'>) =>
  `${keyPrefix}${seq % keys}`;

/** The code of a prediction: its status, unless that is ok. */
export function statusCode(status: string | undefined): string {
  return status === undefined || status === 'ok' ? '' : status;
}
