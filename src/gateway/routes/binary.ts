/**
 * The binary tensor extension of the Open Inference Protocol: tensors as their elements' bytes,
 * little-endian, one after the other behind the JSON; in a request, in an answer, or both. `BYTES` are texts,
 * each behind its length in four bytes. Halves come so, but go as numbers: Node 22 knows none.
 */
import { InvalidEvent } from '../../infer/handler.ts';
import { DTYPE_ARRAYS, type Dtype, type TensorSpec } from '../../schedule/slab.ts';
import { parseJsonObject } from '../codec.ts';
import { Malformed } from '../msgpack.ts';
import type { PlainRequest } from './body.ts';
import { plainRows } from './body.ts';
import { DATATYPES, type OutputTensor } from './tensors.ts';

type Fields = Readonly<Record<string, unknown>>;

export interface BinaryBody {
  readonly fields: Fields;
  /** By input, in order; null: its values stand in the JSON. Memory of the body. */
  readonly parts: readonly (Buffer | null)[];
}

const DTYPES: ReadonlyMap<unknown, Dtype> = new Map(
  Object.entries(DATATYPES).map(([dtype, datatype]) => [datatype, dtype as Dtype]),
);

/** What the elements of such a tensor lie in; null: they are halves or texts, or there is no such type. */
function arrayOf(datatype: unknown) {
  const dtype = DTYPES.get(datatype);
  return dtype === undefined || dtype === 'float16' || dtype === 'string' ? null : DTYPE_ARRAYS[dtype];
}

/** `headLength`: the header that says how long the JSON is. Throws Malformed, InvalidEvent. */
export function splitBody(bytes: Buffer, headLength: string): BinaryBody {
  const length = /^\d{1,10}$/.test(headLength) ? Number(headLength) : Number.NaN;
  if (!(length <= bytes.length)) {
    throw new Malformed(
      `inference-header-content-length is ${headLength}, the body has ${bytes.length} bytes`,
    );
  }
  const fields = parseJsonObject(bytes.subarray(0, length));
  const inputs = Array.isArray(fields['inputs']) ? (fields['inputs'] as unknown[]) : [];
  let at = length;
  const parts = inputs.map((input, i) => {
    const { parameters, data } = (input ?? {}) as { parameters?: Fields | null; data?: unknown };
    const size = parameters?.['binary_data_size'];
    if (size === undefined) return null;
    const path = `inputs[${i}].parameters.binary_data_size`;
    if (!Number.isSafeInteger(size) || !((size as number) >= 0 && at + (size as number) <= bytes.length)) {
      throw new InvalidEvent(path, `${String(size)} bytes are not there`);
    }
    if (data !== undefined) throw new InvalidEvent(path, 'give data or this, not both');
    const start = at;
    at += size as number;
    return bytes.subarray(start, at);
  });
  if (at < bytes.length) throw new Malformed(`${bytes.length - at} bytes follow the last tensor`);
  return { fields, parts };
}

/** As plainRequest, with every tensor in binary; null: the long way takes it. */
export function plainBinary(
  { fields, parts }: BinaryBody,
  tensors: readonly TensorSpec[],
  rowsMax: number,
): PlainRequest | null {
  const inputs = fields['inputs'] as unknown[];
  return plainRows(fields, tensors, rowsMax, (input, { rowBytes }, rows) => {
    const part = parts[inputs.indexOf(input)];
    // A copy: rows may wait for others, and the body is gone by then.
    return part?.length === rows * rowBytes ? Buffer.from(part) : null;
  });
}

/** The same body with its values in JSON's own. Throws InvalidEvent. */
export function withValues({ fields, parts }: BinaryBody): Fields {
  if (!Array.isArray(fields['inputs'])) return fields;
  const inputs = fields['inputs'].map((input: Fields, i) => {
    const part = parts[i];
    return part === null || part === undefined
      ? input
      : { ...input, data: valuesOf(input['datatype'], part, `inputs[${i}]`) };
  });
  return { ...fields, inputs };
}

function valuesOf(datatype: unknown, part: Buffer, path: string): unknown[] {
  if (datatype === 'BYTES') return textsOf(part, path);
  const type = String(datatype);
  const array = arrayOf(datatype);
  if (array === null) {
    throw new InvalidEvent(`${path}.datatype`, `${type} is not taken in binary; send it as JSON`);
  }
  const elementBytes = array.BYTES_PER_ELEMENT;
  if (part.length % elementBytes !== 0) {
    throw new InvalidEvent(path, `${part.length} bytes are no ${type}, which have ${elementBytes} each`);
  }
  // In memory of its own: a tensor may stand anywhere in the body, its elements may not.
  const own = new Uint8Array(part);
  const values = Array.from(new array(own.buffer) as ArrayLike<number | bigint>);
  if (datatype !== 'BOOL') return values.map(plainInteger);
  const wrong = values.findIndex((value) => value !== 0 && value !== 1);
  if (wrong >= 0) throw new InvalidEvent(`${path}[${wrong}]`, `must be 0 or 1, got ${values[wrong]}`);
  return values.map((value) => value === 1);
}

/** As JSON has it: text, where a number would be rounded. */
function plainInteger(value: number | bigint): number | string {
  if (typeof value === 'number') return value;
  return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
}

function textsOf(part: Buffer, path: string): string[] {
  const texts: string[] = [];
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  for (let at = 0; at < part.length; ) {
    const end = at + 4 <= part.length ? at + 4 + part.readUInt32LE(at) : Number.POSITIVE_INFINITY;
    if (end > part.length) throw new InvalidEvent(path, `ends inside text ${texts.length}`);
    try {
      texts.push(decoder.decode(part.subarray(at + 4, end)));
    } catch {
      throw new InvalidEvent(`${path}[${texts.length}]`, 'is not UTF-8');
    }
    at = end;
  }
  return texts;
}

/** The tensor's elements; null when they go as JSON. */
export function elementBytes({ datatype, data }: OutputTensor): Buffer | null {
  if (datatype === 'BYTES') {
    const parts = data.map((text) => {
      const bytes = Buffer.from(`\0\0\0\0${text as string}`, 'utf8');
      bytes.writeUInt32LE(bytes.length - 4);
      return bytes;
    });
    return Buffer.concat(parts);
  }
  const array = arrayOf(datatype);
  if (array === null) return null;
  const values = new array(data.length);
  const isWide = values instanceof BigInt64Array || values instanceof BigUint64Array;
  const isFloat = values instanceof Float32Array || values instanceof Float64Array;
  for (let i = 0; i < data.length; i += 1) {
    const number = Number(data[i]);
    if (isFloat) values[i] = number;
    else {
      // A handler may write what its declaration cannot hold: then it goes as it is.
      if (!Number.isInteger(number)) return null;
      values[i] = isWide ? BigInt(data[i] as number | string) : number;
      if (Number(values[i]) !== number) return null;
    }
  }
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
}
