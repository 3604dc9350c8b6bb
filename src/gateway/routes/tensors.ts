/**
 * Between the tensors of the Open Inference Protocol (columns: one list per input, over all rows) and the
 * engine's events (rows: one map of named fields each). Pure.
 */
import type { FieldSpec } from '../../infer/handler.ts';
import { InvalidEvent } from '../../infer/handler.ts';
import type { Dtype } from '../../schedule/slab.ts';

/** The protocol's names of the element types. */
export const DATATYPES = {
  float32: 'FP32',
  float64: 'FP64',
  float16: 'FP16',
  int8: 'INT8',
  int16: 'INT16',
  int32: 'INT32',
  int64: 'INT64',
  uint8: 'UINT8',
  uint16: 'UINT16',
  uint32: 'UINT32',
  uint64: 'UINT64',
  bool: 'BOOL',
  string: 'BYTES',
} as const satisfies Record<Dtype, string>;

type Kind = 'float' | 'integer' | 'boolean' | 'text';

function kindOf(datatype: string): Kind | undefined {
  if (/^FP(16|32|64)$/.test(datatype)) return 'float';
  if (/^U?INT(8|16|32|64)$/.test(datatype)) return 'integer';
  if (datatype === 'BOOL') return 'boolean';
  return datatype === 'BYTES' ? 'text' : undefined;
}

/** Most digits that 64 bits take. */
const WHOLE = /^-?\d{1,20}$/;

const CHECKS: Readonly<Record<Kind, (value: unknown) => boolean>> = {
  float: (value) => typeof value === 'number',
  // As text, because JSON.parse rounds numbers beyond 2^53 - 1.
  integer: (value) => Number.isSafeInteger(value) || (typeof value === 'string' && WHOLE.test(value)),
  boolean: (value) => typeof value === 'boolean',
  text: (value) => typeof value === 'string',
};

/** One `inputs` entry, checked: flat values and the shape of one row. */
interface Column {
  readonly name: string;
  readonly rows: number;
  readonly rowShape: readonly number[];
  readonly values: readonly unknown[];
}

function shapeOf(value: unknown, path: string): number[] {
  const whole = Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
  if (!whole || value.length === 0)
    throw new InvalidEvent(path, 'must be a list of whole numbers, batch first');
  // An empty list is a value of a free length; [1, 1000000000, 0] would be a billion of them in no bytes at
  // all.
  if (value.length > 2 && value.includes(0)) throw new InvalidEvent(path, 'must not hold 0');
  return value as number[];
}

function columnOf(input: unknown, path: string, fields: readonly FieldSpec[]): Column {
  if (typeof input !== 'object' || input === null) throw new InvalidEvent(path, 'must be an object');
  const { name, shape, datatype, data } = input as Record<string, unknown>;
  if (typeof name !== 'string' || name === '') throw new InvalidEvent(`${path}.name`, 'must be a string');
  const [rows, ...rowShape] = shapeOf(shape, `${path}.shape`);
  const kind = typeof datatype === 'string' ? kindOf(datatype) : undefined;
  if (kind === undefined) throw new InvalidEvent(`${path}.datatype`, `${String(datatype)} is not a datatype`);
  const field = fields.find((one) => one.name === name);
  const expected = field === undefined ? undefined : DATATYPES[field.dtype];
  if (expected !== undefined && kindOf(expected) !== kind) {
    throw new InvalidEvent(`${path}.datatype`, `${name} takes ${expected}, not ${String(datatype)}`);
  }
  if (!Array.isArray(data)) throw new InvalidEvent(`${path}.data`, 'must be a list');
  const values = data.some(Array.isArray) ? data.flat(rowShape.length + 1) : data;
  const elements = (shape as number[]).reduce((product, size) => product * size, 1);
  if (values.length !== elements) {
    throw new InvalidEvent(`${path}.data`, `has ${values.length} elements, its shape asks for ${elements}`);
  }
  const wrong = values.findIndex((value) => !CHECKS[kind](value));
  if (wrong >= 0) {
    const rounded = kind === 'integer' && Number.isInteger(values[wrong]);
    const detail = rounded
      ? 'a number beyond 2^53 - 1 is not exact: give it as a string'
      : `is not a value of ${String(datatype)}`;
    throw new InvalidEvent(`${path}.data[${wrong}]`, detail);
  }
  // [n, 1] is how many clients write a column of scalars; a field that is declared as [1] keeps its list.
  const scalar = rowShape.length === 1 && rowShape[0] === 1 && (field?.shape.length ?? 0) === 0;
  return { name, rows: rows!, rowShape: scalar ? [] : rowShape, values };
}

