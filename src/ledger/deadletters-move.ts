/**
 * Takes dead letters out of their stream: `requeue` makes events of them again, `drop` deletes them. Each
 * letter is moved by one script or not at all, so this may be killed, repeated and run twice at once.
 */
import type { StreamPartition } from '../engine/streams.ts';
import type { Control } from '../redis/control.ts';
import { receiptsKey } from '../redis/keys.ts';
import type { LetterSummary } from './deadletters.ts';
import { asked, refusedBy } from './deadletters-fault.ts';

export type MoveAction = 'requeue' | 'drop';

/**
 * What became of a letter: `moved` (`to` is the new event's id, '' of a dropped one and in a dry run), `gone`
 * before it was its turn, or refused, with the reason.
 */
export interface Move {
  readonly letter: LetterSummary;
  readonly outcome: 'moved' | 'gone' | 'refused';
  readonly to: string;
  /** '' unless it was refused. */
  readonly why: string;
}

/**
 * Receipts kept, about. By number and not by age: it is the number that takes memory (62 bytes each in a
 * stream), and an operator who requeues a backlog makes millions in an hour. An audit misses a receipt only
 * while the letter's input entry is still in its stream; whoever has moved more letters than this since is
 * past what a stream of events holds by the same default (limits.predictions_max).
 */
export const RECEIPTS_MAX = 1_000_000;
/** Letters of one script call: some milliseconds of Redis. */
const CALL_LETTERS = 100;
const CALL_BYTES = 4 << 20;

const refusals: Readonly<Record<string, string>> = {
  empty: 'it holds neither data nor features, so it would die again',
  cut: 'it had more fields than a dead letter keeps, so the event would not be the same',
  foreign: 'Subito did not write it: its last fields are not source, reason, detail, deliveries',
};

/**
 * Moves letters of one partition; yields after each call to Redis. `dryRun` asks the same checks and changes
 * nothing.
 */
export async function* moveLetters(
  control: Control,
  action: MoveAction,
  letters: readonly LetterSummary[],
  dryRun = false,
): AsyncGenerator<Move[]> {
  for (let first = 0; first < letters.length; ) {
    let end = first;
    let bytes = 0;
    do bytes += letters[end++]!.bytes;
    while (
      end < letters.length &&
      end - first < CALL_LETTERS &&
      letters[end]!.partition === letters[first]!.partition &&
      bytes + letters[end]!.bytes <= CALL_BYTES
    );
    yield* moveSome(control, action, letters.slice(first, end), dryRun);
    first = end;
  }
}

async function* moveSome(
  control: Control,
  action: MoveAction,
  letters: readonly LetterSummary[],
  dryRun: boolean,
): AsyncGenerator<Move[]> {
  const { partition } = letters[0]!;
  const { deadletters } = partition;
  const args = [dryRun ? 'dry' : '', RECEIPTS_MAX, ...letters.map(({ id }) => id)];
  const words = (await asked(
    deadletters,
    control.script(action, keysOf(action, partition), args),
  )) as string[];
  const failure = words.at(-1)?.startsWith('!') ? words.pop() : undefined;
  yield words.map((word, i) => moveOf(letters[i]!, word));
  if (failure !== undefined) throw refusedBy(deadletters, new Error(failure.slice(1)));
}

function keysOf(action: MoveAction, { name, deadletters }: StreamPartition): string[] {
  const keys = [deadletters, receiptsKey(deadletters)];
  return action === 'requeue' ? [name, ...keys] : keys;
}

function moveOf(letter: LetterSummary, word: string): Move {
  if (word === 'gone') return { letter, outcome: 'gone', to: '', why: '' };
  const why = refusals[word];
  if (why !== undefined) return { letter, outcome: 'refused', to: '', why };
  return { letter, outcome: 'moved', to: /^\d/.test(word) ? word : '', why: '' };
}
