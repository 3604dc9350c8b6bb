/** The form of an event's `trace`. */

const DASH = 0x2d;
/**
 * version-traceid-spanid-flags: where its dashes stand, and how long it is without what later versions add.
 */
const [TRACE_ID_DASH, SPAN_ID_DASH, FLAGS_DASH, TRACEPARENT_BYTES] = [2, 35, 52, 55] as const;

/**
 * By https://www.w3.org/TR/trace-context/#traceparent-header: lower-case hex, no id all zeros, version ff never,
 * and only versions after 00 may say more. True also when the entry has no such field:
 * `start` is then -1.
 */
export function isTraceparent(buffer: Uint8Array, start: number, end: number): boolean {
  if (start < 0) return true;
  const bytes = end - start;
  if (bytes < TRACEPARENT_BYTES) return false;
  let version = 0;
  let traceId = 0;
  let spanId = 0;
  for (let i = 0; i < TRACEPARENT_BYTES; i += 1) {
    const byte = buffer[start + i] as number;
    if (i === TRACE_ID_DASH || i === SPAN_ID_DASH || i === FLAGS_DASH) {
      if (byte !== DASH) return false;
      continue;
    }
    const digit = hexDigit(byte);
    if (digit < 0) return false;
    if (i < TRACE_ID_DASH) version = version * 16 + digit;
    else if (i < SPAN_ID_DASH) traceId |= digit;
    else if (i < FLAGS_DASH) spanId |= digit;
  }
  if (version === 0xff || traceId === 0 || spanId === 0) return false;
  return bytes === TRACEPARENT_BYTES || (version > 0 && buffer[start + TRACEPARENT_BYTES] === DASH);
}

/**
 * The traceparent, where the one who began the trace wants it recorded
 * (https://www.w3.org/TR/trace-context/#sampled-flag); null where not, or where it is none.
 */
export function sampledTraceparent(buffer: Buffer, start: number, end: number): string | null {
  if (start < 0 || !isTraceparent(buffer, start, end)) return null;
  const isSampled = (hexDigit(buffer[start + TRACEPARENT_BYTES - 1] as number) & 1) === 1;
  return isSampled ? buffer.toString('latin1', start, start + TRACEPARENT_BYTES) : null;
}

/** The value of a hexadecimal digit in lower case, or -1. */
function hexDigit(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  return byte >= 0x61 && byte <= 0x66 ? byte - 0x61 + 10 : -1;
}
