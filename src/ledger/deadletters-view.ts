/** Dead letters as people and programs read them. */
import { isUtf8 } from 'node:buffer';
import { parseData } from '../infer/decode.ts';
import type { Letter } from './deadletters.ts';

/** The payload as JSON has it, and whether `JSON.stringify` of it gives back the very bytes. */
export type Decoded =
  | { readonly ok: true; readonly value: unknown; readonly exact: boolean }
  | { readonly ok: false; readonly problem: string };

/** Of `data`: JSON or MessagePack. Integers beyond 2^53 - 1 become text, binary values lists of bytes. */
export function decodeData(bytes: Buffer): Decoded {
  try {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const parsed = parseData(bytes, view, 0, bytes.length);
    const json = JSON.stringify(parsed, jsonValue);
    return { ok: true, value: JSON.parse(json), exact: bytes.equals(Buffer.from(json)) };
  } catch (error) {
    // RangeError of JSON.stringify included: it recurses, and an event may nest as deep as it likes.
    return { ok: false, problem: (error as Error).message };
  }
}

/** For JSON.stringify. `this` has the value itself; the argument is what a Buffer's own toJSON made of it. */
function jsonValue(this: unknown, key: string, made: unknown): unknown {
  const value = (this as Record<string, unknown>)[key];
  if (typeof value === 'bigint') return String(value);
  return ArrayBuffer.isView(value) ? Array.from(value as Uint8Array) : made;
}

const textFields = ['key', 'model', 'event', 'trace'];
const numberFields = ['deadline_ms', 'priority'];

/**
 * One line of NDJSON. The input's fields can be had back to the byte: they are the line's own keys where
 * these say it all, in their order, else all of them are in `fields_base64`, names and values in pairs.
 * `data_base64` is there where `data` cannot be decoded, or would not be the same bytes when it is encoded.
 */
export function exportLine(letter: Letter): string {
  return JSON.stringify(exported(letter));
}

function exported(letter: Letter): Record<string, unknown> {
  const { partition, id, source, reason, detail, deliveries, values } = letter;
  const line: Record<string, unknown> = {
    stream: partition.name,
    id,
    source,
    reason,
    detail,
    deliveries: Number(deliveries),
  };
  const seen = new Set<string>();
  let told = true;
  for (let i = 0; i < values.length; i += 2) {
    const name = values[i]!.toString();
    if (seen.has(name) || !addField(line, name, values[i + 1]!)) told = false;
    seen.add(name);
  }
  if (!told) line['fields_base64'] = pairs(values);
  return line;
}

/** False where the line does not say all of it. Of a field given twice the last counts, as in the engine. */
function addField(line: Record<string, unknown>, name: string, value: Buffer): boolean {
  if (name === 'features') {
    line['features_base64'] = value.toString('base64');
    return true;
  }
  if (name === 'data') {
    const decoded = decodeData(value);
    delete line['data'];
    delete line['data_base64'];
    if (decoded.ok) line['data'] = decoded.value;
    if (!decoded.ok || !decoded.exact) line['data_base64'] = value.toString('base64');
    return true;
  }
  const text = value.toString();
  const isNumber = numberFields.includes(name);
  if (!isNumber && !textFields.includes(name)) return false;
  const number = Number(text);
  line[name] = isNumber && String(number) === text && Number.isSafeInteger(number) ? number : text;
  return isUtf8(value);
}

function pairs(values: readonly Buffer[]): string[][] {
  const found: string[][] = [];
  for (let i = 0; i < values.length; i += 2)
    found.push([values[i]!.toString('base64'), values[i + 1]!.toString('base64')]);
  return found;
}

/** Everything, for `show --json`. */
export function letterReport(letter: Letter): Record<string, unknown> {
  const { features_base64: base64, ...line } = exported(letter);
  const features = typeof base64 === 'string' ? Buffer.from(base64, 'base64') : null;
  const data = lastValue(letter, 'data');
  const decoded = data === null ? null : decodeData(data);
  return {
    deadletters: letter.partition.deadletters,
    died_at: diedAt(letter.id),
    bytes: letter.bytes,
    ...line,
    ...(decoded?.ok === false ? { data_problem: decoded.problem } : {}),
    ...(features === null ? {} : { features_bytes: features.length, features_hex: features.toString('hex') }),
    fields: fieldsOf(letter).map(([name, value]) => ({
      name: name.toString(),
      bytes: value.length,
      text: isUtf8(value) ? value.toString() : null,
    })),
  };
}

