/**
 * Stands between the runner and the workers: asks each model's breaker before a batch goes there, tells it
 * what came of it, and has the ladder answer where the model cannot be asked.
 *
 *   before -> the model's slot, the previous version's slot, or ANSWERED
 *   after  -> ANSWERED, or the previous version's slot: the model has failed, and that is asked instead
 *
 * What counts against a model, by what the worker says of a batch's rows:
 * - Rows were run and none is ok, or their worker died or hung: the batch has failed. Which row's fault a
 *   death was is not known then; one that kills alone dies three times at most, a breaker needs more.
 * - Some row is ok: the model is well, and the rows that failed are at fault themselves. The worker has run
 *   those alone by then (Model), and has tried the provider (rescue), so one bad event fails no other.
 * - No row could be run, because all are invalid: that says nothing about the model.
 * - It took far longer than batches of its size did when they were measured: it was slow.
 * Nothing else counts: not Redis, not what never reached a worker, not a batch that had not begun.
 *
 * A batch that has failed is answered by the ladder as well, from the second in a row on: the first may be an
 * event's own fault, which belongs into the dead letters.
 *
 * A breaker without a ladder would only refuse what may yet go well. So where the manifest has neither
 * `degrade` nor `breaker`, batches go to the model whatever its breaker says: it is shown, and no more.
 */
import type { BreakerSettings } from '../infer/protocol.ts';
import { notice } from '../observe/channels.ts';
import type { BreakerFigure } from '../observe/sources.ts';
import type { Random } from '../random.ts';
import type { Batch } from './batch.ts';
import { Breaker, type BreakerState, type Permit } from './breaker.ts';
import type { Ladder } from './ladder.ts';
import { RESULT, ROW, ROW_COLUMNS } from './slab.ts';

/** In the place of a slot: the rows have their answers, no worker is needed. */
export const ANSWERED = -1;

export interface GuardedModel {
  readonly slot: number;
  /** `name@version`. */
  readonly label: string;
  readonly settings: BreakerSettings;
  /** Its breaker refuses batches while it is open. */
  readonly enforced: boolean;
  /** Empty for one without. */
  readonly ladder: Ladder;
}

export interface GuardOptions {
  /** The versions that are fallen back to included. */
  readonly models: readonly GuardedModel[];
  /** What the model in this slot runs on now. */
  readonly providerOf: (slot: number) => string;
  /** What a batch of so many rows took when that was measured, milliseconds; 0: not known. */
  readonly expectedMs: (slot: number, rows: number) => number;
  readonly probeMsMax: number;
  /** Milliseconds of a clock that only goes forward. */
  readonly now: () => number;
  readonly random: Random;
}

interface Entry extends GuardedModel {
  /** By provider; a model mostly has one. */
  readonly breakers: Map<string, Breaker>;
}

/** A batch on its way. */
interface Run {
  /** The model that its rows are for. */
  readonly entry: Entry;
  /** The one that runs it: that model, or the version before it. */
  readonly on: Entry;
  permit: Permit | null;
}

type Verdict = 'well' | 'failed' | 'nothing';

export class Guard {
  readonly #options: GuardOptions;
  /** By slot. */
  readonly #entries: (Entry | undefined)[] = [];
  /** By slab. */
  readonly #runs: (Run | undefined)[] = [];
  /**
   * By slab: when it may be worth while to ask again for rows that nothing could answer; 0: there are none.
   */
  readonly #retryMs: number[] = [];
  /** Of the batch at hand, by row, 1: it needs an answer. */
  #wanted = new Uint8Array(0);

  constructor(options: GuardOptions) {
    this.#options = options;
    for (const model of options.models) this.#entries[model.slot] = { ...model, breakers: new Map() };
  }

  /** `rows` of the batch are to run: which slot's model is to do it. */
  before(slot: number, batch: Batch, rows: number): number {
    this.#retryMs[batch.slab] = 0;
    const entry = this.#entries[slot];
    if (entry === undefined) return slot;
    const permit = this.#breakerOf(entry).request();
    if (permit === null && entry.enforced) return this.#descend(entry, batch, this.#want(rows, 1), true);
    this.#runs[batch.slab] = { entry, on: entry, permit };
    return slot;
  }

