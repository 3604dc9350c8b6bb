/** Tensor memory by dtype. */
import {
  DTYPE_ARRAYS,
  DTYPE_BYTES,
  type Dtype,
  type NumericData,
  type TensorSpec,
} from '../schedule/slab.ts';
import { fromHalf, toHalf } from './half.ts';
import type { RowView } from './handler.ts';

/** Elements of a tensor; like a row, but of any number of rows. */
export type TensorData = RowView;

/**
 * A view of `elements` elements at `byteOffset`. Strings have no bytes in a slab: asking for them is a bug.
 */
export function viewOf(
  dtype: Dtype,
  buffer: ArrayBufferLike,
  byteOffset: number,
  elements: number,
): NumericData {
  if (dtype === 'string') throw new TypeError('strings have no region in a slab');
  return new DTYPE_ARRAYS[dtype](buffer as ArrayBuffer, byteOffset, elements);
}

export function isFloat(dtype: Dtype): boolean {
  return dtype === 'float32' || dtype === 'float64' || dtype === 'float16';
}

/** Elements `from` to `to`; a view where the memory allows one. */
export function sliceOf<T extends TensorData>(data: T, from: number, to: number): T {
  return (Array.isArray(data) ? data.slice(from, to) : data.subarray(from, to)) as T;
}

/** Sets a row back to zeros or empty strings. */
export function clear(data: TensorData, from: number, to: number): void {
  if (Array.isArray(data)) data.fill('', from, to);
  else if (data instanceof BigInt64Array || data instanceof BigUint64Array) data.fill(0n, from, to);
  else data.fill(0, from, to);
}

/** Writes a value that has been checked to fit. */
export function store(data: TensorData, at: number, dtype: Dtype, value: number | bigint | string): void {
  if (Array.isArray(data)) data[at] = String(value);
  else if (data instanceof BigInt64Array || data instanceof BigUint64Array) data[at] = BigInt(value);
  else data[at] = dtype === 'float16' ? toHalf(Number(value)) : Number(value);
}

/**
 * One element as a JavaScript value: halves and 64-bit integers too small to need a bigint become numbers.
 */
export function load(data: TensorData, at: number, dtype: Dtype): number | bigint | boolean | string {
  const value = data[at]!;
  if (dtype === 'bool') return value !== 0;
  if (dtype === 'float16') return fromHalf(value as number);
  if (typeof value !== 'bigint') return value;
  const near = Number(value);
  return Number.isSafeInteger(near) ? near : value;
}

export function product(shape: readonly number[]): number {
  return shape.reduce((total, dim) => total * dim, 1);
}

/** `float32[2,3]`; -1 is written `?`. */
export function specText(dtype: string, shape: readonly (number | string)[]): string {
  return `${dtype}[${shape.map((dim) => (dim === -1 || dim === '' ? '?' : dim)).join(',')}]`;
}

export function tensorSpec(name: string, dtype: Dtype, shape: readonly number[]): TensorSpec {
  const elements = shape.includes(-1) ? 0 : product(shape);
  return { name, dtype, shape, elements, rowBytes: elements * DTYPE_BYTES[dtype] };
}
