/** The visitor as a listener: each song added is an event by WebSocket, answered on the same connection. */
import { byId, make, millis, text } from './dom.js';
import { badge, guessesOf, showGuesses, songRow } from './guesses.js';

const MODEL = 'next-track';
const TITLES_MAX = 2000;

/** @typedef {{ title: string, set: number, rank: number | null | undefined }} Song */

export class You {
  #session;
  #key = `you-${crypto.randomUUID().slice(0, 8)}`;
  /** @type {Song[]} */
  #songs = [];
  /** @type {import('./guesses.js').Guess[]} what the model says now */
  #guesses = [];
  /** Answers to older questions are not shown. */
  #asked = 0;
  /** @type {Set<string>} */
  #titles = new Set();

  /** @param {import('./session.js').Session} session */
  constructor(session) {
    this.#session = session;
    byId('adder').addEventListener('submit', (event) => {
      event.preventDefault();
      const input = /** @type {HTMLInputElement} */ (byId('song'));
      const title = input.value.trim();
      input.value = '';
      if (title !== '') this.#add(title);
      input.focus();
    });
    byId('undo').addEventListener('click', () => this.#change(this.#songs.slice(0, -1)));
    byId('restart').addEventListener('click', () => {
      this.#choice('1').checked = true;
      this.#change([]);
    });
    for (const radio of document.querySelectorAll('input[name="set"]')) {
      radio.addEventListener('change', () => this.#change(this.#songs));
    }
    this.#show();
  }

  /** The socket is open (again). */
  connected() {
    this.#change(this.#songs);
  }

  /** Titles to offer in the search box. @param {Iterable<string>} titles */
  offer(titles) {
    const list = byId('titles');
    for (const title of titles) {
      if (this.#titles.has(title) || this.#titles.size >= TITLES_MAX) continue;
      this.#titles.add(title);
      list.append(make('option', { value: title }));
    }
  }

  /** @param {string} set */
  #choice(set) {
    const radio = document.querySelector(`input[name="set"][value="${set}"]`);
    return /** @type {HTMLInputElement} */ (radio);
  }

  get #set() {
    const chosen = /** @type {HTMLInputElement | null} */ (
      document.querySelector('input[name="set"]:checked')
    );
    return Number(chosen?.value ?? 1);
  }

  /** @param {string} title */
  #add(title) {
    const at = this.#guesses.findIndex(([guess]) => guess.toLowerCase() === title.toLowerCase());
    const rank = this.#guesses.length === 0 ? undefined : at === -1 ? null : at + 1;
    this.#change([...this.#songs, { title: this.#guesses[at]?.[0] ?? title, set: this.#set, rank }]);
  }

  /** @param {Song[]} songs */
  #change(songs) {
    this.#songs = songs;
    this.#show();
    void this.#ask();
  }

  async #ask() {
    const asked = ++this.#asked;
    const set = this.#set;
    const position = this.#songs.filter((song) => song.set === set).length + 1;
    const songs = this.#songs.map(({ title }) => title);
    const startMs = performance.now();
    try {
      const { d, ms, model } = await this.#session.ask(this.#key, MODEL, { songs, set, position });
      if (asked !== this.#asked) return;
      const roundMs = performance.now() - startMs;
      this.#guesses = guessesOf(d);
      this.offer(this.#guesses.map(([title]) => title));
      const inside = ms === undefined ? '' : `, of which ${millis(ms.q + ms.i)} ms in the engine`;
      text('answer-hint', `${model ?? MODEL} answered in ${millis(roundMs)} ms${inside}.`);
    } catch (error) {
      if (asked !== this.#asked) return;
      this.#guesses = [];
      text('answer-hint', `No answer: ${error instanceof Error ? error.message : String(error)}.`);
    }
    const focused = byId('answer').contains(document.activeElement);
    showGuesses(byId('answer'), this.#guesses, (title) => this.#add(title));
    // The row that was picked is gone; the keyboard stays in the list.
    if (focused) byId('answer').querySelector('button')?.focus();
  }

  #show() {
    const rows = this.#songs.map(({ title, set, rank }, at) => {
      const opens = at > 0 && this.#songs[at - 1]?.set !== set;
      const row = songRow(at + 1, title, badge(rank));
      if (opens) row.className = 'opens';
      return row;
    });
    byId('yours').replaceChildren(...rows);
    byId('yours-empty').hidden = rows.length > 0;
    for (const id of ['undo', 'restart']) {
      /** @type {HTMLButtonElement} */ (byId(id)).disabled = rows.length === 0;
    }
  }
}
