/** `subito deadletters`: lists, shows, requeues, drops and exports the events that could not be predicted. */
import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';
import { partitionStreams, type StreamPartition } from '../engine/streams.ts';
import { SubitoError } from '../errors.ts';
import {
  findLetters,
  type LetterFilter,
  type LetterSummary,
  type Reason,
  type Selection,
  select,
  summaries,
  wholeLetter,
  wholeLetters,
} from '../ledger/deadletters.ts';
import { type MoveAction, moveLetters } from '../ledger/deadletters-move.ts';
import { entryId, idRange } from '../ledger/deadletters-range.ts';
import { exportLine, letterReport, letterText } from '../ledger/deadletters-view.ts';
import { Progress } from '../ledger/progress.ts';
import { nearest } from '../nearest.ts';
import type { Control } from '../redis/control.ts';
import { openControl, operatorConfig } from './control.ts';
import { confirm } from './deadletters-dialog.ts';
import { formatList, formatMoves, Listing, type MoveReport, Moves, summaryOf } from './deadletters-report.ts';

export type LetterAction = 'list' | 'show' | 'requeue' | 'drop' | 'export';

type Given = Readonly<Record<string, unknown>>;

/** Where the command reads and writes; the process's own but for tests. */
export interface CommandIo {
  readonly out: Writable;
  readonly err: Writable & { readonly isTTY?: boolean };
  readonly input: Readable & { readonly isTTY?: boolean };
  readonly nowMs: () => number;
}

const processIo: CommandIo = {
  out: process.stdout,
  err: process.stderr,
  input: process.stdin,
  nowMs: Date.now,
};

/** What the actions share. */
interface Session {
  readonly control: Control;
  readonly partitions: readonly StreamPartition[];
  readonly ids: readonly string[];
  readonly given: Given;
  readonly json: boolean;
  readonly io: CommandIo;
}

const actions: Readonly<Record<LetterAction, (session: Session) => Promise<number>>> = {
  list,
  show,
  requeue: (session) => move(session, 'requeue'),
  drop: (session) => move(session, 'drop'),
  export: exportAll,
};

/** Options as commander gives them. Resolves with the exit code. */
export async function runDeadletters(
  action: LetterAction,
  ids: readonly string[],
  given: Given,
  io: CommandIo = processIo,
): Promise<number> {
  const config = operatorConfig(given);
  const partitions = choosePartitions(partitionStreams(config.streams), given['stream']);
  const unique = [...new Set(ids.map(entryId))];
  // What is wrong with the question is said before anybody is asked.
  filterOf(given);
  if (action === 'requeue' || action === 'drop') checkChoice(action, unique, given);
  const control = await openControl(config);
  try {
    return await actions[action]({
      control,
      partitions,
      ids: unique,
      given,
      json: given['json'] === true,
      io,
    });
  } finally {
    control.close();
  }
}

/** A configured stream with all its partitions, one partition, or the dead-letter stream of either. */
function choosePartitions(all: readonly StreamPartition[], stream: unknown): readonly StreamPartition[] {
  if (stream === undefined) return all;
  const name = String(stream);
  const chosen = all.filter(
    (each) => each.stream === name || each.name === name || each.deadletters === name,
  );
  if (chosen.length > 0) return chosen;
  const names = [...new Set(all.flatMap((each) => [each.stream, each.name]))];
  const meant = nearest(name, names);
  const hint = meant === undefined ? `there is ${names.slice(0, 10).join(', ')}` : `did you mean ${meant}?`;
  throw new SubitoError('USAGE', `--stream ${JSON.stringify(name)} is not configured; ${hint}`, {
    fix: 'give the name of a stream in the configuration, or --config with another one',
  });
}

