/** Which part of a stream is meant: entry ids and times as people write them. */
import { SubitoError } from '../errors.ts';

/** Both are entry ids in full, and both are included. */
export interface IdRange {
  readonly from: string;
  readonly to: string;
}

const PART_MAX = 2n ** 64n - 1n;
const ID = /^(\d{1,20})(?:-(\d{1,20}))?$/;
/** ISO 8601. A time without `Z` or an offset is local, as Date has it; a date alone is UTC. */
const TIME = /^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$/;

/** `ms-seq` without leading zeros, or null; `seq` stands in for one that is left out. */
function fullId(text: string, seq: bigint | null): string | null {
  const match = ID.exec(text);
  if (match === null) return null;
  const [, ms = '', given] = match;
  const parts = [BigInt(ms), given === undefined ? seq : BigInt(given)];
  return parts.every((part) => part !== null && part <= PART_MAX) ? parts.join('-') : null;
}

/** An entry id in its only spelling. Throws USAGE. */
export function entryId(text: string): string {
  const id = fullId(text, null);
  if (id !== null) return id;
  throw new SubitoError('USAGE', `${JSON.stringify(text)} is no entry id`, {
    fix: 'give ids as `subito deadletters list` prints them, such as 1795343095350-0',
  });
}

/**
 * The range of --since and --until: an entry id, its milliseconds, or a time in ISO 8601. All entries of the
 * last millisecond belong to it. Throws USAGE.
 */
export function idRange(since: string | undefined, until: string | undefined): IdRange {
  return {
    from: since === undefined ? '0-0' : bound('since', since, 0n),
    to: until === undefined ? `${PART_MAX}-${PART_MAX}` : bound('until', until, PART_MAX),
  };
}

function bound(option: string, text: string, seq: bigint): string {
  const ms = TIME.test(text) ? Date.parse(text) : Number.NaN;
  const id = ms >= 0 ? fullId(String(ms), seq) : fullId(text, seq);
  if (id !== null) return id;
  throw new SubitoError('USAGE', `--${option} ${JSON.stringify(text)} is neither an entry id nor a time`, {
    fix: 'write it like 1795343095350-0 or 2026-11-22T09:30:00Z',
  });
}

/** Less than 0 where the left one is smaller. Ids in full. */
export function compareEntryIds(left: string, right: string): number {
  const [leftMs = '0', leftSeq = '0'] = left.split('-');
  const [rightMs = '0', rightSeq = '0'] = right.split('-');
  return compareNumbers(leftMs, rightMs) || compareNumbers(leftSeq, rightSeq);
}

/** Of decimal digits without leading zeros: the longer one is larger. */
function compareNumbers(left: string, right: string): number {
  if (left === right) return 0;
  return left.length - right.length || (left < right ? -1 : 1);
}
