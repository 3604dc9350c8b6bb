/**
 * Checks of single values in frames and bodies from clients. Each throws InvalidEvent with the place and
 * what is wrong.
 */
import { InvalidEvent } from '../infer/handler.ts';
import type { Limits } from '../limits.ts';

export type FieldLimits = Pick<
  Limits,
  'keyBytesMax' | 'eventIdBytesMax' | 'modelNameBytesMax' | 'deadlineMsMax'
>;

type Fields = Readonly<Record<string, unknown>>;

/** A string of at most `bytesMax` bytes of UTF-8; '' when it is absent. */
export function optionalText(fields: Fields, name: string, bytesMax: number): string {
  const value = fields[name];
  if (value === undefined || value === null) return '';
  if (typeof value !== 'string') throw new InvalidEvent(name, 'must be a string');
  // No character takes more than 3 bytes per UTF-16 unit: most strings are seen to fit without counting.
  if (value.length * 3 > bytesMax && Buffer.byteLength(value) > bytesMax) {
    throw new InvalidEvent(name, `is longer than ${bytesMax} bytes`);
  }
  return value;
}

/** A whole number from `min` to `max`; `absent` when it is not there. */
export function optionalCount(
  fields: Fields,
  name: string,
  min: number,
  max: number,
  absent: number,
): number {
  const value = fields[name];
  if (value === undefined || value === null) return absent;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    throw new InvalidEvent(name, `must be a whole number from ${min} to ${max}`);
  }
  return value;
}

/** Milliseconds; 0 when absent. */
/** 0 (playing), 1 (prefetch) or 2 (analytics). */
export function optionalPriority(fields: Fields, otherwise: number): number {
  const value = fields['priority'];
  if (value === undefined) return otherwise;
  if (value !== 0 && value !== 1 && value !== 2) {
    throw new InvalidEvent('priority', 'must be 0 (playing), 1 (prefetch) or 2 (analytics)');
  }
  return value;
}

export function optionalDeadlineMs(fields: Fields, name: string, deadlineMsMax: number): number {
  const value = fields[name];
  if (value === undefined || value === null) return 0;
  if (typeof value !== 'number' || !(value > 0 && value <= deadlineMsMax)) {
    throw new InvalidEvent(name, `must be a number above 0 and at most ${deadlineMsMax}`);
  }
  return value;
}

/** A list of at most `countMax` model names; null when it is absent. */
export function optionalModels(
  fields: Fields,
  name: string,
  countMax: number,
  bytesMax: number,
): readonly string[] | null {
  const value = fields[name];
  if (value === undefined || value === null) return null;
  if (!Array.isArray(value) || value.length === 0 || value.length > countMax) {
    throw new InvalidEvent(name, `must be a list of 1 to ${countMax} model names`);
  }
  for (const [i, model] of value.entries()) {
    const path = `${name}[${i}]`;
    if (typeof model !== 'string' || model === '') throw new InvalidEvent(path, 'must be a model name');
    optionalText({ [path]: model }, path, bytesMax);
  }
  return value as string[];
}

export interface Channel {
  readonly kind: 'key' | 'model';
  /** The key, or the model's name with or without a version. */
  readonly name: string;
}

/** `key:<key>` or `model:<name>`. */
export function channelOf(fields: Fields, name: string, limits: FieldLimits): Channel {
  const bytesMax = Math.max(limits.keyBytesMax, limits.modelNameBytesMax) + 'model:'.length;
  const text = optionalText(fields, name, bytesMax);
  if (text.startsWith('key:')) {
    const key = text.slice(4);
    if (key !== '' && Buffer.byteLength(key) <= limits.keyBytesMax) return { kind: 'key', name: key };
  } else if (text.startsWith('model:')) {
    if (text.length > 6) return { kind: 'model', name: text.slice(6) };
  }
  throw new InvalidEvent(name, `must be key:<key> (1 to ${limits.keyBytesMax} bytes) or model:<name>`);
}