function nest(values: readonly unknown[], shape: readonly number[], start: number): unknown {
  const [size, ...rest] = shape;
  if (size === undefined) return values[start];
  if (rest.length === 0) return values.slice(start, start + size);
  const step = rest.reduce((product, one) => product * one, 1);
  return Array.from({ length: size }, (_, i) => nest(values, rest, start + i * step));
}

/** The request's `inputs` as one map of fields per row. Throws InvalidEvent with the path in the body. */
export function rowsOf(
  inputs: unknown,
  fields: readonly FieldSpec[],
  rowsMax: number,
): Record<string, unknown>[] {
  if (!Array.isArray(inputs) || inputs.length === 0) {
    throw new InvalidEvent('inputs', 'must be a list of at least one tensor');
  }
  const columns = inputs.map((input, i) => columnOf(input, `inputs[${i}]`, fields));
  const rows = columns[0]!.rows;
  for (const [i, column] of columns.entries()) {
    if (column.rows !== rows) {
      throw new InvalidEvent(`inputs[${i}].shape`, `has ${column.rows} rows, inputs[0] has ${rows}`);
    }
    if (columns.findIndex((other) => other.name === column.name) !== i) {
      throw new InvalidEvent(`inputs[${i}].name`, `${column.name} is given twice`);
    }
  }
  if (rows < 1 || rows > rowsMax) {
    throw new InvalidEvent('inputs[0].shape', `has ${rows} rows, a request takes 1 to ${rowsMax}`);
  }
  return Array.from({ length: rows }, (_, row) => {
    const data = Object.create(null) as Record<string, unknown>;
    for (const { name, rowShape, values } of columns) {
      const step = rowShape.reduce((product, size) => product * size, 1);
      data[name] = nest(values, rowShape, row * step);
    }
    return data;
  });
}

export interface OutputTensor {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly number[];
  readonly data: readonly unknown[];
  readonly parameters?: Readonly<Record<string, unknown>>;
}

/**
 * The shape of nested lists; null when they are ragged or hold something else than plain values of one
 * type. `wide`: whole numbers may be text, as those beyond 2^53 - 1 are.
 */
function regularShape(value: unknown, wide: boolean): { shape: number[]; type: string } | null {
  if (!Array.isArray(value)) {
    const type = wide && typeof value === 'string' && WHOLE.test(value) ? 'number' : typeof value;
    return type === 'number' || type === 'string' || type === 'boolean' ? { shape: [], type } : null;
  }
  const inner = value.map((one) => regularShape(one, wide));
  const first = inner[0];
  if (first === undefined) return { shape: [0], type: 'number' };
  if (first === null) return null;
  const same = inner.every(
    (one) => one !== null && one.type === first.type && String(one.shape) === String(first.shape),
  );
  return same ? { shape: [value.length, ...first.shape], type: first.type } : null;
}

const TYPE_DATATYPES: Readonly<Record<string, string>> = { number: 'FP64', string: 'BYTES', boolean: 'BOOL' };

/**
 * The predictions of all rows as tensors. A value that is no tensor (a map of labels to probabilities, say,
 * or rows of different lengths) becomes a BYTES tensor of JSON texts, one per row, marked `parameters:
 * {"encoding": "json"}`.
 */
export function tensorsOf(
  rows: readonly Readonly<Record<string, unknown>>[],
  predicts: readonly FieldSpec[],
): OutputTensor[] {
  const names = new Set(rows.flatMap((row) => Object.keys(row)));
  return [...names].map((name) => {
    const values = rows.map((row) => row[name] ?? null);
    const field = predicts.find((one) => one.name === name);
    const regular = regularShape(values, field?.dtype === 'int64' || field?.dtype === 'uint64');
    if (regular === null) {
      const data = values.map((value) => JSON.stringify(value));
      return { name, datatype: 'BYTES', shape: [rows.length], data, parameters: { encoding: 'json' } };
    }
    const natural = TYPE_DATATYPES[regular.type]!;
    const declared = field === undefined ? natural : DATATYPES[field.dtype];
    // What was declared holds only if the values are of that kind: a handler may write numbers as text.
    const numeric = kindOf(declared) === 'float' || kindOf(declared) === 'integer';
    const datatype = (natural === 'FP64' ? numeric : declared === natural) ? declared : natural;
    return { name, datatype, shape: regular.shape, data: values.flat(regular.shape.length) };
  });
}
