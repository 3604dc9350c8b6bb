/**
 * Makes a consumer group where it is missing, and one that was lost (XGROUP DESTROY, DEL, FLUSHALL) such that
 * every event still gets exactly one outcome.
 *
 * Redis forgets with the group what was delivered and what was settled. What was settled is still known by
 * the outcomes: predictions, dead letters and receipts name their `source`. So all outcomes since the
 * ledger's floor are read, up to which everything is settled; then the entries from there to the last one
 * that was delivered, and those without an outcome are made pending again. What lies beyond is unread, as it
 * was.
 *
 * Where the ledger knows nothing, the floor is the stream's beginning. A stream that was deleted and made
 * again begins anew as well. Entries whose ids have an outcome count as settled there too: a new entry with
 * the id of an old one cannot be told apart from it, and is not served. (Redis gives no id twice, unless its
 * clock was set back between.)
 */
import { messageOf, SubitoError } from '../errors.ts';
import { compareIds, type EntryId, ID_MIN, IdTable, idText, parseId } from '../ledger/ids.ts';
import { type OutcomeStreams, readOutcomes } from '../ledger/outcomes.ts';
import { knownId, Scan } from '../ledger/scan.ts';
import { notice } from '../observe/channels.ts';
import type { Control } from '../redis/control.ts';
import { ledgerKey } from '../redis/keys.ts';

export interface GroupStreams extends OutcomeStreams {
  /** The input stream. */
  readonly stream: string;
  readonly group: string;
}

export interface Group {
  /** It was missing, and this call made it. */
  readonly made: boolean;
  /** The stream's epoch, as in the ledger. */
  readonly epoch: string;
}

/** An outcome may carry an id this much older than its event: servers' clocks before and after a failover. */
const CLOCK_SLACK_MS = 60_000;
/**
 * Served again at most. If there are more, the group is made at the last of them, and what was settled beyond
 * gets a second outcome: the arguments of one script are limited, and so is the time that Redis may stand
 * still for it (a few microseconds for each). Engines never have that many in hand.
 */
const UNSETTLED_MAX = 100_000;
/** A stream that changes under every look is left to the next try. */
const LOOKS_MAX = 5;
const PROGRESS_MS = 5_000;

/** What regroup.lua says of a missing group. */
interface Missing {
  readonly floor: EntryId;
  /** Last delivered id of the ledger. */
  readonly last: EntryId;
  /** Entries that had been read up to there; null when not known. */
  readonly read: number | null;
  /** Entries ever added to the stream that is there now. */
  readonly added: number;
  readonly generated: EntryId;
  /** Null for a stream without entries. */
  readonly first: EntryId | null;
  readonly nowMs: number;
  /** Of the ledger; '' for none. */
  readonly epoch: string;
  /** Nothing is known of an earlier group. */
  readonly fresh: boolean;
}

interface Found {
  readonly last: EntryId;
  readonly read: number | null;
  readonly unsettled: readonly string[];
  readonly cut: boolean;
}

/** Rejects with STREAM_UNUSABLE when the key holds something else or a right is missing. */
export async function ensureGroup(
  control: Control,
  streams: GroupStreams,
  unsettledMax = UNSETTLED_MAX,
): Promise<Group> {
  try {
    for (let look = 0; look < LOOKS_MAX; look += 1) {
      const group = await tryOnce(control, streams, unsettledMax);
      if (group !== null) return group;
    }
  } catch (error) {
    throw usable(error, streams.stream);
  }
  throw new SubitoError('REDIS_UNREACHABLE', `${streams.stream} changed ${LOOKS_MAX} times during a scan`);
}

/** Null when the stream was deleted during the scan, or the group was made and lost once more. */
async function tryOnce(control: Control, streams: GroupStreams, unsettledMax: number): Promise<Group | null> {
  const { stream, group } = streams;
  const keys = [stream, ledgerKey(stream)];
  const seen = (await control.script('regroup', keys, [group, ''])) as (string | number)[];
  if (seen[0] === 'there') return { made: false, epoch: String(seen[1]) };
  const missing = missingOf(stream, seen);
  const found = await scan(control, streams, missing, unsettledMax);
  const counts = [found.read ?? '', missing.added];
  const args = [idText(found.last), idText(missing.floor), ...counts, missing.epoch];
  const [state, epoch] = (await control.script('regroup', keys, [group, ...args, ...found.unsettled])) as [
    string,
    string,
  ];
  if (state === 'changed') return null;
  const made = state === 'made';
  if (made && !(missing.fresh && compareIds(found.last, ID_MIN) === 0)) tell(streams, found);
  return { made, epoch: String(epoch) };
}

