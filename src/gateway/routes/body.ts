/**
 * The plain request of the Open Inference Protocol, read without a value per number: every tensor of the
 * model is there in its own type and shape, and `data` holds nothing but numbers. Its lists are left out of
 * what JSON.parse gets to see and read from the bytes straight into rows as the engine takes them. Whatever
 * is unusual about a request, or wrong, makes it null here: the long way (tensors.ts) takes it, or says what
 * is wrong.
 */
import { isUtf8 } from 'node:buffer';
import { DTYPE_ARRAYS, type NumericData, type TensorSpec } from '../../schedule/slab.ts';
import { NESTING_MAX } from '../msgpack.ts';
import { readNumbers } from './numbers.ts';
import { DATATYPES } from './tensors.ts';

export interface PlainRequest {
  /** The body; `data` of its inputs is not the list. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly rows: number;
  /** The row's tensors one after the other, little-endian; valid until the next call. */
  readonly row: (row: number) => Uint8Array;
}

/** Where a list stands in the body, brackets included. */
interface Span {
  readonly start: number;
  readonly end: number;
}

const DATA_KEY = Buffer.from('"data"');
const [BACKSLASH, COLON, OPEN, CLOSE] = [0x5c, 0x3a, 0x5b, 0x5d] as const;

/** What one client sends differs in its numbers alone, unless it names its requests. */
const KNOWN_LENGTH_MAX = 1024;
let known: { readonly text: string; readonly fields: PlainRequest['fields'] } = { text: '', fields: {} };

/** Grows to the largest list seen, which the limit of the body bounds. */
let numbers = new Float64Array(256);

/** `tensors`: the model's inputs, in order. */
export function plainRequest(
  bytes: Buffer,
  tensors: readonly TensorSpec[],
  rowsMax: number,
): PlainRequest | null {
  // An escape could spell a key, or hide the end of a text.
  if (bytes.includes(BACKSLASH)) return null;
  const lists = listsOf(bytes);
  const fields = lists === null ? null : parseAround(bytes, lists);
  if (lists === null || fields === null) return null;
  return plainRows(fields, tensors, rowsMax, (input, tensor, rows) => {
    const list = lists[input.data as number];
    return list === undefined ? null : readColumn(bytes, list, tensor, rows);
  });
}

/** An input that has the name, type and shape of a tensor of the model. */
export interface PlainInput {
  readonly name: string;
  readonly data?: unknown;
}

/** `column` gives all rows of one input, as the tensor has them, or null. */
export function plainRows(
  fields: PlainRequest['fields'],
  tensors: readonly TensorSpec[],
  rowsMax: number,
  column: (input: PlainInput, tensor: TensorSpec, rows: number) => Uint8Array | null,
): PlainRequest | null {
  const { inputs } = fields;
  if (!Array.isArray(inputs) || inputs.length !== tensors.length) return null;
  let rows = 0;
  const columns: Uint8Array[] = [];
  for (const tensor of tensors) {
    const input = inputs.find((one: { name?: unknown } | null) => one?.name === tensor.name);
    const count = rowsIn(input, tensor);
    if (count < 1 || count > rowsMax || (rows !== 0 && count !== rows)) return null;
    rows = count;
    const bytes = column(input as PlainInput, tensor, rows);
    if (bytes === null) return null;
    columns.push(bytes);
  }
  return { fields, rows, row: rowReader(columns, tensors) };
}

/** The list behind each `"data":`; null where something else stands there. */
function listsOf(bytes: Buffer): Span[] | null {
  const lists: Span[] = [];
  let at = bytes.indexOf(DATA_KEY);
  while (at >= 0) {
    let start = afterSpace(bytes, at + DATA_KEY.length);
    // Without a colon it is a text that says `data`.
    if (bytes[start] === COLON) {
      start = afterSpace(bytes, start + 1);
      const end = bytes[start] === OPEN ? listEnd(bytes, start) : -1;
      if (end < 0) return null;
      lists.push({ start, end });
      at = end;
    } else at = start;
    at = bytes.indexOf(DATA_KEY, at);
  }
  return lists;
}

function afterSpace(bytes: Buffer, from: number): number {
  let at = from;
  while (bytes[at] === 0x20 || bytes[at] === 0x0a || bytes[at] === 0x0d || bytes[at] === 0x09) at += 1;
  return at;
}

/**
 * Just past the bracket that closes the one at `start`; -1: none does. Texts in the list are not minded:
 * reading its numbers stumbles over them.
 */
function listEnd(bytes: Buffer, start: number): number {
  const first = bytes.indexOf(CLOSE, start);
  const inner = bytes.indexOf(OPEN, start + 1);
  if (first < 0 || inner < 0 || inner > first) return first < 0 ? -1 : first + 1;
  let depth = 0;
  for (let at = start; at < bytes.length; at += 1) {
    if (bytes[at] === OPEN) depth += 1;
    else if (bytes[at] === CLOSE) depth -= 1;
    if (depth === 0) return at + 1;
  }
  return -1;
}