function fieldsOf({ values }: Letter): [name: Buffer, value: Buffer][] {
  const found: [Buffer, Buffer][] = [];
  for (let i = 0; i < values.length; i += 2) found.push([values[i]!, values[i + 1]!]);
  return found;
}

function lastValue(letter: Letter, name: string): Buffer | null {
  return fieldsOf(letter).findLast(([each]) => each.equals(Buffer.from(name)))?.[1] ?? null;
}

function diedAt(id: string): string | null {
  const date = new Date(Number.parseInt(id, 10));
  return Number.isNaN(date.getTime()) ? null : date.toISOString();
}

/** Values that are shown in full; of longer ones the beginning. */
const SHOWN_BYTES_MAX = 4096;
const SHOWN_FIELDS_MAX = 100;
const HEX_LINE_BYTES = 32;

/** Everything, for people: fields in their order, payloads decoded. */
export function letterText(letter: Letter, nowMs: number): string {
  const { partition, id, source, reason, detail, deliveries } = letter;
  const lines = [`dead letter ${id} of ${partition.name} (in ${partition.deadletters})`];
  const row = (name: string, value: string) => lines.push(`  ${printable(name).padEnd(11)} ${value}`);
  row('died', `${diedAt(id) ?? '-'}, ${ageText(ageMs(id, nowMs))} ago`);
  if (source === '') row('written by', 'not Subito; all fields of the entry follow');
  else {
    row('source', source);
    row('reason', printable(reason));
    row('detail', printable(detail));
    row('deliveries', deliveries);
  }
  const fields = fieldsOf(letter);
  lines.push(fields.length === 0 ? 'the event: nothing of it was kept' : 'the event:');
  for (const [name, value] of fields.slice(0, SHOWN_FIELDS_MAX)) {
    const text = name.toString();
    if (text === 'data') lines.push(...dataLines(value));
    else if (text === 'features' || !isUtf8(value)) lines.push(...hexLines(printable(text), value));
    else row(text, cut(printable(value.toString())));
  }
  if (fields.length > SHOWN_FIELDS_MAX)
    lines.push(`  and ${fields.length - SHOWN_FIELDS_MAX} more fields; --json has all`);
  return `${lines.join('\n')}\n`;
}

function dataLines(value: Buffer): string[] {
  const decoded = decodeData(value);
  if (!decoded.ok) {
    const head = `  ${'data'.padEnd(11)} ${value.length} bytes: ${printable(decoded.problem)}`;
    if (!isUtf8(value)) return [head, ...hexLines('', value).slice(1)];
    return [head, `    ${cut(printable(value.toString()))}`];
  }
  const text = JSON.stringify(decoded.value, null, 2).split('\n');
  return [`  ${'data'.padEnd(11)} ${value.length} bytes`, ...text.map((line) => `    ${printable(line)}`)];
}

function hexLines(name: string, value: Buffer): string[] {
  const lines = [`  ${name.padEnd(11)} ${value.length} bytes`];
  const shown = value.subarray(0, SHOWN_BYTES_MAX);
  for (let at = 0; at < shown.length; at += HEX_LINE_BYTES)
    lines.push(`    ${shown.toString('hex', at, Math.min(at + HEX_LINE_BYTES, shown.length))}`);
  if (value.length > SHOWN_BYTES_MAX) lines.push('    ... --json has all');
  return lines;
}

function cut(text: string): string {
  return text.length > SHOWN_BYTES_MAX ? `${text.slice(0, SHOWN_BYTES_MAX)}... --json has all` : text;
}

/** Events come from anyone: what could steer a terminal is shown as an escape. */
export function printable(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Cf}\u2028\u2029]/gu,
    (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`,
  );
}

export function ageMs(id: string, nowMs: number): number {
  return Math.max(0, nowMs - Number.parseInt(id, 10));
}

const units = [
  [86_400_000, 'd'],
  [3_600_000, 'h'],
  [60_000, 'min'],
  [1000, 's'],
] as const;

/** `4 min`: the largest unit of which there is one. */
export function ageText(ms: number): string {
  for (const [unitMs, name] of units) if (ms >= unitMs) return `${Math.floor(ms / unitMs)} ${name}`;
  return `${Math.floor(ms)} ms`;
}