function filterOf({ reason, model, since, until }: Given): {
  readonly filter: LetterFilter;
  readonly range: ReturnType<typeof idRange>;
} {
  if (reason !== undefined && reason !== 'invalid' && reason !== 'failed') {
    throw new SubitoError('USAGE', `--reason ${JSON.stringify(reason)} is neither invalid nor failed`);
  }
  const text = (value: unknown) => (value === undefined ? undefined : String(value));
  return {
    filter: { reason: reason as Reason | undefined, model: text(model) },
    range: idRange(text(since), text(until)),
  };
}

function progressOn({ err }: CommandIo): Progress {
  return new Progress({
    write: (text) => err.write(text),
    live: err.isTTY === true,
    now: () => performance.now(),
  });
}

async function selectAll({ control, partitions, given }: Session): Promise<Selection[]> {
  const { filter, range } = filterOf(given);
  const found = await Promise.all(partitions.map((each) => select(control, each, range, filter)));
  return found.filter((each) => each !== null);
}

async function list(session: Session): Promise<number> {
  const { control, given, json, io } = session;
  const listing = new Listing(limitOf(given['limit']));
  const progress = progressOn(io);
  for (const selection of await selectAll(session)) {
    for await (const page of summaries(control, selection, 'newest')) {
      listing.add(page);
      progress.say(() => `${listing.total} dead letters so far`);
    }
  }
  progress.clear();
  const shown = { keys: given['keys'] === true, nowMs: io.nowMs() };
  io.out.write(json ? `${JSON.stringify(listing.report(shown))}\n` : formatList(listing, shown));
  return 0;
}

const LIMIT_DEFAULT = 50;
const LIMIT_MAX = 10_000;

function limitOf(given: unknown): number {
  const limit = given === undefined ? LIMIT_DEFAULT : Number(given);
  if (Number.isInteger(limit) && limit >= 0 && limit <= LIMIT_MAX) return limit;
  throw new SubitoError('USAGE', `--limit must be a whole number from 0 to ${LIMIT_MAX}`);
}

async function show(session: Session): Promise<number> {
  const { control, partitions, ids, json, io } = session;
  const found = await findLetters(control, partitions, ids);
  const unknown: string[] = [];
  for (const [id, summaries] of found) {
    let shown = 0;
    for (const summary of summaries) {
      const letter = await wholeLetter(control, summary);
      if (letter === null) continue;
      shown += 1;
      io.out.write(json ? `${JSON.stringify(letterReport(letter))}\n` : letterText(letter, io.nowMs()));
    }
    if (shown === 0) unknown.push(id);
  }
  if (unknown.length > 0) throw unknownLetters(unknown, partitions);
  return 0;
}

function unknownLetters(ids: readonly string[], partitions: readonly StreamPartition[]): SubitoError {
  const some = (names: readonly string[]) =>
    names.length > 10 ? `${names.slice(0, 10).join(', ')} and ${names.length - 10} more` : names.join(', ');
  const where = some(partitions.map(({ deadletters }) => deadletters));
  const message = `not in ${where}: ${some(ids)}; requeued, dropped or trimmed, or never there`;
  return new SubitoError('DEADLETTER_UNKNOWN', message, { detail: { ids } });
}

function checkChoice(action: MoveAction, ids: readonly string[], given: Given): void {
  const ways = Number(ids.length > 0) + Number(given['all'] === true || given['reason'] !== undefined);
  if (ways === 1) return;
  const message =
    ways === 0 ? `${action} which dead letters?` : `${action} takes ids or a choice of letters, not both`;
  throw new SubitoError('USAGE', message, { fix: 'give ids, or --reason invalid, --reason failed or --all' });
}

async function move(session: Session, action: MoveAction): Promise<number> {
  const { partitions, ids, given, json, io } = session;
  const dryRun = given['dryRun'] === true;
  const moves = new Moves(action, dryRun, ids.length > 0);
  try {
    if (ids.length > 0) await moveNamed(session, action, moves);
    else if (!(await moveChosen(session, action, moves))) return 1;
  } catch (error) {
    if (moves.total > 0) io.err.write(`before it failed: ${formatMoves(moves.report())}`);
    throw error;
  }
  const report = moves.report();
  io.out.write(json ? `${JSON.stringify(report)}\n` : formatMoves(report));
  return outcome(report, partitions);
}

