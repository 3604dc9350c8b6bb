/** What is asked and what must come back: bodies made beforehand, and the model's own answers to them. */
import { loadModel, ROW_FLOATS } from '../peers/session.ts';
import { MODEL_PATH } from '../site.ts';
import { payloads } from '../streams.ts';

/**
 * How a server wants it: the Open Inference Protocol, or `{"rows": [[...]]}`, which is shorter and what the
 * other servers take most easily.
 */
export type Form = 'v2' | 'rows';

/** Distinct bodies of one run. */
const BODIES = 64;
/** Of probabilities, after a decimal form that keeps a float32. */
const TOLERANCE = 1e-5;

const rowsOf = (first: number, count: number) =>
  Array.from({ length: count }, (_, i) => {
    const { buffer, byteOffset } = payloads[(first + i) % payloads.length]!;
    return Array.from(new Float32Array(buffer, byteOffset, ROW_FLOATS));
  });

/** A float32 is written with all the digits of the double that it is, as Python's json and ours do. */
function bodyOf(form: Form, rows: readonly (readonly number[])[]): string {
  if (form === 'rows') return JSON.stringify({ rows });
  const shape = [rows.length, ROW_FLOATS];
  return JSON.stringify({ inputs: [{ name: 'features', shape, datatype: 'FP32', data: rows.flat() }] });
}

export function bodiesOf(form: Form, rowsEach: number): string[] {
  return Array.from({ length: BODIES }, (_, i) => bodyOf(form, rowsOf(i * rowsEach, rowsEach)));
}

/** The scores in an answer; throws when it has none. */
export function scoresOf(answer: unknown): number[] {
  const { outputs, scores } = answer as { outputs?: { data: unknown }[]; scores?: unknown };
  const list = Array.isArray(answer) ? answer : (scores ?? outputs?.[0]?.data);
  const flat = Array.isArray(list) ? list.flat() : [];
  if (flat.length === 0 || !flat.every((value) => typeof value === 'number')) {
    throw new Error(`an answer without scores: ${JSON.stringify(answer).slice(0, 200)}`);
  }
  return flat;
}

export interface Question {
  readonly body: Readonly<Record<Form, string>>;
  readonly scores: readonly number[];
}

/** Requests of one and of sixteen rows with the answers that ONNX Runtime itself gives. */
export async function questions(): Promise<Question[]> {
  const model = await loadModel(MODEL_PATH, 16);
  const asked: Question[] = [];
  for (const [first, count] of [
    [0, 1],
    [1, 1],
    [100, 16],
  ] as const) {
    const rows = rowsOf(first, count);
    const scores = Array.from((await model.run(Float32Array.from(rows.flat()), count)).subarray(0, count));
    asked.push({ body: { v2: bodyOf('v2', rows), rows: bodyOf('rows', rows) }, scores });
  }
  return asked;
}

/** Null, or what is wrong. */
export function wrongScores(expected: readonly number[], got: readonly number[]): string | null {
  if (got.length !== expected.length) return `${got.length} scores for ${expected.length} rows`;
  const at = got.findIndex((score, i) => !(Math.abs(score - expected[i]!) <= TOLERANCE));
  return at < 0 ? null : `row ${at} has the score ${got[at]}, the model says ${expected[at]}`;
}

/** Asks each question. Throws what is wrong. */
export async function verify(url: string, form: Form, asked: readonly Question[]): Promise<void> {
  for (const { body, scores } of asked) {
    const headers = { 'content-type': 'application/json' };
    const response = await fetch(url, { method: 'POST', headers, body: body[form] });
    const text = await response.text();
    if (!response.ok) throw new Error(`HTTP ${response.status}: ${text.slice(0, 200)}`);
    const wrong = wrongScores(scores, scoresOf(JSON.parse(text)));
    if (wrong !== null) throw new Error(wrong);
  }
}
