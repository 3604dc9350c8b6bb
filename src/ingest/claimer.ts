/**
 * When a reader takes over what consumers hold and do not settle, and what of it: the plan of its sweeps over
 * the pending entries. The reader sends the pieces (lua/claim.lua) on its own connection, between its reads,
 * so that rows taken over have to find room like any others.
 *
 * States: resting -> sweeping (one piece after the other, from the oldest entry to the end) -> resting. A
 * sweep begins at once after every connect, and then takes this consumer's own entries too: they were lost
 * with the old connection, or with the process that had this name before. Later sweeps leave its own alone
 * until nobody can be working on them any more. Pauses are jittered, so that engines take turns.
 *
 * Pure: the caller tells the time.
 */
import assert from 'node:assert/strict';

export interface ClaimerOptions {
  /** Others' entries may be taken over after this long; null: they never are. */
  readonly idleMs: number | null;
  readonly random: () => number;
}

/** Between two sweeps, at most; the half of it at least. What a dead engine held waits so much longer. */
const SWEEP_MS = 500;
/** Own entries that are still pending after this many claim times have been lost inside this engine. */
const OWN_IDLE_TIMES = 4;
/**
 * So long after a connect others' entries are left alone: if Redis was away, the others come back, too, and
 * settle what they have had in hand all the while. Except for what nobody has: an engine that stops marks
 * what it leaves with an idle time of a day or more (lua/release.lua, lua/regroup.lua).
 */
const OTHERS_MS = 1_000;
const LEFT_MS = 43_200_000;
/** What is left waits for suspects that run, which takes milliseconds as a rule. */
const WAIT_MS = 3;
const NEVER_MS = Number.MAX_SAFE_INTEGER;

export class Claimer {
  readonly #options: ClaimerOptions;
  #sweeping = false;
  #recovering = true;
  #after = '';
  #dueMs = Number.POSITIVE_INFINITY;
  #othersFromMs = 0;

  constructor(options: ClaimerOptions) {
    this.#options = options;
  }

  /** A sweep is under way: its next piece is due. */
  get sweeping(): boolean {
    return this.#sweeping;
  }

  /** A suspect has run, or there is room again: what waits for that need wait no longer. */
  hurry(nowMs: number): void {
    if (this.#sweeping) this.#dueMs = nowMs;
  }

  /** Milliseconds until the next piece is due; 0: now. */
  dueInMs(nowMs: number): number {
    return Math.max(0, this.#dueMs - nowMs);
  }

  connected(nowMs: number): void {
    this.#othersFromMs = nowMs + OTHERS_MS;
    this.#dueMs = nowMs;
    this.#sweeping = true;
    this.#recovering = true;
    this.#after = '';
  }

  /** The next piece: least idle times of others' and of own entries, and the id after which to go on. */
  begin(nowMs: number): {
    readonly othersIdleMs: number;
    readonly ownIdleMs: number;
    readonly after: string;
  } {
    const { idleMs } = this.#options;
    if (!this.#sweeping) this.#after = '';
    this.#sweeping = true;
    const ownIdleMs = this.#recovering ? 0 : (idleMs ?? 0) * OWN_IDLE_TIMES;
    let othersIdleMs = idleMs ?? NEVER_MS;
    if (nowMs < this.#othersFromMs) othersIdleMs = Math.max(othersIdleMs, LEFT_MS);
    return { othersIdleMs, ownIdleMs, after: this.#after };
  }

  /** The piece was answered with so many entries; `after` is '-' at the end of the sweep. */
  answered(after: string, entries: number, nowMs: number): void {
    assert(this.#sweeping, 'a piece was answered that was not asked for');
    this.#after = after;
    if (after !== '-') {
      this.#dueMs = entries > 0 ? nowMs : nowMs + WAIT_MS;
      return;
    }
    this.#sweeping = false;
    this.#recovering = false;
    const { idleMs, random } = this.#options;
    this.#dueMs = idleMs === null ? Number.POSITIVE_INFINITY : nowMs + SWEEP_MS * (0.5 + random() / 2);
  }
}
