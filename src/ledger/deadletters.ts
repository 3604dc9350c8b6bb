/**
 * Reads dead letters. A dead letter is an entry of a dead-letter stream: the input's fields as they came,
 * then four pairs that lua/deadletter.lua wrote: source, reason, detail, deliveries. An input may carry
 * fields of these names too, so only the last four pairs count.
 *
 * Everything goes from page to page, and what is only looked at leaves its payload in Redis: a stream of a
 * million letters takes as little memory as one of ten.
 */
import type { StreamPartition } from '../engine/streams.ts';
import type { Control } from '../redis/control.ts';
import { asked } from './deadletters-fault.ts';
import { compareEntryIds, type IdRange } from './deadletters-range.ts';

export type Reason = 'invalid' | 'failed';

/** What fits on a line. */
export interface LetterSummary {
  readonly partition: StreamPartition;
  /** Its entry id among the dead letters: when it died. */
  readonly id: string;
  readonly bytes: number;
  /** Both at most 256 bytes, '' where the event named none. */
  readonly key: string;
  readonly model: string;
  /** '' in all four: an entry that Subito did not write. */
  readonly source: string;
  readonly reason: string;
  readonly detail: string;
  readonly deliveries: string;
  /** Pairs of the input. */
  readonly fields: number;
}

/** A whole letter. */
export interface Letter extends LetterSummary {
  /** The input's fields as they came: names and values in turn. */
  readonly values: readonly Buffer[];
}

export interface LetterFilter {
  readonly reason?: Reason | undefined;
  /** `name` (any version) or `name@version`; the stream's model counts for events that name none. */
  readonly model?: string | undefined;
}

/** The letters of one partition that were there when it was made; those that die later are not in it. */
export interface Selection {
  readonly partition: StreamPartition;
  readonly range: IdRange;
  readonly filter: LetterFilter;
}

const PAGE_LETTERS = 200;
const SUMMARY_ITEMS = 9;
const OURS = 8;
/** Of one XRANGE of whole letters; a letter that is larger comes alone. */
const PAGE_BYTES = 4 << 20;

/** Null where nothing lies in the range. */
export async function select(
  control: Control,
  partition: StreamPartition,
  range: IdRange,
  filter: LetterFilter,
): Promise<Selection | null> {
  const { letters } = await readPage(control, partition, range.to, range.from, 1, 'newest');
  const [newest] = letters;
  return newest === undefined ? null : { partition, range: { from: range.from, to: newest.id }, filter };
}

/** What a selection holds, page by page; pages may be empty. */
export async function* summaries(
  control: Control,
  { partition, range, filter }: Selection,
  order: 'newest' | 'oldest' = 'oldest',
): AsyncGenerator<LetterSummary[]> {
  const [start, end] = order === 'newest' ? [range.to, range.from] : [range.from, range.to];
  for (let at = start; ; ) {
    const { letters, next } = await readPage(control, partition, at, end, PAGE_LETTERS, order);
    yield letters.filter((letter) => matches(letter, filter));
    if (next === '') return;
    at = `(${next}`;
  }
}

/** The same with payloads, one by one, oldest first. A letter that was removed meanwhile is left out. */
export async function* wholeLetters(control: Control, selection: Selection): AsyncGenerator<Letter> {
  for await (const page of summaries(control, selection)) {
    for (let first = 0; first < page.length; ) {
      let end = first;
      let bytes = 0;
      do bytes += page[end++]!.bytes;
      while (end < page.length && bytes + page[end]!.bytes <= PAGE_BYTES);
      const group = page.slice(first, end);
      // One by one, but all at once: what lies between them may be many times as large.
      const found = await Promise.all(group.map((summary) => wholeLetter(control, summary)));
      for (const letter of found) if (letter !== null) yield letter;
      first = end;
    }
  }
}

/** Null where it is not there any more. */
export async function wholeLetter(control: Control, summary: LetterSummary): Promise<Letter | null> {
  const { deadletters } = summary.partition;
  const read = control.callBuffer('XRANGE', deadletters, summary.id, summary.id);
  const [entry] = (await asked(deadletters, read)) as [Buffer, Buffer[]][];
  if (entry === undefined) return null;
  const [, values] = entry;
  return { ...summary, values: summary.source === '' ? values : values.slice(0, -OURS) };
}

/** The letters with these ids, by id: an id may name one letter of each partition, or none. */
export async function findLetters(
  control: Control,
  partitions: readonly StreamPartition[],
  ids: readonly string[],
): Promise<Map<string, LetterSummary[]>> {
  const found = new Map<string, LetterSummary[]>(ids.map((id) => [id, []]));
  for (const partition of partitions) {
    for (let at = 0; at < ids.length; at += PAGE_LETTERS) {
      const some = ids.slice(at, at + PAGE_LETTERS);
      const pages = await Promise.all(some.map((id) => readPage(control, partition, id, id, 1, 'oldest')));
      for (const { letters } of pages) for (const letter of letters) found.get(letter.id)?.push(letter);
    }
  }
  return found;
}

/** Newest first; partitions of one stream and streams mixed. */
export function newestFirst(left: LetterSummary, right: LetterSummary): number {
  return compareEntryIds(right.id, left.id);
}

/** `name` or `name@version` that the event was for; '' where neither event nor stream names one. */
export function modelOf({ model, partition }: LetterSummary): string {
  return model || partition.model || '';
}

function matches(letter: LetterSummary, { reason, model }: LetterFilter): boolean {
  if (reason !== undefined && letter.reason !== reason) return false;
  if (model === undefined) return true;
  const of = modelOf(letter);
  return of === model || of.split('@')[0] === model;
}

interface Page {
  readonly letters: LetterSummary[];
  /** The last id that was read; '' when nothing is left. */
  readonly next: string;
}

async function readPage(
  control: Control,
  partition: StreamPartition,
  start: string,
  end: string,
  count: number,
  order: 'newest' | 'oldest',
): Promise<Page> {
  const { deadletters } = partition;
  const read = control.script('letters', [deadletters], [start, end, count, order]);
  const [next = '', ...items] = (await asked(deadletters, read)) as string[];
  const letters: LetterSummary[] = [];
  for (let i = 0; i < items.length; i += SUMMARY_ITEMS) {
    const [id = '', bytes, key = '', model = '', source = '', reason = '', detail = '', deliveries = ''] =
      items.slice(i, i + SUMMARY_ITEMS);
    const fields = Number(items[i + SUMMARY_ITEMS - 1]);
    letters.push({
      partition,
      id,
      bytes: Number(bytes),
      key,
      model,
      source,
      reason,
      detail,
      deliveries,
      fields,
    });
  }
  return { letters, next };
}
