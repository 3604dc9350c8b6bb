/**
 * A walk over MessagePack bytes that builds nothing. It answers two questions before a decoder sees what a
 * stranger sent: is this well formed, shallow and free of extension types (decoders give those powers of
 * their own), and where does each value of the outermost map lie, so that `d` can be passed on as the bytes
 * that came.
 */

export class Malformed extends Error {
  override readonly name = 'Malformed';
}

/**
 * Values may nest this deep, in MessagePack and in JSON. The deepest honest event is a matrix in a map in a
 * frame.
 */
export const NESTING_MAX = 32;

/** One entry of the outermost map: the key's text, and where its value begins and ends. */
export interface MapEntry {
  readonly key: string;
  readonly start: number;
  readonly end: number;
}

/** Bytes of the length field and what one unit of length stands for, by the type byte. */
const VARIABLE: Readonly<Record<number, readonly ['bytes' | 'array' | 'map', 1 | 2 | 4]>> = {
  196: ['bytes', 1], // bin 8, 16, 32
  197: ['bytes', 2],
  198: ['bytes', 4],
  217: ['bytes', 1], // str 8, 16, 32
  218: ['bytes', 2],
  219: ['bytes', 4],
  220: ['array', 2],
  221: ['array', 4],
  222: ['map', 2],
  223: ['map', 4],
};

/** Bytes after the type byte of float 32, 64, uint 8..64 and int 8..64: 0xca to 0xd3. */
const FIXED = [4, 8, 1, 2, 4, 8, 1, 2, 4, 8] as const;

interface Head {
  readonly kind: 'scalar' | 'array' | 'map';
  /** Elements of an array, pairs of a map. */
  readonly count: number;
  /** Just past the head, or past the whole value of a scalar. */
  readonly next: number;
  /** Where a string's text begins; -1 for anything else. */
  readonly text: number;
}

function byteAt(bytes: Uint8Array, at: number): number {
  const byte = bytes[at];
  if (byte === undefined) throw new Malformed('the message ends inside a value');
  return byte;
}

function unsigned(bytes: Uint8Array, at: number, size: 1 | 2 | 4): number {
  let value = 0;
  for (let i = 0; i < size; i++) value = value * 256 + byteAt(bytes, at + i);
  return value;
}

function scalar(bytes: Uint8Array, next: number, text = -1): Head {
  if (next > bytes.length) throw new Malformed('the message ends inside a value');
  return { kind: 'scalar', count: 0, next, text };
}

function readHead(bytes: Uint8Array, at: number): Head {
  const type = byteAt(bytes, at);
  if (type < 0x80 || type >= 0xe0) return scalar(bytes, at + 1);
  if (type < 0x90) return { kind: 'map', count: type & 15, next: at + 1, text: -1 };
  if (type < 0xa0) return { kind: 'array', count: type & 15, next: at + 1, text: -1 };
  if (type < 0xc0) return scalar(bytes, at + 1 + (type & 31), at + 1);
  if (type === 0xc0 || type === 0xc2 || type === 0xc3) return scalar(bytes, at + 1);
  const fixed = type >= 0xca ? FIXED[type - 0xca] : undefined;
  if (fixed !== undefined) return scalar(bytes, at + 1 + fixed);
  const variable = VARIABLE[type];
  if (variable === undefined) throw new Malformed(`type 0x${type.toString(16)} is not taken`);
  const [kind, size] = variable;
  const length = unsigned(bytes, at + 1, size);
  const next = at + 1 + size;
  if (kind === 'bytes') return scalar(bytes, next + length, type >= 0xd9 ? next : -1);
  return { kind, count: length, next, text: -1 };
}

/** Where the value that begins at `at` ends. Throws Malformed. */
function skip(bytes: Uint8Array, at: number, depth: number): number {
  if (depth > NESTING_MAX) throw new Malformed(`values nest deeper than ${NESTING_MAX}`);
  const head = readHead(bytes, at);
  let next = head.next;
  // A false count cannot loop for long: every element takes at least one byte, and the bytes run out.
  const values = head.kind === 'map' ? head.count * 2 : head.count;
  for (let i = 0; i < values; i++) next = skip(bytes, next, depth + 1);
  return next;
}

/** The entries of the one map that fills `bytes`. Throws Malformed for anything else. */
export function mapEntries(bytes: Uint8Array): MapEntry[] {
  const head = readHead(bytes, 0);
  if (head.kind !== 'map') throw new Malformed('the message is not a map');
  const entries: MapEntry[] = [];
  let at = head.next;
  for (let i = 0; i < head.count; i++) {
    const key = readHead(bytes, at);
    if (key.text < 0) throw new Malformed('a key of the message is not a string');
    const end = skip(bytes, key.next, 2);
    const text = Buffer.from(bytes.buffer, bytes.byteOffset + key.text, key.next - key.text);
    entries.push({ key: text.toString('utf8'), start: key.next, end });
    at = end;
  }
  if (at !== bytes.length) throw new Malformed('bytes follow the message');
  return entries;
}

/** True when a MessagePack map begins at `at`. */
export function isMap(bytes: Uint8Array, at: number): boolean {
  const type = bytes[at];
  return type !== undefined && ((type >= 0x80 && type < 0x90) || type === 0xde || type === 0xdf);
}

/** One more entry in the map that `map` holds; `key` is at most 31 ASCII letters, `value` is encoded. */
export function withEntry(map: Uint8Array, key: string, value: Uint8Array): Buffer {
  const head = readHead(map, 0);
  const count = head.count + 1;
  const out = Buffer.allocUnsafe(3 + (map.length - head.next) + 1 + key.length + value.length);
  out[0] = 0xde;
  out.writeUInt16BE(count, 1);
  out.set(map.subarray(head.next), 3);
  let at = 3 + map.length - head.next;
  out[at++] = 0xa0 | key.length;
  at += out.write(key, at, 'latin1');
  out.set(value, at);
  return out;
}
