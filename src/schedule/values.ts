/** Values of an entry's fields, read where they lie in the receive buffer. */

const DASH = 0x2d;

/**
 * Cells with an entry's times, Unix milliseconds: numbers that are passed on become objects where a function
 * is not inlined, and there are many entries.
 */
export const TIME = {
  arrivedMs: 0,
  /** Infinity: none. */
  deadlineMs: 1,
  /** By when it should be run, lost later or not. */
  urgentMs: 2,
  /** When it was received. */
  nowMs: 3,
} as const;

export function equalBytes(buffer: Uint8Array, start: number, end: number, other: Uint8Array): boolean {
  if (end - start !== other.length) return false;
  for (let i = 0; i < other.length; i += 1) if (buffer[start + i] !== other[i]) return false;
  return true;
}

/**
 * Notes in `times` when an entry arrived: its id, and by how much our clock is ahead of the one that made it.
 */
export function putArrival(
  times: Float64Array,
  buffer: Uint8Array,
  { idStart, idEnd }: { readonly idStart: number; readonly idEnd: number },
  skew: { readonly aheadMs: number },
): void {
  let value = 0;
  for (let at = idStart; at < idEnd && buffer[at] !== DASH; at += 1)
    value = value * 10 + (buffer[at] as number) - 48;
  times[TIME.arrivedMs] = value + skew.aheadMs;
}

/** The milliseconds of an entry id, the part before the dash. */
export function idMs(buffer: Uint8Array, start: number, end: number): number {
  let value = 0;
  for (let at = start; at < end && buffer[at] !== DASH; at += 1)
    value = value * 10 + (buffer[at] as number) - 48;
  return value;
}

/** A whole number in ASCII digits, or -1. */
export function wholeNumber(buffer: Uint8Array, start: number, end: number): number {
  if (start === end || end - start > 10) return -1;
  let value = 0;
  for (let at = start; at < end; at += 1) {
    const digit = (buffer[at] as number) - 48;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value;
}
