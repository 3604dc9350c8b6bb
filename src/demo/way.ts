/** How the crowd's questions reach the engine and the answers come back; and what an answer looks like. */
import { Packr } from 'msgpackr';
import { GUESSES } from './judge.ts';
import type { Guess, Question } from './listener.ts';

/** An answer, or why there is none, to the event of that id. */
export type Settle = (event: string, answer: readonly Guess[] | string) => void;

export interface Way {
  /**
   * Rejects when the engine cannot be reached at all; a connection that is lost later comes back by itself.
   */
  open(): Promise<void>;
  /** False while the connection of this listener is lost: it waits. */
  ready(listener: number): boolean;
  send(listener: number, question: Question): void;
  /** Writes what was sent since the last time. */
  flush(): void;
  close(): void;
}

export const packr = new Packr({ useRecords: false, variableMapSize: true });

/** How long after a connection was lost the next attempt is made. */
export const RETRY_MS = 1000;

/**
 * The guesses in a prediction of the next-track model, best first: `songs` and `probabilities` side by side.
 * Empty when it is something else.
 */
export function guessesOf(outputs: unknown): Guess[] {
  const { songs, probabilities } = (outputs ?? {}) as { songs?: unknown; probabilities?: unknown };
  if (!Array.isArray(songs) || !Array.isArray(probabilities)) return [];
  return songs.slice(0, GUESSES).map((song, at) => [String(song), Number(probabilities[at] ?? 0)]);
}
