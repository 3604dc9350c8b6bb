/**
 * Keeps the score: was the song that came among the model's ten guesses, and would the ten most played songs
 * have had it? The first song of a show and the first of a later set are counted apart: there is little or
 * nothing to go by.
 */

/** Where in its show the song came that was guessed. */
export type Place = 'within' | 'setOpener' | 'showOpener';

export interface Judgment {
  readonly place: Place;
  /** From 1; null: the song was not among the guesses. */
  readonly rank: number | null;
  /** The song was among the ten most played ones that the show had not had yet. */
  readonly baselineHit: boolean;
}

export interface Score {
  readonly guesses: number;
  /** Shares from 0 to 1; null without a guess. */
  readonly hitAt1: number | null;
  readonly hitAt10: number | null;
  readonly baselineHitAt10: number | null;
}

export const GUESSES = 10;
/** Songs within a set that the running score looks back on. */
export const WINDOW = 1000;

/** What a judgment counts for, as bits: so that the window can be a ring of bytes. */
const HIT1 = 1;
const HIT10 = 2;
const BASELINE = 4;

class Tally {
  guesses = 0;
  hits1 = 0;
  hits10 = 0;
  baseline = 0;

  add(bits: number, sign: 1 | -1): void {
    this.guesses += sign;
    if (bits & HIT1) this.hits1 += sign;
    if (bits & HIT10) this.hits10 += sign;
    if (bits & BASELINE) this.baseline += sign;
  }

  score(): Score {
    const share = (hits: number) => (this.guesses === 0 ? null : hits / this.guesses);
    return {
      guesses: this.guesses,
      hitAt1: share(this.hits1),
      hitAt10: share(this.hits10),
      baselineHitAt10: share(this.baseline),
    };
  }
}

export class Judge {
  readonly #overall: Readonly<Record<Place, Tally>> = {
    within: new Tally(),
    setOpener: new Tally(),
    showOpener: new Tally(),
  };
  readonly #last = new Tally();
  readonly #ring = new Uint8Array(WINDOW);
  #at = 0;

  add({ place, rank, baselineHit }: Judgment): void {
    const hits = rank === null || rank > GUESSES ? 0 : rank === 1 ? HIT1 | HIT10 : HIT10;
    const bits = hits | (baselineHit ? BASELINE : 0);
    this.#overall[place].add(bits, 1);
    if (place !== 'within') return;
    if (this.#last.guesses === WINDOW) this.#last.add(this.#ring[this.#at]!, -1);
    this.#last.add(bits, 1);
    this.#ring[this.#at] = bits;
    this.#at = (this.#at + 1) % WINDOW;
  }

  /** Since the start. */
  overall(place: Place): Score {
    return this.#overall[place].score();
  }

  /** The last WINDOW songs within a set. */
  last(): Score {
    return this.#last.score();
  }
}

/** Whether `came` is among the ten most popular titles that have not been played. */
export function inPopularTen(popular: readonly string[], played: readonly string[], came: string): boolean {
  const had = new Set(played);
  let left = GUESSES;
  for (const title of popular) {
    if (had.has(title)) continue;
    if (title === came) return true;
    left -= 1;
    if (left === 0) return false;
  }
  return false;
}
