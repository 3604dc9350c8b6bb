/**
 * What the stages report, as node:diagnostics_channel messages: one per batch or rarer, never one per event.
 * Metrics, console figures and tracing subscribe; a stage never knows who listens.
 *
 * A message is valid only during the callback: its arrays are the slab's own columns, reused afterwards.
 */
import { channel } from 'node:diagnostics_channel';
import type { OutcomeCounts } from './figures.ts';

/** A reply of XREADGROUP was taken in. */
export interface ReadReport {
  readonly stream: string;
  readonly rows: number;
  readonly bytes: number;
}

/** A slab came back from a worker. */
export interface InferReport {
  /** `name@version`. */
  readonly model: string;
  readonly rows: number;
  /** Dispatch to answer, seen from the main thread. */
  readonly roundTripUs: number;
  /** In the worker: decode, run, encode. */
  readonly inferUs: number;
  /** `session.run` alone. */
  readonly runUs: number;
}

/**
 * The rows of a slab are settled: committed to Redis, or answered directly. So many had each outcome;
 * together they are `rows`.
 */
export interface SettleReport extends OutcomeCounts {
  readonly model: string;
  /** Name of the input stream; 'direct' for requests over WebSocket and HTTP. */
  readonly stream: string;
  /** All rows of the slab that belong to `stream`. */
  readonly rows: number;
  /** Per row, in the first `rows` places: milliseconds (Unix time) of its entry id or arrival. */
  readonly arrivedMs: Float64Array;
  /**
   * Likewise: when the row's bytes lay in the slab, which parts waiting in Redis from waiting for a worker.
   */
  readonly readMs: Float64Array;
  /** Unix milliseconds, with fractions: when the slab was taken by a worker, came back, and was settled. */
  readonly dispatchedMs: number;
  readonly inferredMs: number;
  readonly settledMs: number;
}

/** A prediction of the tail went to subscribers. */
export interface PushReport {
  /** Frames handed to the sockets now / put into a slot or queue for lack of credit / dropped. */
  readonly sent: number;
  readonly held: number;
  readonly dropped: number;
  /** Entry id of the prediction to the hand-over, milliseconds. */
  readonly pushMs: number;
}

/** Something an operator should know; the logger rate-limits repeats by `code`. */
export interface NoticeReport {
  readonly level: 'info' | 'warn' | 'error';
  readonly code: string;
  readonly message: string;
}

export const channels = {
  read: channel('subito:read'),
  infer: channel('subito:infer'),
  settle: channel('subito:settle'),
  push: channel('subito:push'),
  notice: channel('subito:notice'),
} as const;

/** Tells the operator. */
export function notice(level: NoticeReport['level'], code: string, message: string): void {
  channels.notice.publish({ level, code, message } satisfies NoticeReport);
}
