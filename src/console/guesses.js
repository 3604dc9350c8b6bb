/** The ten guesses of a prediction, and the badges of those that came true. */
import { make, percent } from './dom.js';

/** @typedef {readonly [title: string, probability: number]} Guess */

/**
 * What a prediction of the next-track model holds: titles, likeliest first, and their probabilities.
 * @param {Record<string, unknown> | undefined} outputs
 * @returns {Guess[]}
 */
export function guessesOf(outputs) {
  const songs = outputs?.['songs'];
  const probabilities = outputs?.['probabilities'];
  if (!Array.isArray(songs) || !Array.isArray(probabilities)) return [];
  return songs.slice(0, 10).map((title, at) => [String(title), Number(probabilities[at] ?? 0)]);
}

/** @param {number} probability */
function chance(probability) {
  if (probability < 0.0005) return '<0.1 %';
  return percent(probability, probability < 0.0995 ? 1 : 0);
}

/**
 * One row: rank, title, bar, probability. With `pick` the title is a button.
 * @param {Guess} guess @param {number} at @param {number} most the largest probability shown
 * @param {((title: string) => void) | null} pick
 */
function guessRow([title, probability], at, most, pick) {
  const bar = make('span', { class: 'meter', 'aria-hidden': 'true' });
  bar.style.setProperty('--share', String(most > 0 ? probability / most : 0));
  const rank = make('span', { class: 'rank', 'aria-hidden': 'true' }, String(at + 1));
  const share = make('span', { class: 'share' }, chance(probability));
  if (pick === null) return make('li', {}, rank, make('span', { class: 'title' }, title), share, bar);
  const button = make('button', { type: 'button', class: 'title' }, title);
  button.addEventListener('click', () => pick(title));
  return make('li', {}, rank, button, share, bar);
}

/**
 * @param {HTMLElement} host @param {readonly Guess[]} guesses
 * @param {((title: string) => void) | null} [pick]
 */
export function showGuesses(host, guesses, pick = null) {
  const most = Math.max(0, ...guesses.map(([, probability]) => probability));
  host.replaceChildren(...guesses.map((guess, at) => guessRow(guess, at, most, pick)));
}

/**
 * A row of a set list.
 * @param {number} number @param {string} title @param {Node} mark
 */
export function songRow(number, title, mark) {
  const place = make('span', { class: 'rank' }, String(number));
  return make('li', {}, place, make('span', { class: 'title' }, title), mark);
}

/**
 * How the model did on a song: its rank among the guesses (1 is best), null for not among them, undefined for
 * no guess.
 * @param {number | null | undefined} rank
 */
export function badge(rank) {
  if (rank === undefined) return make('span', { class: 'badge none' }, 'no guess');
  if (rank === null) return make('span', { class: 'badge missed' }, 'missed');
  return make(
    'span',
    { class: rank === 1 ? 'badge first' : 'badge' },
    rank === 1 ? 'first guess' : `guess ${rank}`,
  );
}
