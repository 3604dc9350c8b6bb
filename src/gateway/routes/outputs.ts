/**
 * Predictions as output tensors without a value per number: where they are nothing but numbers in the shapes
 * that the model says, the text that the worker wrote for each row is cut and joined. Everything else is null
 * here and goes the long way (tensors.ts).
 */
import type { FieldSpec } from '../../infer/handler.ts';
import { DATATYPES } from './tensors.ts';

interface Part {
  readonly name: string;
  /** As it stands in a row's text: `"score":`. */
  readonly key: string;
  /** Around the number of rows: `{"name":"score","datatype":"FP32","shape":[` and `,1],"data":[`. */
  readonly head: string;
  readonly tail: string;
  readonly shape: readonly number[];
}

const NUMERIC = /^(FP|U?INT)\d+$/;

export class OutputTexts {
  /** Null: not all outputs are numbers in fixed shapes. */
  readonly #parts: readonly Part[] | null;

  constructor(predicts: readonly FieldSpec[]) {
    const isPlain = ({ dtype, shape }: FieldSpec) =>
      NUMERIC.test(DATATYPES[dtype]) && shape.every((size) => size > 0);
    this.#parts = predicts.length > 0 && predicts.every(isPlain) ? predicts.map(partOf) : null;
  }

  /**
   * `rows`: each row's prediction as JSON. Gives the list of `outputs`; null when these rows are not as the
   * model says, or `wanted` (null: all) names another output.
   */
  join(rows: readonly string[], wanted: ReadonlySet<string> | null): string | null {
    const parts = this.#parts;
    if (parts === null) return null;
    const data = parts.map(() => '');
    for (const row of rows) {
      let at = 0;
      for (let i = 0; i < parts.length; i += 1) {
        const { key, shape } = parts[i] as Part;
        if (row.charCodeAt(at) !== (i === 0 ? OPEN_BRACE : COMMA) || !row.startsWith(key, at + 1))
          return null;
        next = at + 1 + key.length;
        const values = flat(row, shape, 0);
        if (values === null) return null;
        data[i] += data[i] === '' ? values : `,${values}`;
        at = next;
      }
      if (row.charCodeAt(at) !== CLOSE_BRACE || at + 1 !== row.length) return null;
    }
    return list(parts, data, rows.length, wanted);
  }
}

const [COMMA, MINUS, ZERO, NINE, OPEN, CLOSE, OPEN_BRACE, CLOSE_BRACE] = [
  0x2c, 0x2d, 0x30, 0x39, 0x5b, 0x5d, 0x7b, 0x7d,
] as const;

/** Where reading goes on. */
let next = 0;

function partOf({ name, dtype, shape }: FieldSpec): Part {
  const head = `{"name":${JSON.stringify(name)},"datatype":"${DATATYPES[dtype]}","shape":[`;
  const tail = `${shape.map((size) => `,${size}`).join('')}],"data":[`;
  return { name, key: `${JSON.stringify(name)}:`, head, tail, shape };
}

function list(
  parts: readonly Part[],
  data: readonly string[],
  rows: number,
  wanted: ReadonlySet<string> | null,
): string | null {
  let text = '';
  let found = 0;
  for (let i = 0; i < parts.length; i += 1) {
    const { name, head, tail } = parts[i] as Part;
    if (wanted !== null && !wanted.has(name)) continue;
    text += `${found === 0 ? '' : ','}${head}${rows}${tail}${data[i]}]}`;
    found += 1;
  }
  return wanted !== null && found !== wanted.size ? null : `[${text}]`;
}

/** The numbers from `next` on, which nest as the shape says, without the brackets; null: they do not. */
function flat(text: string, shape: readonly number[], axis: number): string | null {
  const size = shape[axis];
  const start = next;
  if (size === undefined || (axis === shape.length - 1 && text.charCodeAt(start) === OPEN)) {
    const first = size === undefined ? start : start + 1;
    const end = numbersEnd(text, first, size ?? 1);
    if (end < 0 || (size !== undefined && text.charCodeAt(end) !== CLOSE)) return null;
    next = size === undefined ? end : end + 1;
    return text.slice(first, end);
  }
  if (text.charCodeAt(start) !== OPEN || axis === shape.length - 1) return null;
  let values = '';
  next = start + 1;
  for (let i = 0; i < size; i += 1) {
    if (i > 0) {
      if (text.charCodeAt(next) !== COMMA) return null;
      next += 1;
    }
    const inner = flat(text, shape, axis + 1);
    if (inner === null) return null;
    values += i > 0 ? `,${inner}` : inner;
  }
  if (text.charCodeAt(next) !== CLOSE) return null;
  next += 1;
  return values;
}

/** Just past `count` numbers; -1: something else stands there. The text is JSON, so a glance tells. */
function numbersEnd(text: string, start: number, count: number): number {
  let at = start;
  for (let i = 0; i < count; i += 1) {
    if (i > 0) {
      if (text.charCodeAt(at) !== COMMA) return -1;
      at += 1;
    }
    let unit = text.charCodeAt(at);
    if (unit !== MINUS && !(unit >= ZERO && unit <= NINE)) return -1;
    while (unit !== COMMA && unit !== CLOSE && unit !== CLOSE_BRACE) {
      at += 1;
      // Past the end it is NaN: half a text.
      if (at >= text.length) return -1;
      unit = text.charCodeAt(at);
    }
  }
  return at;
}
