/** What became of events: predictions, dead letters, and receipts of dead letters that are gone. */
import { receiptsKey } from '../redis/keys.ts';
import { type EntryId, parseId } from './ids.ts';
import { lastValue, type RawEntry, type Scan, type StreamInfo } from './scan.ts';

/**
 * The states of an event that has its outcome. `requeued` and `dropped` are dead letters that an operator has
 * dealt with; `other` is an outcome whose status or reason this version does not know.
 */
export const OUTCOMES = [
  'ok',
  'degraded',
  'expired',
  'overloaded',
  'superseded',
  'cancelled',
  'invalid',
  'failed',
  'requeued',
  'dropped',
  'other',
] as const;
export type Outcome = (typeof OUTCOMES)[number];

const OTHER = OUTCOMES.indexOf('other');

export interface OutcomeStreams {
  readonly predictions: string;
  readonly deadletters: string;
}

export interface OutcomeVisitor {
  /** `outcome` is its place in OUTCOMES. */
  outcome(source: EntryId, outcome: number): void;
  /** An entry whose `source` is no entry id. */
  stray(source: Buffer): void;
}

function named(value: Buffer | undefined): number {
  const at = (OUTCOMES as readonly string[]).indexOf(value === undefined ? '' : value.toString('latin1'));
  return at === -1 ? OTHER : at;
}

function kinds(streams: OutcomeStreams): [stream: string, read: (values: readonly Buffer[]) => number][] {
  return [
    [streams.predictions, (values) => named(lastValue(values, 'status'))],
    [streams.deadletters, (values) => named(lastValue(values, 'reason'))],
    [
      receiptsKey(streams.deadletters),
      (values) => OUTCOMES.indexOf(lastValue(values, 'to')?.length ? 'requeued' : 'dropped'),
    ],
  ];
}

/**
 * Visits every outcome that is there when it is called, from an id of the outcome on. All ends are read
 * before the first page: a dead letter that is requeued meanwhile is then seen at most once, for its receipt
 * lies beyond the end. (It may be missed: a second look finds the receipt.)
 */
export async function readOutcomes(
  scan: Scan,
  streams: OutcomeStreams,
  from: EntryId,
  visitor: OutcomeVisitor,
): Promise<void> {
  const ends: [string, (values: readonly Buffer[]) => number, EntryId][] = [];
  for (const [stream, read] of kinds(streams)) {
    const info = await scan.info(stream);
    if (info !== null && info.length > 0) ends.push([stream, read, info.last]);
  }
  for (const [stream, read, end] of ends) {
    for await (const page of scan.pages(stream, from, end)) {
      for (const entry of page) visit(entry, read, visitor);
    }
  }
}

function visit(
  [, values]: RawEntry,
  read: (values: readonly Buffer[]) => number,
  visitor: OutcomeVisitor,
): void {
  const source = lastValue(values, 'source');
  // Empty: the answer to a socket's request, which was recorded. It has no entry.
  if (source === undefined || source.length === 0) return;
  const id = parseId(source);
  if (id === null) visitor.stray(source);
  else visitor.outcome(id, read(values));
}

/** How much there is to read. */
export async function countOutcomes(scan: Scan, streams: OutcomeStreams): Promise<number> {
  let count = 0;
  for (const [stream] of kinds(streams)) count += (await scan.info(stream))?.length ?? 0;
  return count;
}

/**
 * The outcome of an event whose id is of this millisecond or before may have been removed from its stream; -1
 * when none was. An outcome is as old as its event, or younger: they have the same clock.
 */
export async function removedUpToMs(scan: Scan, streams: OutcomeStreams): Promise<number> {
  const predictions = await scan.info(streams.predictions);
  const deadletters = await scan.info(streams.deadletters);
  const receipts = await scan.info(receiptsKey(streams.deadletters));
  let upToMs = Math.max(removedMs(predictions), removedMs(receipts));
  // Each dead letter that was requeued or dropped left a receipt; what is missing beyond that was trimmed.
  const removed = deadletters === null ? 0 : deadletters.added - deadletters.length;
  if (removed > (receipts?.added ?? 0)) upToMs = Math.max(upToMs, removedMs(deadletters));
  return upToMs;
}

function removedMs(info: StreamInfo | null): number {
  if (info === null || info.added <= info.length) return -1;
  // Trimming takes the oldest; XDEL takes any.
  return Math.max((info.first ?? info.last).ms, info.deleted.ms);
}
