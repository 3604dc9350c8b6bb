/**
 * MessagePack, straight from and into slab memory. https://github.com/msgpack/msgpack/blob/master/spec.md
 *
 * Why not msgpackr here: events come from anyone. Its reader also takes its own extensions (record structures
 * that it compiles, regular expressions, shared references), which no event needs; and its writer cannot
 * write into the slab. Extensions are refused, nesting is bounded, and no length is believed before the bytes
 * are there.
 */
import { isUtf8 } from 'node:buffer';
import type { OutArena } from './arena.ts';

export class MessagePackError extends Error {
  override readonly name = 'MessagePackError';
}

/** Deeper than any tensor or event has a use for; keeps the recursion shallow. */
export const DEPTH_MAX = 32;

/** Keys remembered from one event for the next. */
const KEYS_MAX = 1024;

/**
 * The text in `bytes[start, end)`. Throws a MessagePackError where it is not UTF-8: Buffer puts U+FFFD there,
 * so only a text that holds one needs a second look.
 */
export function utf8Text(bytes: Buffer<ArrayBufferLike>, start: number, end: number): string {
  const text = bytes.toString('utf8', start, end);
  if (text.includes('\ufffd') && !isUtf8(bytes.subarray(start, end)))
    throw new MessagePackError('holds text that is not UTF-8');
  return text;
}

export class MessagePackReader {
  #bytes: Buffer<ArrayBufferLike> = Buffer.alloc(0);
  #view: DataView = new DataView(new ArrayBuffer(0));
  #at = 0;
  #end = 0;
  #depth = 0;
  /**
   * The last event's keys in their order: the next event mostly has the same, and its strings need not be
   * made.
   */
  readonly #keys: string[] = [];
  #keyCount = 0;