function missingOf(stream: string, seen: readonly (string | number)[]): Missing {
  const [, floorText, lastText, read, ledgerAdded, added, generatedText, first, nowMs, epoch = ''] =
    seen.map(String);
  const known = (text: string | undefined) => parseId(text ?? '') ?? ID_MIN;
  const [floor, last] = [known(floorText), known(lastText)];
  const generated = knownId(stream, generatedText);
  const fresh = floorText === '' && lastText === '' && ledgerAdded === '';
  // Another stream than the ledger speaks of: deleted and made again, perhaps with smaller ids.
  const remade =
    compareIds(generated, floor) < 0 ||
    compareIds(generated, last) < 0 ||
    Number(added) < Number(ledgerAdded);
  return {
    floor: remade ? ID_MIN : floor,
    last: remade ? ID_MIN : last,
    read: remade || read === '' ? null : Number(read),
    added: Number(added),
    generated,
    first: first === '' ? null : knownId(stream, first),
    nowMs: Number(nowMs),
    epoch,
    fresh,
  };
}

/** What was delivered, and what of it has no outcome. */
async function scan(
  control: Control,
  streams: GroupStreams,
  missing: Missing,
  unsettledMax: number,
): Promise<Found> {
  const { floor, first } = missing;
  const none = { last: missing.last, read: missing.read, unsettled: [], cut: false };
  if (first === null) return none;
  const pages = new Scan(control, undefined, progressOf(streams.stream));
  const settled = new IdTable();
  let last = missing.last;
  await readOutcomes(pages, streams, outcomesFrom(missing), {
    outcome: (source) => {
      if (compareIds(source, floor) <= 0 || compareIds(source, missing.generated) > 0) return;
      settled.push(source);
      if (compareIds(source, last) > 0) last = source;
    },
    stray: () => {},
  });
  settled.sort();
  if (compareIds(last, floor) <= 0) return none;

  const unsettled: string[] = [];
  let { read } = missing;
  for await (const page of pages.pages(streams.stream, after(floor), last)) {
    for (const [text] of page) {
      const id = knownId(streams.stream, text);
      if (read !== null && compareIds(id, missing.last) > 0) read += 1;
      if (settled.indexOf(id) !== -1) continue;
      unsettled.push(idText(id));
      if (unsettled.length === unsettledMax) return { last: id, read: null, unsettled, cut: true };
    }
  }
  return { last, read, unsettled, cut: false };
}

/**
 * Where to begin to read outcomes: those of entries above the floor are no older than it. An id of the future
 * is no clock's; then all are read.
 */
function outcomesFrom({ floor, first, nowMs }: Missing): EntryId {
  const oldest = first !== null && compareIds(first, floor) > 0 ? first : floor;
  return { ms: oldest.ms > nowMs ? 0 : Math.max(0, oldest.ms - CLOCK_SLACK_MS), seq: 0 };
}

function after({ ms, seq }: EntryId): EntryId {
  return seq === Number.MAX_SAFE_INTEGER ? { ms: ms + 1, seq: 0 } : { ms, seq: seq + 1 };
}

function progressOf(stream: string): (rows: number) => void {
  let rows = 0;
  let dueMs = performance.now() + PROGRESS_MS;
  return (more) => {
    rows += more;
    if (performance.now() < dueMs) return;
    dueMs = performance.now() + PROGRESS_MS;
    notice('info', 'GROUP_SCAN', `${stream}: ${rows} outcomes and entries read to make its group again`);
  };
}

function tell({ stream, group }: GroupStreams, { last, unsettled, cut }: Found): void {
  const text = `${stream}: group ${group} was lost and is made again at ${idText(last)}`;
  notice('warn', 'GROUP_REMADE', `${text}; ${unsettled.length} events are served again`);
  if (!cut) return;
  notice(
    'error',
    'GROUP_REMADE_TWICE',
    `${stream}: what was settled after ${idText(last)} is predicted again`,
  );
}

function usable(error: unknown, stream: string): unknown {
  const message = messageOf(error);
  // What passes (a lost connection, LOADING) is retryable; a key of the wrong type or a missing right is not.
  if (error instanceof SubitoError || !/^(WRONGTYPE|NOPERM|ERR The user executing the script)/.test(message))
    return error;
  return new SubitoError('STREAM_UNUSABLE', `${stream}: ${message}`, { cause: error });
}
