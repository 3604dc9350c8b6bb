/**
 * One simulated listener, without clock and socket.
 *
 *   between --step: a show is drawn--> listening --step: the next song--> ... --step: the last one--> between
 *
 * - between: no show, or one that is over (its songs can still be seen).
 * - listening: for the song to come a question was asked, and `open` is the answer once it is there. The step
 *   that plays the song compares the two; an answer that comes later than the song counts for nothing.
 *
 * A question holds the songs so far and set and place of the song to come, as a player knows them. So the
 * listener says when a set has ended; that is why the first song of a set is judged apart.
 */
import type { Random } from '../random.ts';
import { GUESSES, inPopularTen, type Judgment, type Place } from './judge.ts';
import { type Show, sampleShow, type Transitions } from './sampler.ts';

export type Via = 'redis' | 'websocket';
export type Guess = readonly [title: string, probability: number];

/** The named fields of an event. */
export interface SessionData {
  readonly songs: readonly string[];
  readonly set: number;
  readonly position: number;
}

export interface Question {
  readonly key: string;
  /** The event's id, by which the answer is known again. */
  readonly event: string;
  readonly show: number;
  /** Songs heard when it was asked. */
  readonly after: number;
  readonly data: SessionData;
}

export interface Step {
  /** For the song to come; null after the last song of a show. */
  readonly question: Question | null;
  /** The song that came, against its prediction; null without a song, or without a prediction in time. */
  readonly judgment: (Judgment & { readonly came: string; readonly guess: string }) | null;
}

/** As the listener's page reads it: src/console/follow.js. */
export interface ListenerView {
  readonly key: string;
  readonly via: Via;
  readonly show: number;
  readonly set: number;
  readonly songs: readonly string[];
  readonly predictions: readonly {
    readonly after: number;
    readonly top: readonly Guess[];
    readonly came: string | null;
    readonly rank: number | null;
  }[];
}

interface Answered {
  readonly after: number;
  readonly top: readonly Guess[];
  came: string | null;
  rank: number | null;
}

export interface ListenerOptions {
  readonly key: string;
  readonly via: Via;
  /** Makes the ids of events differ from those of an earlier run on the same streams. */
  readonly run: string;
  readonly transitions: Transitions;
  /** Most played first. */
  readonly popular: readonly string[];
  readonly random: Random;
}

export class Listener {
  readonly key: string;
  readonly via: Via;
  readonly #options: ListenerOptions;
  #show: Show = [];
  #number = 0;
  #songs: string[] = [];
  #answers: Answered[] = [];
  #open: Answered | null = null;

  constructor(options: ListenerOptions) {
    this.key = options.key;
    this.via = options.via;
    this.#options = options;
  }

  /** The show is over, or none has begun. */
  get isBetween(): boolean {
    return this.#songs.length === this.#show.length;
  }

  step(): Step {
    if (this.isBetween) {
      this.#begin();
      return { question: this.#ask(), judgment: null };
    }
    const judgment = this.#play();
    return { question: this.isBetween ? null : this.#ask(), judgment };
  }

  /** False when it came too late to count: the song has been played, the show is another one. */
  answer({ show, after }: Pick<Question, 'show' | 'after'>, top: readonly Guess[]): boolean {
    if (show !== this.#number || after !== this.#songs.length || this.isBetween || this.#open !== null)
      return false;
    this.#open = { after, top, came: null, rank: null };
    this.#answers.push(this.#open);
    return true;
  }

  view(): ListenerView {
    const set = this.#show[Math.max(0, this.#songs.length - 1)]?.set ?? 1;
    return {
      key: this.key,
      via: this.via,
      show: this.#number,
      set,
      songs: [...this.#songs],
      predictions: this.#answers.map(({ after, top, came, rank }) => ({ after, top, came, rank })),
    };
  }

  #begin(): void {
    const { transitions, random } = this.#options;
    this.#number += 1;
    this.#show = sampleShow(transitions, random);
    this.#answers = [];
    this.#open = null;
    // Comes in somewhere in its first show, so that a crowd does not begin with nothing but openers.
    const heard = this.#number === 1 ? Math.floor(random() * this.#show.length) : 0;
    this.#songs = this.#show.slice(0, heard).map(({ title }) => title);
  }

  #ask(): Question {
    const after = this.#songs.length;
    const { set, position } = this.#show[after]!;
    return {
      key: this.key,
      event: `${this.#options.run}.${this.key}.${this.#number}.${after}`,
      show: this.#number,
      after,
      data: { songs: [...this.#songs], set, position },
    };
  }

  #play(): Step['judgment'] {
    const heard = this.#songs.length;
    const { title } = this.#show[heard]!;
    const answered = this.#open;
    this.#open = null;
    const before = [...this.#songs];
    this.#songs.push(title);
    if (answered === null) return null;
    const at = answered.top.findIndex(([guess]) => guess === title);
    answered.came = title;
    answered.rank = at === -1 || at >= GUESSES ? null : at + 1;
    return {
      place: placeOf(this.#show, heard),
      rank: answered.rank,
      baselineHit: inPopularTen(this.#options.popular, before, title),
      came: title,
      guess: answered.top[0]?.[0] ?? '',
    };
  }
}

function placeOf(show: Show, at: number): Place {
  if (at === 0) return 'showOpener';
  return show[at]!.set === show[at - 1]!.set ? 'within' : 'setOpener';
}
