/** A stream entry: its fields, and what can be judged of it without decoding the payload. */
import type { EntryColumns } from '../redis/stream-reply.ts';
import { isTraceparent } from './traceparent.ts';
import { wholeNumber } from './values.ts';

/** In the order of `EntryColumns.fields`. */
export const ENTRY_FIELDS = [
  'key',
  'model',
  'features',
  'data',
  'deadline_ms',
  'priority',
  'event',
  'trace',
] as const;
export const FIELD = {
  key: 0,
  model: 1,
  features: 2,
  data: 3,
  deadlineMs: 4,
  priority: 5,
  event: 6,
  trace: 7,
} as const;

export const PRIORITY_MAX = 2;
/** Of an entry that names none. */
export const PRIORITY_DEFAULT = 1;
/** Of a request that waits on a socket, and names none. */
export const PRIORITY_DIRECT = 0;
/** Of a name that nobody knows, what is shown. */
const NAME_BYTES_SHOWN = 64;

export interface EntryLimits {
  readonly payloadBytesMax: number;
  readonly keyBytesMax: number;
  readonly eventIdBytesMax: number;
  readonly traceBytesMax: number;
  readonly deadlineMsMax: number;
}

/** What is wrong with an entry for this model, with the field, the value and the rule; '' when nothing is. */
export function refusalOf(
  lane: { readonly name: string; readonly featuresBytes: number },
  buffer: Buffer,
  entry: EntryColumns,
  limits: EntryLimits,
): string {
  const { fields } = entry;
  const { payloadBytesMax, keyBytesMax, eventIdBytesMax, traceBytesMax, deadlineMsMax } = limits;
  const featuresBytes = valueBytes(fields, FIELD.features);
  const dataBytes = valueBytes(fields, FIELD.data);
  if (entry.unknownStart >= 0) {
    const { unknownStart, unknownEnd } = entry;
    const name = buffer.toString('utf8', unknownStart, Math.min(unknownEnd, unknownStart + NAME_BYTES_SHOWN));
    return `${name}: unknown field of an entry; known are ${ENTRY_FIELDS.join(', ')}`;
  }
  if (featuresBytes < 0 === dataBytes < 0) {
    return dataBytes < 0
      ? 'data: missing; give features or data'
      : 'features: give features or data, not both';
  }
  if (dataBytes > payloadBytesMax) {
    return `data: ${dataBytes} bytes; at most ${payloadBytesMax} are taken`;
  }
  if (featuresBytes >= 0 && lane.featuresBytes === 0) {
    return `features: ${lane.name} has inputs without a fixed size; use data`;
  }
  if (featuresBytes >= 0 && featuresBytes !== lane.featuresBytes) {
    return `features: ${featuresBytes} bytes; a row of ${lane.name} has ${lane.featuresBytes}`;
  }
  if (valueBytes(fields, FIELD.key) > keyBytesMax) {
    return `key: ${valueBytes(fields, FIELD.key)} bytes; at most ${keyBytesMax} are taken`;
  }
  if (valueBytes(fields, FIELD.event) > eventIdBytesMax) {
    return `event: ${valueBytes(fields, FIELD.event)} bytes; at most ${eventIdBytesMax} are taken`;
  }
  if (valueBytes(fields, FIELD.trace) > traceBytesMax) {
    return `trace: ${valueBytes(fields, FIELD.trace)} bytes; a traceparent has ${traceBytesMax}`;
  }
  if (!isTraceparent(buffer, fields[2 * FIELD.trace] as number, fields[2 * FIELD.trace + 1] as number)) {
    return 'trace: must be a W3C traceparent';
  }
  if (!inRange(buffer, fields, FIELD.deadlineMs, 1, deadlineMsMax)) {
    return `deadline_ms: must be a whole number from 1 to ${deadlineMsMax}`;
  }
  if (!inRange(buffer, fields, FIELD.priority, 0, PRIORITY_MAX)) {
    return 'priority: must be 0 (playing), 1 (prefetch) or 2 (analytics)';
  }
  return '';
}

/** Bytes of a field's value; -1: the entry has no such field. */
function valueBytes(fields: Int32Array, field: number): number {
  const start = fields[2 * field] as number;
  return start < 0 ? -1 : (fields[2 * field + 1] as number) - start;
}

/** True also when the entry has no such field. */
function inRange(buffer: Uint8Array, fields: Int32Array, field: number, min: number, max: number): boolean {
  const start = fields[2 * field] as number;
  if (start < 0) return true;
  const value = wholeNumber(buffer, start, fields[2 * field + 1] as number);
  return value >= min && value <= max;
}

/** Of a field whose value has been found to be one; 0: the entry has no such field. */
export function numberOf(buffer: Uint8Array, fields: Int32Array, field: number): number {
  const start = fields[2 * field] as number;
  return start < 0 ? 0 : wholeNumber(buffer, start, fields[2 * field + 1] as number);
}

export function priorityOf(buffer: Uint8Array, fields: Int32Array): number {
  const isNamed = (fields[2 * FIELD.priority] as number) >= 0;
  return isNamed ? numberOf(buffer, fields, FIELD.priority) : PRIORITY_DEFAULT;
}