  /**
   * The workers have done with it. `ran`: rows from there on were not run after all (see `mayRunAlone`). The
   * batch's outputs are in place.
   */
  after(batch: Batch, rows: number, ran: number, inferUs: number): number {
    const run = this.#runs[batch.slab];
    if (run === undefined) return ANSWERED;
    this.#runs[batch.slab] = undefined;
    const { entry, on } = run;
    const verdict = judge(batch, ran);
    this.#tell(run, verdict, this.#isSlow(on.slot, batch, ran, inferUs));
    if (on !== entry) {
      this.#fill(entry, batch, this.#want(rows, 1), { previousRan: true, isRefused: false });
      return ANSWERED;
    }
    if (ran < rows) {
      this.#fill(entry, batch, this.#want(rows, 0).fill(1, ran), { previousRan: false, isRefused: true });
      return ANSWERED;
    }
    if (verdict === 'well') entry.ladder.keep(batch, rows, this.#options.now());
    if (verdict !== 'failed' || entry.ladder.isEmpty || !this.#breakerOf(entry).isInDoubt) return ANSWERED;
    const wanted = this.#want(rows, 0);
    for (let row = 0; row < rows; row += 1) if (resultAt(batch, row) === RESULT.failed) wanted[row] = 1;
    return this.#descend(entry, batch, wanted, false);
  }

  /** Its worker died or hung. Null: it may run again where it ran; else as `before`. */
  crashed(batch: Batch, rows: number): number | null {
    const run = this.#runs[batch.slab];
    if (run === undefined) return null;
    const { entry, on } = run;
    this.#tell(run, 'failed', false);
    if (on !== entry) {
      this.#runs[batch.slab] = undefined;
      this.#fill(entry, batch, this.#want(rows, 1), { previousRan: false, isRefused: true });
      return ANSWERED;
    }
    run.permit = this.#breakerOf(entry).request();
    if (run.permit !== null || !entry.enforced) return null;
    this.#runs[batch.slab] = undefined;
    return this.#descend(entry, batch, this.#want(rows, 1), true);
  }

  /** Asked before each row that runs alone because workers died: false, it and those behind it do not run. */
  mayRunAlone(batch: Batch): boolean {
    const run = this.#runs[batch.slab];
    if (run === undefined) return true;
    run.permit ??= this.#breakerOf(run.entry).request();
    return run.permit !== null || !run.entry.enforced;
  }

  /** What came of that row. */
  ranAlone(batch: Batch, row: number): void {
    const run = this.#runs[batch.slab];
    if (run !== undefined) this.#tell(run, verdictOf(resultAt(batch, row)), false);
  }

  /** Of a batch with rows that nothing could answer: milliseconds after which to ask again; 0: none such. */
  retryMs(batch: Batch): number {
    return this.#retryMs[batch.slab] ?? 0;
  }

  breakers(): readonly BreakerFigure[] {
    return this.#all().map(({ entry, provider, breaker }) => {
      return { model: entry.label, provider, state: breaker.state };
    });
  }

