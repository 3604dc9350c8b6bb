/**
 * Checks the delivery ledger of one stream against what lies in Redis, while engines may be at work on it. It
 * only reads.
 *
 * Order is what makes a moving ledger readable. The group's last delivered id first, then what is pending,
 * then the outcomes: an entry that was delivered by the first moment and not pending at the second had been
 * settled by then, so its outcome must be among those read after it. What is pending is then read once more,
 * for the opposite question: an entry whose outcome had been read and that is pending still, is both. What
 * looks wrong all the same (a group may be made anew in between, a dead letter requeued) is looked at twice
 * more, each time after a pause, before it is called an offence. Duplicates need no second look: entries do
 * not change, and each was seen once.
 *
 * Memory: the sources of all outcomes and the pending ids, in an IdTable; about 40 bytes each at the most.
 * Input entries pass by in pages, and leave nothing but a count unless something is wrong with them.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Control } from '../redis/control.ts';
import { compareIds, type EntryId, ID_MIN, IdTable, idText } from './ids.ts';
import { countOutcomes, type OutcomeStreams, readOutcomes, removedUpToMs } from './outcomes.ts';
import { type AuditReport, type Offence, STATES, Tally, textsOf } from './report.ts';
import { knownId, Scan, type StreamInfo } from './scan.ts';

export interface AuditOptions extends OutcomeStreams {
  readonly stream: string;
  readonly group: string;
  /** Entries up to this id are looked at; default: those that are there at the start. */
  readonly horizon?: string;
  /** Called about once a page. */
  readonly onProgress?: (progress: AuditProgress) => void;
  /** Aborted: the audit rejects with its reason. */
  readonly signal?: AbortSignal;
}

export interface AuditProgress {
  readonly stream: string;
  /** What is being read. `again`: something looked wrong. */
  readonly stage: 'pending' | 'outcomes' | 'entries' | 'again';
  /** Entries read, of all that are to be read; a moving stream may yield more. */
  readonly done: number;
  readonly total: number;
}

/** Rejects with STREAM_UNUSABLE or REDIS_UNREACHABLE. */
export function auditStream(control: Control, options: AuditOptions): Promise<AuditReport> {
  return new Audit(control, options).run();
}

/** Long against a script of Redis and a claim, short against patience. */
const PAUSE_MS = 250;
/** Ids that are asked after at once. */
const ASK_AT_ONCE = 256;

const UNREAD = STATES.indexOf('unread');
const PENDING = STATES.indexOf('pending');
const TRIMMED = STATES.indexOf('trimmed');
const LOST = STATES.indexOf('lost');