/** Letters named one by one: unknown ones are told apart, and an id that names several letters is refused. */
async function moveNamed(session: Session, action: MoveAction, moves: Moves): Promise<void> {
  const { control, partitions, ids, given } = session;
  const found = await findLetters(control, partitions, ids);
  const letters: LetterSummary[] = [];
  for (const [id, summaries] of found) {
    if (summaries.length > 1) {
      const names = summaries.map(({ partition }) => partition.name).join(' and ');
      throw new SubitoError('USAGE', `${id} names dead letters of ${names}`, {
        fix: 'say which with --stream; nothing was changed',
      });
    }
    letters.push(...summaries);
    if (summaries.length === 0) moves.unknown(id);
  }
  // Letters of one stream side by side, so that one call takes many.
  letters.sort((left, right) => left.partition.index - right.partition.index);
  for await (const some of moveLetters(control, action, letters, given['dryRun'] === true)) moves.add(some);
}

/** All letters of a choice, as they are when this begins; false when nobody agreed. */
async function moveChosen(session: Session, action: MoveAction, moves: Moves): Promise<boolean> {
  const { control, given, io } = session;
  const dryRun = given['dryRun'] === true;
  const selections = await selectAll(session);
  if (!dryRun && given['yes'] !== true && !(await agreed(session, action, selections))) return false;
  const progress = progressOn(io);
  try {
    for (const selection of selections) {
      for await (const page of summaries(control, selection)) {
        for await (const some of moveLetters(control, action, page, dryRun)) moves.add(some);
        progress.say(() => summaryOf(moves.report()));
      }
    }
  } finally {
    progress.clear();
  }
  return true;
}

async function agreed(
  { control, io }: Session,
  action: MoveAction,
  selections: readonly Selection[],
): Promise<boolean> {
  const isTerminal = io.input.isTTY === true && io.err.isTTY === true;
  if (!isTerminal) {
    throw new SubitoError('USAGE', `${action} of more than single letters needs --yes without a terminal`, {
      fix: 'see what it would do with --dry-run, then add --yes',
    });
  }
  const listing = new Listing(0);
  for (const selection of selections)
    for await (const page of summaries(control, selection)) listing.add(page);
  if (listing.total === 0) return true;
  const what = `${action} ${listing.countsText()}? `;
  const agrees = await confirm(io.input, io.err, what);
  if (!agrees) io.err.write('nothing was changed\n');
  return agrees;
}

function outcome(report: MoveReport, partitions: readonly StreamPartition[]): number {
  const { action, refused, unknown, dry_run: dryRun } = report;
  if (refused > 0) {
    const asked = refused + unknown.length + report.moved + report.gone;
    const verb = dryRun ? 'would be refused' : 'were refused and stay where they are';
    const message = `${refused} of ${asked} dead letters ${verb} by ${action}`;
    throw new SubitoError('DEADLETTER_REFUSED', message, { detail: { refused: report.refusals } });
  }
  if (unknown.length > 0) throw unknownLetters(unknown, partitions);
  return 0;
}

async function exportAll(session: Session): Promise<number> {
  const { control, io } = session;
  const progress = progressOn(io);
  let lines = 0;
  for (const selection of await selectAll(session)) {
    for await (const letter of wholeLetters(control, selection)) {
      // A reader that is slower than Redis holds up the reading, not our memory.
      if (!io.out.write(`${exportLine(letter)}\n`)) await drained(io.out);
      lines += 1;
      progress.say(() => `${lines} exported`);
    }
  }
  progress.clear();
  return 0;
}

/** Rejects when the reader went away; main.ts ends the process before, for its own stdout. */
async function drained(out: Writable): Promise<void> {
  await once(out, 'drain');
}
