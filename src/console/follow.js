/**
 * One simulated listener, followed live: songs and ranks from /demo/listeners, predictions over the socket.
 */
import { byId, make, percent, text } from './dom.js';
import { badge, guessesOf, showGuesses, songRow } from './guesses.js';

/**
 * @typedef {import('./guesses.js').Guess} Guess
 *
 * @typedef {object} Prediction
 * @property {number} after songs heard when it was made
 * @property {Guess[]} top
 * @property {string | null} came the song that was played then; null: not played yet
 * @property {number | null} rank of that song among the guesses, from 1; null: not among them
 *
 * @typedef {object} Listener
 * @property {string} key
 * @property {'redis' | 'websocket'} via how its events reach the engine
 * @property {number | string} show
 * @property {number} set
 * @property {string[]} songs heard so far
 * @property {Prediction[]} predictions
 */

const POLL_MS = 2000;
/** Some time after a prediction the song that it answers is in the listener's state. */
const SOON_MS = 200;
/** A prediction from the socket is not overwritten by a listener's state that may be older. */
const LIVE_MS = 1500;
/** A show has some twenty songs. */
const GUESSES_MIDWAY = 6;

export class Follow {
  /** @type {Listener[]} */
  #listeners = [];
  #key = '';
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #session;
  #onTitles;
  #shown = '';
  #liveMs = Number.NEGATIVE_INFINITY;

  /**
   * @param {import('./session.js').Session} session
   * @param {(titles: Iterable<string>) => void} onTitles titles seen, for the search box
   */
  constructor(session, onTitles) {
    this.#session = session;
    this.#onTitles = onTitles;
    const select = /** @type {HTMLSelectElement} */ (byId('listener'));
    select.addEventListener('change', () => this.#choose(select.value));
    void this.#poll();
  }

  /** A prediction of the listener came over the socket. @param {import('./session.js').Frame} frame */
  prediction(frame) {
    const guesses = guessesOf(frame.d);
    if (guesses.length === 0) return;
    this.#liveMs = performance.now();
    this.#showNext(guesses, 'Just in, over the WebSocket');
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#poll(), SOON_MS);
  }

  async #poll() {
    clearTimeout(this.#timer);
    try {
      const answer = await fetch('/demo/listeners', { signal: AbortSignal.timeout(4000), cache: 'no-store' });
      if (!answer.ok) throw new Error(answer.status === 404 ? 'no demo' : `it answered ${answer.status}`);
      this.#update(await answer.json());
    } catch (error) {
      const none = error instanceof Error && error.message === 'no demo';
      const message = none
        ? 'This engine runs without the demo, so there are no listeners to follow.'
        : 'The listeners cannot be read just now. Trying again.';
      text('follow-empty', message);
      byId('follow-empty').hidden = false;
    }
    this.#timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  /** @param {Listener[]} listeners */
  #update(listeners) {
    this.#listeners = listeners;
    byId('follow').hidden = listeners.length === 0;
    byId('follow-empty').hidden = listeners.length > 0;
    text('follow-empty', 'No listener is at a concert just now. The next one starts in a moment.');
    if (listeners.length === 0) return;
    this.#onTitles(
      listeners.flatMap(({ songs, predictions }) => [
        ...songs,
        ...predictions.flatMap(({ top }) => top.map(([title]) => title)),
      ]),
    );
    this.#fillChooser();
    const known = listeners.some(({ key }) => key === this.#key);
    const wanted = new URLSearchParams(location.hash.slice(1)).get('key');
    if (!known) this.#choose(listeners.find(({ key }) => key === wanted)?.key ?? midway(listeners).key);
    else this.#show();
  }

  #fillChooser() {
    const select = /** @type {HTMLSelectElement} */ (byId('listener'));
    const keys = this.#listeners.map(({ key }) => key).join('\n');
    if (select.dataset['keys'] === keys) return;
    select.dataset['keys'] = keys;
    select.replaceChildren(
      ...this.#listeners.map(({ key, via }) => make('option', { value: key }, `${key} (${via})`)),
    );
    select.value = this.#key;
  }

  /** @param {string} key */
  #choose(key) {
    this.#key = key;
    this.#shown = '';
    this.#liveMs = Number.NEGATIVE_INFINITY;
    /** @type {HTMLSelectElement} */ (byId('listener')).value = key;
    history.replaceState(null, '', `#key=${encodeURIComponent(key)}`);
    showGuesses(byId('next'), []);
    this.#session.follow(key);
    this.#show();
  }

  #show() {
    const listener = this.#listeners.find(({ key }) => key === this.#key);
    if (listener === undefined) return;
    const { songs, predictions, show, set, via } = listener;
    const ranks = new Map(predictions.map((prediction) => [prediction.after, prediction]));
    const judged = predictions.filter(({ came }) => came !== null);
    const hits = judged.filter(({ rank }) => rank !== null).length;
    text(
      'score',
      judged.length === 0 ? '' : `${hits} of ${judged.length} guessed, ${percent(hits / judged.length)}`,
    );
    text(
      'heard-hint',
      `Show ${show}, set ${set}; events by ${via === 'redis' ? 'Redis Streams' : 'WebSocket'}`,
    );
    const heard = `${this.#key} ${songs.join('\n')}`;
    if (heard !== this.#shown) {
      this.#shown = heard;
      byId('heard').replaceChildren(
        ...songs
          .map((title, at) => {
            const prediction = ranks.get(at);
            const rank = prediction === undefined || prediction.came === null ? undefined : prediction.rank;
            return songRow(at + 1, title, badge(rank));
          })
          .reverse(),
      );
    }
    const open = predictions.findLast(({ came }) => came === null);
    const live = performance.now() - this.#liveMs < LIVE_MS;
    if (open !== undefined && !live) this.#showNext(open.top, `After ${songs.length} songs`);
  }

  /** @param {readonly Guess[]} guesses @param {string} hint */
  #showNext(guesses, hint) {
    const host = byId('next');
    const shown = JSON.stringify(guesses);
    if (host.dataset['shown'] === shown && host.childElementCount > 0) return;
    host.dataset['shown'] = shown;
    showGuesses(host, guesses);
    text('next-hint', hint);
  }
}

/**
 * A listener in the middle of a show: some guesses to look at, and some to come.
 * @param {Listener[]} listeners
 */
function midway(listeners) {
  const off = (/** @type {Listener} */ { predictions }) => Math.abs(predictions.length - GUESSES_MIDWAY);
  return listeners.reduce((best, next) => (off(next) < off(best) ? next : best));
}