  /**
   * Begins the map that lies in `bytes[start, end)` and returns how many fields it holds: `key` and `value`
   * read them in turn, `finish` makes sure that nothing is left. `view` covers the same memory as `bytes`.
   */
  begin(bytes: Buffer<ArrayBufferLike>, view: DataView, start: number, end: number): number {
    this.#bytes = bytes;
    this.#view = view;
    this.#at = start;
    this.#end = end;
    this.#depth = 0;
    this.#keyCount = 0;
    const token = bytes[this.#take(1)]!;
    let count: number;
    if (token >= 0x80 && token < 0x90) count = token & 15;
    else if (token === 0xde || token === 0xdf) count = this.#length(token - 0xdd);
    else throw new MessagePackError('must be a map of named fields');
    this.#enter(count * 2);
    return count;
  }

  finish(): void {
    if (this.#at !== this.#end) throw new MessagePackError('something follows the end of the map');
  }

  /** The whole map as an object. */
  map(bytes: Buffer<ArrayBufferLike>, view: DataView, start: number, end: number): Record<string, unknown> {
    const fields = this.#pairs(this.begin(bytes, view, start, end));
    this.finish();
    return fields;
  }

  /** Advances over `count` bytes and returns where they begin. */
  #take(count: number): number {
    const at = this.#at;
    if (count > this.#end - at) throw new MessagePackError('ends in the middle of a value');
    this.#at = at + count;
    return at;
  }

  value(): unknown {
    const token = this.#bytes[this.#take(1)]!;
    if (token < 0x80) return token;
    if (token < 0x90) return this.#fields(token & 15);
    if (token < 0xa0) return this.#items(token & 15);
    if (token < 0xc0) return this.#string(token & 31);
    if (token >= 0xe0) return token - 256;
    switch (token) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xca:
        return this.#view.getFloat32(this.#take(4));
      case 0xcb:
        return this.#view.getFloat64(this.#take(8));
      case 0xcc:
      case 0xcd:
      case 0xce:
      case 0xcf:
      case 0xd0:
      case 0xd1:
      case 0xd2:
      case 0xd3:
        return this.#integer(token);
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.#binary(this.#length(token - 0xc4));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.#string(this.#length(token - 0xd9));
      case 0xdc:
      case 0xdd:
        return this.#items(this.#length(token - 0xdb));
      case 0xde:
      case 0xdf:
        return this.#fields(this.#length(token - 0xdd));
      default:
        throw new MessagePackError(`byte 0x${token.toString(16)} begins no value that is accepted`);
    }
  }

  #integer(token: number): number | bigint {
    const view = this.#view;
    switch (token) {
      case 0xcc:
        return view.getUint8(this.#take(1));
      case 0xcd:
        return view.getUint16(this.#take(2));
      case 0xce:
        return view.getUint32(this.#take(4));
      case 0xd0:
        return view.getInt8(this.#take(1));
      case 0xd1:
        return view.getInt16(this.#take(2));
      case 0xd2:
        return view.getInt32(this.#take(4));
      default: {
        const at = this.#take(8);
        const value = token === 0xcf ? view.getBigUint64(at) : view.getBigInt64(at);
        const near = Number(value);
        return Number.isSafeInteger(near) ? near : value;
      }
    }
  }

  /** An unsigned length of 1, 2 or 4 bytes. */
  #length(size: number): number {
    if (size === 0) return this.#view.getUint8(this.#take(1));
    return size === 1 ? this.#view.getUint16(this.#take(2)) : this.#view.getUint32(this.#take(4));
  }

  #binary(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  #string(length: number): string {
    const at = this.#take(length);
    return utf8Text(this.#bytes, at, at + length);
  }

  #items(count: number): unknown[] {
    this.#enter(count);
    const items: unknown[] = [];
    for (let i = 0; i < count; i++) items.push(this.value());
    this.#depth--;
    return items;
  }

  #fields(count: number): Record<string, unknown> {
    this.#enter(count * 2);
    const fields = this.#pairs(count);
    this.#depth--;
    return fields;
  }

  #pairs(count: number): Record<string, unknown> {
    const fields: Record<string, unknown> = {};
    for (let i = 0; i < count; i++) {
      const key = this.key();
      // Assigned, it would become the object's prototype instead of a field.
      if (key === '__proto__') throw new MessagePackError('no field may be called __proto__');
      fields[key] = this.value();
    }
    return fields;
  }

  /** Each of `values` takes at least a byte, so a length that lies is found before anything is allocated. */
  #enter(values: number): void {
    if (values > this.#end - this.#at) throw new MessagePackError('ends in the middle of a value');
    if (++this.#depth > DEPTH_MAX) throw new MessagePackError(`nested deeper than ${DEPTH_MAX} levels`);
  }

  key(): string {
    const token = this.#bytes[this.#take(1)]!;
    let length: number;
    if (token >= 0xa0 && token < 0xc0) length = token & 31;
    else if (token >= 0xd9 && token <= 0xdb) length = this.#length(token - 0xd9);
    else throw new MessagePackError('a key must be a string');
    const at = this.#take(length);
    const place = this.#keyCount++;
    const known = this.#keys[place];
    if (known !== undefined && sameAscii(known, this.#bytes, at, length)) return known;
    const key = utf8Text(this.#bytes, at, at + length);
    if (place < KEYS_MAX && length < 128) this.#keys[place] = key;
    return key;
  }
}

function sameAscii(text: string, bytes: Uint8Array, at: number, length: number): boolean {
  if (text.length !== length) return false;
  for (let i = 0; i < length; i++) {
    const byte = bytes[at + i]!;
    if (byte > 0x7f || text.charCodeAt(i) !== byte) return false;
  }
  return true;
}

/** Most bytes that a number or a header takes. */
const SCALAR_BYTES_MAX = 9;

export function putMapHeader(out: OutArena, count: number): void {
  putHeader(out, count, 0x80, 0xde);
}

export function putArrayHeader(out: OutArena, count: number): void {
  putHeader(out, count, 0x90, 0xdc);
}

function putHeader(out: OutArena, count: number, fix: number, wide: number): void {
  out.ensure(SCALAR_BYTES_MAX);
  if (count < 16) {
    out.bytes[out.at++] = fix | count;
  } else if (count < 0x10000) {
    out.bytes[out.at] = wide;
    out.view.setUint16(out.at + 1, count);
    out.at += 3;
  } else {
    out.bytes[out.at] = wide + 1;
    out.view.setUint32(out.at + 1, count);
    out.at += 5;
  }
}

export function putFloat32(out: OutArena, value: number): void {
  out.ensure(SCALAR_BYTES_MAX);
  out.bytes[out.at] = 0xca;
  out.view.setFloat32(out.at + 1, value);
  out.at += 5;
}

export function putFloat64(out: OutArena, value: number): void {
  out.ensure(SCALAR_BYTES_MAX);
  out.bytes[out.at] = 0xcb;
  out.view.setFloat64(out.at + 1, value);
  out.at += 9;
}

/** A whole number, in the fewest bytes. */
export function putInteger(out: OutArena, value: number): void {
  out.ensure(SCALAR_BYTES_MAX);
  const { bytes, view, at } = out;
  if (value >= -32 && value < 128) {
    bytes[at] = value & 0xff;
    out.at += 1;
  } else if (value >= -128 && value < 256) {
    bytes[at] = value < 0 ? 0xd0 : 0xcc;
    bytes[at + 1] = value & 0xff;
    out.at += 2;
  } else if (value >= -32768 && value < 65536) {
    bytes[at] = value < 0 ? 0xd1 : 0xcd;
    view.setUint16(at + 1, value & 0xffff);
    out.at += 3;
  } else if (value >= -2147483648 && value < 4294967296) {
    bytes[at] = value < 0 ? 0xd2 : 0xce;
    view.setUint32(at + 1, value >>> 0);
    out.at += 5;
  } else {
    putBigint(out, BigInt(value));
  }
}

/** Throws for what no MessagePack integer holds. */
export function putBigint(out: OutArena, value: bigint): void {
  if (BigInt.asIntN(64, value) !== value && BigInt.asUintN(64, value) !== value)
    throw new RangeError(`${value} does not fit in 64 bits`);
  out.ensure(SCALAR_BYTES_MAX);
  out.bytes[out.at] = value < 0n ? 0xd3 : 0xcf;
  out.view.setBigUint64(out.at + 1, BigInt.asUintN(64, value));
  out.at += 9;
}

export function putString(out: OutArena, text: string): void {
  const length = Buffer.byteLength(text);
  out.ensure(5 + length);
  const { bytes, view, at } = out;
  let header = 1;
  if (length < 32) {
    bytes[at] = 0xa0 | length;
  } else if (length < 256) {
    bytes[at] = 0xd9;
    bytes[at + 1] = length;
    header = 2;
  } else if (length < 0x10000) {
    bytes[at] = 0xda;
    view.setUint16(at + 1, length);
    header = 3;
  } else {
    bytes[at] = 0xdb;
    view.setUint32(at + 1, length);
    header = 5;
  }
  bytes.write(text, at + header);
  out.at += header + length;
}

/** Any plain value that a handler returns. Typed arrays become arrays, `undefined` fields are left out. */
export function putValue(out: OutArena, value: unknown, depth = 0): void {
  if (depth > DEPTH_MAX) throw new RangeError(`a prediction is nested deeper than ${DEPTH_MAX} levels`);
  out.ensure(SCALAR_BYTES_MAX);
  if (typeof value === 'number') putNumber(out, value);
  else if (typeof value === 'string') putString(out, value);
  else if (typeof value === 'boolean') out.bytes[out.at++] = value ? 0xc3 : 0xc2;
  else if (typeof value === 'bigint') putBigint(out, value);
  else if (value === null || value === undefined) out.bytes[out.at++] = 0xc0;
  else if (typeof value !== 'object') throw new TypeError(`a prediction cannot hold a ${typeof value}`);
  else if (Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView))) {
    const items = value as ArrayLike<unknown>;
    putArrayHeader(out, items.length);
    for (let i = 0; i < items.length; i++) putValue(out, items[i], depth + 1);
  } else {
    const entries = Object.entries(value).filter(([, inner]) => inner !== undefined);
    putMapHeader(out, entries.length);
    for (const [key, inner] of entries) {
      putString(out, key);
      putValue(out, inner, depth + 1);
    }
  }
}

function putNumber(out: OutArena, value: number): void {
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) putInteger(out, value);
  else if (Math.fround(value) === value || Number.isNaN(value)) putFloat32(out, value);
  else putFloat64(out, value);
}