class Audit {
  readonly #options: AuditOptions;
  readonly #scan: Scan;
  readonly #tally = new Tally();
  /** While the audit runs: what looks like an offence. */
  readonly #found: Record<Offence, IdTable> = {
    lost: new IdTable(),
    duplicates: new IdTable(),
    orphans: new IdTable(),
    ghosts: new IdTable(),
    settledPending: new IdTable(),
    settledUnread: new IdTable(),
  };
  readonly #strays: string[] = [];
  #horizon: EntryId = ID_MIN;
  #startedMs = 0;
  #trimmedEntries = 0;
  #stage: AuditProgress['stage'] = 'pending';
  #done = 0;
  #total = 0;

  constructor(control: Control, options: AuditOptions) {
    this.#options = options;
    this.#scan = new Scan(control, options.signal, (rows) => this.#progress(rows));
  }

  async run(): Promise<AuditReport> {
    const { stream, horizon } = this.#options;
    const info = await this.#info();
    if (info === null) return this.#report({ exists: false, groupExists: false });
    this.#horizon = horizon === undefined ? info.last : knownId(stream, horizon);
    this.#startedMs = info.nowMs;
    this.#total = info.length + (await countOutcomes(this.#scan, this.#options));
    const delivered = info.delivered;
    const pending = await this.#pending(ID_MIN, this.#horizon);
    this.#stage = 'outcomes';
    const outcomes = await this.#outcomes();
    const stillPending = await this.#pending(ID_MIN, this.#horizon);
    const now = await this.#info();
    this.#stage = 'entries';
    const deliveredNow = now?.delivered ?? null;
    const first = now?.first ?? null;
    await this.#walk({ delivered, deliveredNow, first, pending, stillPending, outcomes });
    await this.#lookAgain();
    return this.#report({ exists: true, groupExists: deliveredNow !== null });
  }

  #progress(rows: number): void {
    this.#done += rows;
    const { stream, onProgress } = this.#options;
    onProgress?.({ stream, stage: this.#stage, done: this.#done, total: Math.max(this.#total, this.#done) });
  }

  #info(): Promise<StreamInfo | null> {
    return this.#scan.info(this.#options.stream, this.#options.group);
  }

  #pending(from: EntryId, to: EntryId): Promise<IdTable> {
    return this.#scan.pending(this.#options.stream, this.#options.group, from, to);
  }

  /** The sources of all outcomes up to the horizon, tagged with the outcome. */
  async #outcomes(): Promise<IdTable> {
    const table = new IdTable();
    await readOutcomes(this.#scan, this.#options, ID_MIN, {
      outcome: (source, outcome) => {
        if (compareIds(source, this.#horizon) <= 0) table.push(source, outcome);
      },
      stray: (source) => this.#strays.push(source.toString('latin1', 0, STRAY_BYTES_MAX)),
    });
    table.sort();
    return table;
  }

  /** Goes along the entries, the outcomes and the pending ids at once, all in order of id. */
  async #walk(read: Readings): Promise<void> {
    const { stream } = this.#options;
    const removedMs = await removedUpToMs(this.#scan, this.#options);
    const outcomes = new Cursor(read.outcomes);
    const pending = new Cursor(read.pending);
    const stillPending = new Cursor(read.stillPending);
    const { first } = read;
    const withoutEntry = (id: EntryId, copies: number) => {
      if (copies > 1) this.#found.duplicates.push(id);
      if (first === null || compareIds(id, first) < 0) this.#trimmedEntries += 1;
      else this.#found.orphans.push(id);
    };
    for await (const page of this.#scan.pages(stream, ID_MIN, this.#horizon)) {
      for (const [text] of page) {
        const id = knownId(stream, text);
        outcomes.below(id, withoutEntry);
        pending.below(id, () => {});
        stillPending.below(id, (ghost) => this.#found.ghosts.push(ghost));
        const outcome = outcomes.tag;
        const copies = outcomes.at(id);
        const wasPending = pending.at(id) > 0;
        const isPending = stillPending.at(id) > 0;
        if (copies > 0) {
          this.#tally.add(outcome, id);
          if (copies > 1) this.#found.duplicates.push(id);
          if (isPending) this.#found.settledPending.push(id);
          const { deliveredNow } = read;
          if (deliveredNow !== null && compareIds(id, deliveredNow) > 0) this.#found.settledUnread.push(id);
        } else if (wasPending || isPending) this.#tally.add(PENDING, id);
        else this.#unsettled(id, read.delivered, removedMs);
      }
    }
    outcomes.below(PAST_ALL, withoutEntry);
    stillPending.below(PAST_ALL, (ghost) => this.#found.ghosts.push(ghost));
  }

  /** Neither pending nor with an outcome. */
  #unsettled(id: EntryId, delivered: EntryId | null, removedMs: number): void {
    if (delivered === null || compareIds(id, delivered) > 0) this.#tally.add(UNREAD, id);
    else if (id.ms <= removedMs) this.#tally.add(TRIMMED, id);
    else this.#found.lost.push(id);
  }

  async #lookAgain(): Promise<void> {
    const found = this.#found;
    const suspects = () =>
      found.lost.length +
      found.orphans.length +
      found.ghosts.length +
      found.settledPending.length +
      found.settledUnread.length;
    for (const round of [1, 2]) {
      if (suspects() === 0) return;
      this.#stage = 'again';
      await sleep(PAUSE_MS, undefined, { signal: this.#options.signal });
      // An outcome is younger than its event, where ids are of one clock; at last, be sure of it.
      if (found.lost.length > 0) await this.#stillLost(round === 1 ? found.lost.id(0).ms : 0);
      found.orphans = await this.#stillOrphans(found.orphans);
      found.ghosts = await this.#stillPendingOf(await this.#withoutEntry(found.ghosts));
      found.settledPending = await this.#stillPendingOf(found.settledPending);
      found.settledUnread = await this.#stillUnread(found.settledUnread);
    }
    for (const id of found.lost) this.#tally.add(LOST, id);
  }

  /** In the same order as the first time: delivered, pending, outcomes. */
  async #stillLost(fromMs: number): Promise<void> {
    const suspects = this.#found.lost;
    this.#found.lost = new IdTable();
    const delivered = (await this.#info())?.delivered ?? null;
    const pending = await this.#pending(suspects.id(0), suspects.id(suspects.length - 1));
    const outcomes = new Int8Array(suspects.length).fill(-1);
    await readOutcomes(
      this.#scan,
      this.#options,
      { ms: fromMs, seq: 0 },
      {
        outcome: (source, outcome) => {
          const place = suspects.indexOf(source);
          if (place !== -1) outcomes[place] = outcome;
        },
        stray: () => {},
      },
    );
    const removedMs = await removedUpToMs(this.#scan, this.#options);
    for (let place = 0; place < suspects.length; place += 1) {
      const id = suspects.id(place);
      if (outcomes[place] !== -1) this.#tally.add(outcomes[place]!, id);
      else if (pending.indexOf(id) !== -1) this.#tally.add(PENDING, id);
      else this.#unsettled(id, delivered, removedMs);
    }
  }

  async #stillOrphans(suspects: IdTable): Promise<IdTable> {
    const absent = await this.#withoutEntry(suspects);
    if (absent.length === 0) return absent;
    // Asked last: what is not behind the first entry now, was not when it was found absent.
    const first = (await this.#info())?.first ?? null;
    return filter(absent, (id) => {
      if (first !== null && compareIds(id, first) > 0) return true;
      this.#trimmedEntries += 1;
      return false;
    });
  }

  async #stillPendingOf(suspects: IdTable): Promise<IdTable> {
    if (suspects.length === 0) return suspects;
    const pending = await this.#pending(suspects.id(0), suspects.id(suspects.length - 1));
    return filter(suspects, (id) => pending.indexOf(id) !== -1);
  }

  async #stillUnread(suspects: IdTable): Promise<IdTable> {
    if (suspects.length === 0) return suspects;
    const delivered = (await this.#info())?.delivered ?? null;
    return filter(suspects, (id) => delivered !== null && compareIds(id, delivered) > 0);
  }

  async #withoutEntry(suspects: IdTable): Promise<IdTable> {
    const absent = new IdTable();
    for (let from = 0; from < suspects.length; from += ASK_AT_ONCE) {
      const to = Math.min(suspects.length, from + ASK_AT_ONCE);
      const ids = Array.from({ length: to - from }, (_, at) => suspects.id(from + at));
      const present = await Promise.all(ids.map((id) => this.#scan.has(this.#options.stream, id)));
      for (const [at, id] of ids.entries()) if (!present[at]) absent.push(id);
    }
    return absent;
  }

  #report(is: { readonly exists: boolean; readonly groupExists: boolean }): AuditReport {
    const { stream, group, predictions, deadletters } = this.#options;
    const offences = textsOf(this.#found);
    offences.orphans.push(...this.#strays);
    return {
      ...{ stream, group, predictions, deadletters },
      ...is,
      horizon: idText(this.#horizon),
      entries: this.#tally.entries,
      states: this.#tally.states(this.#startedMs),
      trimmedEntries: this.#trimmedEntries,
      offences,
      clean: Object.values(offences).every((ids) => ids.length === 0),
    };
  }
}

/** Of a `source` that is no entry id, in reports. */
const STRAY_BYTES_MAX = 64;
const PAST_ALL: EntryId = { ms: Number.POSITIVE_INFINITY, seq: 0 };

interface Readings {
  /** Before all else. Null: there was no such group. */
  readonly delivered: EntryId | null;
  /** After the outcomes. */
  readonly deliveredNow: EntryId | null;
  /** After the outcomes. Null: the stream holds nothing. */
  readonly first: EntryId | null;
  /** Before and after the outcomes. */
  readonly pending: IdTable;
  readonly stillPending: IdTable;
  readonly outcomes: IdTable;
}

/** A place in a table; an id that is there several times counts as so many copies. */
class Cursor {
  readonly #table: IdTable;
  #place = 0;

  constructor(table: IdTable) {
    this.#table = table;
  }

  /** Of the id that comes next. */
  get tag(): number {
    return this.#place < this.#table.length ? this.#table.tag(this.#place) : 0;
  }

  /** Passes over the ids below this one. */
  below(id: EntryId, visit: (id: EntryId, copies: number) => void): void {
    while (this.#place < this.#table.length && this.#table.compare(this.#place, id) < 0) {
      const passed = this.#table.id(this.#place);
      visit(passed, this.at(passed));
    }
  }

  /** Passes over the copies of this id if it comes next; answers how many there are. */
  at(id: EntryId): number {
    const from = this.#place;
    while (this.#place < this.#table.length && this.#table.compare(this.#place, id) === 0) this.#place += 1;
    return this.#place - from;
  }
}

function filter(table: IdTable, keep: (id: EntryId) => boolean): IdTable {
  const kept = new IdTable();
  for (const id of table) if (keep(id)) kept.push(id);
  return kept;
}
