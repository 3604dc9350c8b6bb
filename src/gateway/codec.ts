/**
 * Frames to and from bytes, in the two encodings of the protocol. What an event carries in `d` is never
 * interpreted here: it goes to the engine as encoded bytes, and outputs come back the same way and are
 * spliced into the frame.
 */
import { isUtf8 } from 'node:buffer';
import { Packr, Unpackr } from 'msgpackr';
import { isMap, Malformed, mapEntries, NESTING_MAX, withEntry } from './msgpack.ts';

/** A frame from a client, decoded but not believed. */
export interface Inbound {
  readonly fields: Readonly<Record<string, unknown>>;
  /** `d`, encoded as it came, when it is a map. A view of the message in MessagePack. */
  readonly data: Uint8Array | null;
}

/** A frame to a client, without `d`. */
export type Outbound = Readonly<Record<string, unknown>>;

export interface Codec {
  readonly subprotocol: string;
  readonly json: boolean;
  /** Throws Malformed. */
  decode(message: Uint8Array): Inbound;
  /** `data` must already be in this encoding; it becomes the frame's `d`. */
  encode(frame: Outbound, data: Uint8Array | undefined): Uint8Array;
}

// Records, structured clones and the like are extensions of msgpackr that other decoders do not know.
const packr = new Packr({ useRecords: false, variableMapSize: true });
const unpackr = new Unpackr({ useRecords: false, int64AsType: 'number' });
/** 64-bit integers stay exact. */
const outputsUnpackr = new Unpackr({ useRecords: false, int64AsType: 'bigint' });
const OPEN_BRACE = 0x7b;

/** Throws Malformed when brackets nest too deep for the recursive encoders behind us. */
function checkJsonNesting(bytes: Uint8Array): void {
  let depth = 0;
  let quoted = false;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (quoted) {
      if (byte === 0x5c) i++;
      else if (byte === 0x22) quoted = false;
    } else if (byte === 0x22) quoted = true;
    else if (byte === OPEN_BRACE || byte === 0x5b) {
      if (++depth > NESTING_MAX) throw new Malformed(`values nest deeper than ${NESTING_MAX}`);
    } else if (byte === 0x7d || byte === 0x5d) depth--;
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Parses one JSON object of limited depth. Throws Malformed. */
export function parseJsonObject(bytes: Uint8Array): Record<string, unknown> {
  checkJsonNesting(bytes);
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
  // Where it was not UTF-8 there are replacement characters now.
  if (text.includes('\ufffd') && !isUtf8(bytes)) throw new Malformed('not UTF-8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Malformed(error instanceof Error ? error.message : 'not JSON', { cause: error });
  }
  if (!isRecord(value)) throw new Malformed('not a JSON object');
  return value;
}

const jsonCodec: Codec = {
  subprotocol: 'subito.v1.json',
  json: true,
  decode(message) {
    const fields = parseJsonObject(message);
    const d = fields['d'];
    return { fields, data: isRecord(d) ? Buffer.from(JSON.stringify(d), 'utf8') : null };
  },
  encode(frame, data) {
    const text = JSON.stringify(frame);
    if (data === undefined) return Buffer.from(text, 'utf8');
    return Buffer.concat([Buffer.from(`${text.slice(0, -1)},"d":`, 'utf8'), data, Buffer.from('}')]);
  },
};

const msgpackCodec: Codec = {
  subprotocol: 'subito.v1.msgpack',
  json: false,
  decode(message) {
    // Without a prototype: a key named __proto__ is a key like any other.
    const fields = Object.create(null) as Record<string, unknown>;
    let data: Uint8Array | null = null;
    for (const { key, start, end } of mapEntries(message)) {
      const value = message.subarray(start, end);
      if (key === 'd' && isMap(message, start)) data = value;
      else fields[key] = unpackr.unpack(value);
    }
    return { fields, data };
  },
  encode(frame, data) {
    const map = packr.pack(frame);
    return data === undefined ? map : withEntry(map, 'd', data);
  },
};

/** By subprotocol name. */
export const CODECS: ReadonlyMap<string, Codec> = new Map([
  [jsonCodec.subprotocol, jsonCodec],
  [msgpackCodec.subprotocol, msgpackCodec],
]);
export const JSON_CODEC = jsonCodec;
export const MSGPACK_CODEC = msgpackCodec;

function jsonValue(_key: string, value: unknown): unknown {
  // As the encoder of predictions has it: text, where a number would be rounded.
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (ArrayBuffer.isView(value)) return Array.from(value as Uint8Array);
  return value;
}

/** Encoded outputs in the encoding that is wanted: the same bytes when they are in it already. */
export function recode(outputs: Uint8Array, json: boolean): Uint8Array {
  // A JSON map begins with a brace; in MessagePack that byte is the number 123, never a map.
  const isJson = outputs[0] === OPEN_BRACE;
  if (isJson === json) return outputs;
  if (json) return Buffer.from(JSON.stringify(outputsUnpackr.unpack(outputs), jsonValue), 'utf8');
  return packr.pack(JSON.parse(Buffer.from(outputs).toString('utf8')));
}

/** Encoded outputs as values. */
export function decodeOutputs(outputs: Uint8Array): Record<string, unknown> {
  const value: unknown = JSON.parse(Buffer.from(recode(outputs, true)).toString('utf8'));
  return isRecord(value) ? value : {};
}
