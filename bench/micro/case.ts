/** What a micro benchmark measures: one piece of a hot path, alone, in batches of two sizes. */
import type { Native } from '../../src/native.ts';

export const VARIANTS = ['twin', 'native'] as const;
export type Variant = (typeof VARIANTS)[number];

/** Handles `events` events: in one batch, where the piece works in batches. */
export type Work = (events: number) => void | Promise<void>;

export interface MicroCase {
  readonly name: string;
  /** What one event is, where it is not an event of a stream: a frame, a push. */
  readonly unit?: string;
  /** Nothing may be allocated for one event more; what a batch costs once is its own. */
  readonly allocatesNothing?: boolean;
  /** The TypeScript and its counterpart in the addon; null: there is none, or no addon. */
  readonly variants: Readonly<Record<Variant, Work | null>>;
  /** Lets go of sockets and sessions. */
  readonly close?: () => void;
}

/**
 * Time is taken at the large size, which is what a loaded engine has. Memory is taken at both: what is
 * allocated per batch is the same at both, so the difference is what the further events cost.
 */
export const EVENTS_SMALL = 32;
export const EVENTS_LARGE = 256;
/** Of the slabs: more, so that batches of both sizes leave for the same reason. */
export const ROWS_MAX = 2 * EVENTS_LARGE;

/** A case that exists in TypeScript only. */
export function twinOnly(work: Work): MicroCase['variants'] {
  return { twin: work, native: null };
}

/** A case that the addon does differently, where there is one. */
export function both(addon: Native | null, workOf: (native: Native | null) => Work): MicroCase['variants'] {
  return { twin: workOf(null), native: addon === null ? null : workOf(addon) };
}