/** The body with the number of each list in its place; null when it is not one object of limited depth. */
function parseAround(bytes: Buffer, lists: readonly Span[]): PlainRequest['fields'] | null {
  let text = '';
  let at = 0;
  for (const [i, { start, end }] of lists.entries()) {
    text += bytes.toString('utf8', at, start) + i;
    at = end;
  }
  text += bytes.toString('utf8', at);
  if (text === known.text) return known.fields;
  // Where it was not UTF-8 there are replacement characters now.
  const isDoubtful = text.includes('\ufffd');
  if (nestsDeep(text) || (isDoubtful && !isUtf8(bytes))) return null;
  let fields: unknown;
  try {
    fields = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof fields !== 'object' || fields === null || Array.isArray(fields)) return null;
  if (text.length <= KNOWN_LENGTH_MAX && !isDoubtful)
    known = { text, fields: fields as PlainRequest['fields'] };
  return fields as PlainRequest['fields'];
}

function nestsDeep(text: string): boolean {
  let depth = 0;
  let isQuoted = false;
  for (let i = 0; i < text.length; i += 1) {
    const unit = text.charCodeAt(i);
    if (unit === 0x22) isQuoted = !isQuoted;
    else if (isQuoted) continue;
    else if (unit === 0x7b || unit === OPEN) {
      depth += 1;
      if (depth > NESTING_MAX) return true;
    } else if (unit === 0x7d || unit === CLOSE) depth -= 1;
  }
  return false;
}

/** Rows that the input says it has; 0 when it is not this tensor in its own type and shape. */
function rowsIn(input: unknown, tensor: TensorSpec): number {
  if (typeof input !== 'object' || input === null) return 0;
  const { shape, datatype } = input as Record<string, unknown>;
  if (datatype !== DATATYPES[tensor.dtype] || !Array.isArray(shape)) return 0;
  const [rows, ...rowShape] = shape as unknown[];
  // [n, 1] is how many clients write a column of scalars.
  const wanted = tensor.shape.length === 0 && rowShape.length === 1 ? [1] : tensor.shape;
  const same = rowShape.length === wanted.length && rowShape.every((size, i) => size === wanted[i]);
  return same && Number.isSafeInteger(rows) ? (rows as number) : 0;
}

/** Null for halves, text and truth values, and for what is no list of numbers that the tensor can hold. */
function readColumn(
  bytes: Buffer,
  { start, end }: Span,
  tensor: TensorSpec,
  rows: number,
): Uint8Array | null {
  const { dtype } = tensor;
  if (dtype === 'float16' || dtype === 'bool' || dtype === 'string') return null;
  const elements = rows * tensor.elements;
  // A digit and a comma each: what a shape only claims is not given memory.
  if (elements * 2 > end - start) return null;
  if (elements > numbers.length) numbers = new Float64Array(elements);
  if (!readNumbers(bytes, start, end, numbers, elements, dtype === 'float32')) return null;
  if (dtype === 'float64') return bytesOf(numbers.slice(0, elements));
  if (dtype === 'float32') return bytesOf(new Float32Array(numbers.subarray(0, elements)));
  const values = new DTYPE_ARRAYS[dtype](elements);
  return fill(values, elements) ? bytesOf(values) : null;
}

/** False: some number is not whole, out of range or rounded. */
function fill(values: NumericData, elements: number): boolean {
  const isWide = values instanceof BigInt64Array || values instanceof BigUint64Array;
  for (let i = 0; i < elements; i += 1) {
    const value = numbers[i] as number;
    if (!Number.isSafeInteger(value) || (value < 0 && values instanceof BigUint64Array)) return false;
    values[i] = isWide ? BigInt(value) : value;
    if (!isWide && values[i] !== value) return false;
  }
  return true;
}

function bytesOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array {
  return Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
}

function rowReader(columns: readonly Uint8Array[], tensors: readonly TensorSpec[]): PlainRequest['row'] {
  const [only] = columns;
  if (columns.length === 1 && only !== undefined) {
    const { rowBytes } = tensors[0] as TensorSpec;
    return (row) => only.subarray(row * rowBytes, (row + 1) * rowBytes);
  }
  const whole = Buffer.allocUnsafe(tensors.reduce((sum, { rowBytes }) => sum + rowBytes, 0));
  return (row) => {
    let to = 0;
    for (let i = 0; i < columns.length; i += 1) {
      const { rowBytes } = tensors[i] as TensorSpec;
      whole.set((columns[i] as Uint8Array).subarray(row * rowBytes, (row + 1) * rowBytes), to);
      to += rowBytes;
    }
    return whole;
  };
}
