/** What an audit found: how many entries are in which state, and what is off. */
import { compareIds, type EntryId, type IdTable, idText } from './ids.ts';
import { OUTCOMES } from './outcomes.ts';

/**
 * Every entry is in exactly one. `trimmed`: delivered, not pending, and its outcome may have been trimmed
 * from the predictions, as older ones were. `lost`: the same, but its outcome would still be there.
 */
export const STATES = [...OUTCOMES, 'unread', 'pending', 'trimmed', 'lost'] as const;
export type State = (typeof STATES)[number];

export const OFFENCES = [
  'lost',
  'duplicates',
  'orphans',
  'ghosts',
  'settledPending',
  'settledUnread',
] as const;
export type Offence = (typeof OFFENCES)[number];

export interface StateReport {
  readonly count: number;
  /** Null when there is none. */
  readonly oldest: string | null;
  /** By the server's clock, when the audit began. */
  readonly ageMs: number | null;
}

export interface AuditReport {
  readonly stream: string;
  readonly group: string;
  readonly predictions: string;
  readonly deadletters: string;
  /** False: there is nothing to audit. */
  readonly exists: boolean;
  /** False: what has no outcome counts as unread. */
  readonly groupExists: boolean;
  /** Entries up to this id were looked at. */
  readonly horizon: string;
  readonly entries: number;
  readonly states: Readonly<Record<State, StateReport>>;
  /** Events with an outcome whose entries were trimmed from the stream's front, as they may be. */
  readonly trimmedEntries: number;
  /** Ids in order, by what is off about them. */
  readonly offences: Readonly<Record<Offence, readonly string[]>>;
  /** No offence. Unread and pending entries are none. */
  readonly clean: boolean;
}

/** Counts entries by state, and remembers the oldest. */
export class Tally {
  readonly #counts = STATES.map(() => 0);
  readonly #oldest: (EntryId | null)[] = STATES.map(() => null);

  /** `state` is its place in STATES; the places of OUTCOMES are the same. */
  add(state: number, id: EntryId): void {
    this.#counts[state]! += 1;
    const oldest = this.#oldest[state]!;
    if (oldest === null || compareIds(id, oldest) < 0) this.#oldest[state] = id;
  }

  get entries(): number {
    return this.#counts.reduce((sum, count) => sum + count, 0);
  }

  states(nowMs: number): Record<State, StateReport> {
    const states = STATES.map((name, at) => {
      const id = this.#oldest[at]!;
      const ageMs = id === null ? null : Math.max(0, Math.round(nowMs - id.ms));
      return [name, { count: this.#counts[at]!, oldest: id === null ? null : idText(id), ageMs }];
    });
    return Object.fromEntries(states) as Record<State, StateReport>;
  }
}

export function textsOf(tables: Readonly<Record<Offence, IdTable>>): Record<Offence, string[]> {
  const texts = OFFENCES.map((name) => [name, tables[name].texts()]);
  return Object.fromEntries(texts) as Record<Offence, string[]>;
}