  /** One sentence for each breaker that is not closed. */
  compromises(): string[] {
    return this.#all().flatMap(({ entry, provider, breaker }) => {
      const words = WORDS[breaker.state];
      return breaker.state === 'closed' ? [] : [`${entry.label} on ${provider}: ${words}; ${means(entry)}`];
    });
  }

  /** Of the providers that are in use. */
  #all(): { readonly entry: Entry; readonly provider: string; readonly breaker: Breaker }[] {
    return this.#entries.flatMap((entry) => {
      if (entry === undefined) return [];
      const provider = this.#options.providerOf(entry.slot);
      const breaker = entry.breakers.get(provider);
      return breaker === undefined ? [] : [{ entry, provider, breaker }];
    });
  }

  /** Where the batch runs instead, or ANSWERED once the rows have what the rungs give. */
  #descend(entry: Entry, batch: Batch, wanted: Uint8Array, isRefused: boolean): number {
    const { ladder } = entry;
    const below = ladder.previous === null ? undefined : this.#entries[ladder.previous];
    if (below !== undefined && ladder.needsPrevious(batch, wanted, this.#options.now())) {
      const permit = this.#breakerOf(below).request();
      if (permit !== null) {
        this.#runs[batch.slab] = { entry, on: below, permit };
        // It may be beside the slab, from the run that failed.
        batch.outputs = batch.arenaOut;
        return below.slot;
      }
    }
    this.#fill(entry, batch, wanted, { previousRan: false, isRefused });
    return ANSWERED;
  }

  #fill(
    entry: Entry,
    batch: Batch,
    wanted: Uint8Array,
    { previousRan, isRefused }: { readonly previousRan: boolean; readonly isRefused: boolean },
  ): void {
    const nowMs = this.#options.now();
    const reason = isRefused ? refusalOf(entry) : null;
    const unanswered = entry.ladder.fill(batch, { wanted, nowMs, previousRan, reason });
    if (unanswered === 0 || !isRefused) return;
    this.#retryMs[batch.slab] = Math.max(1, Math.ceil(this.#breakerOf(entry).openForMs));
  }

  #tell(run: Run, verdict: Verdict, slow: boolean): void {
    const { permit } = run;
    run.permit = null;
    if (permit === null) return;
    if (verdict === 'nothing') permit.forget();
    else permit.done({ failed: verdict === 'failed', slow });
  }

  #isSlow(slot: number, batch: Batch, rows: number, inferUs: number): boolean {
    const { slowFactor, slowMsMin } = (this.#entries[slot] as Entry).settings;
    const tookMs = inferUs / 1000;
    // Most batches end here.
    if (tookMs <= slowMsMin || batch.crashes > 0) return false;
    const apart = batch.deliveries > 1;
    const expectedMs = this.#options.expectedMs(slot, apart ? 1 : rows) * (apart ? rows : 1);
    return expectedMs > 0 && tookMs > slowFactor * expectedMs;
  }

  #breakerOf(entry: Entry): Breaker {
    const provider = this.#options.providerOf(entry.slot);
    let breaker = entry.breakers.get(provider);
    if (breaker === undefined) {
      const { probeMsMax, now, random } = this.#options;
      const onChange = (state: BreakerState, why: string) => tellChange(entry, provider, state, why);
      breaker = new Breaker({ settings: entry.settings, probeMsMax, now, random, onChange });
      entry.breakers.set(provider, breaker);
    }
    return breaker;
  }

  /** So many rows, all of them set to `value`. Valid until the next call. */
  #want(rows: number, value: 0 | 1): Uint8Array {
    if (this.#wanted.length < rows) this.#wanted = new Uint8Array(rows);
    return this.#wanted.subarray(0, rows).fill(value);
  }
}

const resultAt = ({ table }: Batch, row: number) => table[row * ROW_COLUMNS + ROW.result] as number;

const verdictOf = (result: number): Verdict =>
  result === RESULT.ok ? 'well' : result === RESULT.failed ? 'failed' : 'nothing';

/** What rows 0 to `rows - 1` say about the model that has run them. */
function judge(batch: Batch, rows: number): Verdict {
  let verdict: Verdict = 'nothing';
  for (let row = 0; row < rows; row += 1) {
    const one = verdictOf(resultAt(batch, row));
    if (one === 'well') return one;
    if (one === 'failed') verdict = one;
  }
  return verdict;
}

const WORDS = {
  closed: 'circuit breaker closed',
  open: 'circuit breaker open',
  half_open: 'circuit breaker half open, batches are let through on trial',
} as const;

/** What it means for the model's events that the breaker is not closed. */
function means({ enforced, ladder }: GuardedModel): string {
  if (!enforced) return 'batches go there all the same, as its manifest names nothing to answer instead';
  return ladder.isEmpty ? 'its events fail' : `its events are answered by ${ladder.text}`;
}

function refusalOf({ label, ladder }: GuardedModel): string {
  const instead = ladder.isEmpty
    ? 'degrade names nothing to answer instead'
    : `no answer from ${ladder.text}`;
  return `${label} cannot be asked, its circuit breaker is open; ${instead}`;
}

function tellChange(entry: GuardedModel, provider: string, state: BreakerState, why: string): void {
  const what = `${entry.label} on ${provider}: ${WORDS[state]}`;
  if (state !== 'open') notice('info', 'BREAKER', what);
  else notice('warn', 'BREAKER', `${what}: ${why}; ${means(entry)}`);
}
