/**
 * `POST /v2/models/{m}/infer`: tensors of the Open Inference Protocol, each row an event of its own to the
 * engine; and beside it the short form: a body with `data` instead of `inputs` is one event as on the stream,
 * answered with its prediction.
 */
import { messageOf } from '../../errors.ts';
import { InvalidEvent } from '../../infer/handler.ts';
import type { Limits } from '../../limits.ts';
import { notice } from '../../observe/channels.ts';
import type { Answer, AnswerCallback } from '../../schedule/direct.ts';
import type { Backend, ModelInfo } from '../backend.ts';
import { decodeOutputs, parseJsonObject, recode } from '../codec.ts';
import type { FieldLimits } from '../fields.ts';
import { optionalDeadlineMs, optionalText } from '../fields.ts';
import { Malformed } from '../msgpack.ts';
import { plainRequest } from './body.ts';
import type { RowAnswer, RowFailure } from './fan.ts';
import { fanOut } from './fan.ts';
import type { Exchange, RequestHead } from './http.ts';
import { OutputTexts } from './outputs.ts';
import { rowsOf, tensorsOf } from './tensors.ts';

export interface InferOptions {
  readonly backend: Backend;
  readonly limits: FieldLimits & Pick<Limits, 'httpBodyBytesMax'>;
}

/** Rows of one request; more belong on the stream. */
const REQUEST_ROWS_MAX = 4096;

/** Rows of one request in flight at once, however large the model's slabs are. */
const WINDOW_ROWS_MAX = 64;

type Fields = Readonly<Record<string, unknown>>;

/** `curl -d` says form-urlencoded unless told otherwise, and means JSON. */
const JSON_TYPES = /^(application\/(json|[\w.-]+\+json|x-www-form-urlencoded)|text\/plain)?\s*(;|$)/i;

export function inferRoute(
  options: InferOptions,
  name: string,
  model: ModelInfo,
  head: RequestHead,
  exchange: Exchange,
): void {
  if (!JSON_TYPES.test(head.contentType) || head.inferenceHeaderLength !== '') {
    const message = 'send JSON with content-type application/json; the binary extension is not spoken here';
    exchange.error(415, 'unsupported_media_type', message, {}, true);
    return;
  }
  exchange.readBody(head, options.limits.httpBodyBytesMax, (bytes) => {
    guarded(exchange, () => {
      const plain = model.tensors === null ? null : plainRequest(bytes, model.tensors, REQUEST_ROWS_MAX);
      if (plain !== null) {
        inferTensors(options, name, model, plain.fields, { ...plain, raw: true }, exchange);
        return;
      }
      const body = parseJsonObject(bytes);
      if (body['inputs'] === undefined && body['data'] !== undefined) {
        inferEvent(options, name, body, exchange);
        return;
      }
      const rows = rowsOf(body['inputs'], model.fields, REQUEST_ROWS_MAX);
      const row = (i: number) => Buffer.from(JSON.stringify(rows[i]), 'utf8');
      inferTensors(options, name, model, body, { rows: rows.length, row, raw: false }, exchange);
    });
  });
}

/** Both the socket library and the engine call back here, and neither can do anything with an exception. */
function guarded(exchange: Exchange, work: () => void): void {
  try {
    work();
  } catch (error) {
    if (error instanceof Malformed) {
      exchange.error(400, 'malformed', `the body is not taken: ${error.message}`);
    } else if (error instanceof InvalidEvent) {
      exchange.error(400, 'invalid_request', error.message);
    } else {
      notice('error', 'GATEWAY_INFER_THREW', messageOf(error));
      exchange.error(500, 'internal', 'the engine failed on this request');
    }
  }
}

/** What both forms say about the event, beside its data. */
function eventFields(fields: Fields, limits: FieldLimits): { key: string; deadlineMs: number } {
  return {
    key: optionalText(fields, 'key', limits.keyBytesMax),
    deadlineMs: optionalDeadlineMs(fields, 'deadline_ms', limits.deadlineMsMax),
  };
}

function inferEvent(options: InferOptions, model: string, body: Fields, exchange: Exchange): void {
  const { data } = body;
  if (typeof data !== 'object' || data === null || Array.isArray(data)) {
    throw new InvalidEvent('data', 'must be a map of named fields');
  }
  const common = eventFields(body, options.limits);
  const event = optionalText(body, 'event', options.limits.eventIdBytesMax);
  const bytes = Buffer.from(JSON.stringify(data), 'utf8');
  options.backend.infer({ model, event, ...common, data: bytes, json: true }, (answer) => {
    guarded(exchange, () => replyEvent(exchange, event, answer));
  });
}

function replyEvent(exchange: Exchange, event: string, answer: Answer): void {
  if (answer.status !== 'ok' && answer.status !== 'degraded') {
    fail(exchange, answer, '');
    return;
  }
  exchange.json(200, {
    model: answer.model,
    status: answer.status,
    outputs: decodeOutputs(answer.outputs),
    wait_us: answer.waitUs,
    infer_us: answer.inferUs,
    ...(event === '' ? {} : { event }),
  });
}

/** The rows of a request as the engine takes them. */
interface Rows {
  readonly rows: number;
  readonly row: (row: number) => Uint8Array;
  /** As in DirectEvent. */
  readonly raw: boolean;
}

function inferTensors(
  options: InferOptions,
  name: string,
  model: ModelInfo,
  body: Fields,
  { rows, row, raw }: Rows,
  exchange: Exchange,
): void {
  const id = optionalText(body, 'id', options.limits.eventIdBytesMax);
  const parameters = body['parameters'] ?? {};
  if (typeof parameters !== 'object') throw new InvalidEvent('parameters', 'must be an object');
  const { key, deadlineMs } = eventFields(parameters as Fields, options.limits);
  const wanted = wantedOutputs(body['outputs']);
  const fan = {
    rows,
    window: Math.min(model.rowsMax, WINDOW_ROWS_MAX),
    infer: (at: number, answer: AnswerCallback) => {
      const event = { model: name, event: id, key, deadlineMs, data: row(at), raw, json: true };
      options.backend.infer(event, (one) => guarded(exchange, () => answer(one)));
    },
    copy: jsonText,
    wanted: () => exchange.open,
  };
  fanOut(fan, (result) => {
    if (Array.isArray(result)) replyTensors(exchange, id, model, result, wanted);
    else failRow(exchange, result, rows);
  });
}

function jsonText(outputs: Uint8Array): string {
  const { buffer, byteOffset, byteLength } = recode(outputs, true);
  return Buffer.from(buffer, byteOffset, byteLength).toString('utf8');
}

/** Names of the outputs that are asked for; null for all of them. */
function wantedOutputs(outputs: unknown): ReadonlySet<string> | null {
  if (outputs === undefined || outputs === null) return null;
  if (!Array.isArray(outputs)) throw new InvalidEvent('outputs', 'must be a list');
  if (outputs.length === 0) return null;
  return new Set(
    outputs.map((output: { name?: unknown } | null, i) => {
      if (typeof output?.name === 'string') return output.name;
      throw new InvalidEvent(`outputs[${i}].name`, 'must be a string');
    }),
  );
}

/** By model; one is made once. */
const outputTexts = new WeakMap<ModelInfo, OutputTexts>();

function outputTextsOf(model: ModelInfo): OutputTexts {
  let texts = outputTexts.get(model);
  if (texts === undefined) {
    texts = new OutputTexts(model.predicts);
    outputTexts.set(model, texts);
  }
  return texts;
}

function replyTensors(
  exchange: Exchange,
  id: string,
  model: ModelInfo,
  rows: readonly RowAnswer[],
  wanted: ReadonlySet<string> | null,
): void {
  const texts = rows.map((row) => row.outputs);
  const outputs = outputTextsOf(model).join(texts, wanted) ?? tensorsText(exchange, model, texts, wanted);
  if (outputs === null) return;
  const [name, version] = splitModel(rows[0]!.model);
  const modelText = JSON.stringify(name === '' ? model.name : name);
  const versionText = JSON.stringify(version === '' ? String(model.version) : version);
  const idText = id === '' ? '' : `"id":${JSON.stringify(id)},`;
  const status = rows.some((row) => row.status === 'degraded') ? 'degraded' : 'ok';
  exchange.jsonText(
    200,
    `{"model_name":${modelText},"model_version":${versionText},${idText}` +
      `"parameters":{"status":"${status}"},"outputs":${outputs}}`,
  );
}

/** Null: an output is asked for that is not there, and that was answered. */
function tensorsText(
  exchange: Exchange,
  model: ModelInfo,
  rows: readonly string[],
  wanted: ReadonlySet<string> | null,
): string | null {
  const isMap = (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value);
  const values = rows.map((row) => JSON.parse(row) as unknown);
  const tensors = tensorsOf(
    values.map((value) => (isMap(value) ? (value as Fields) : {})),
    model.predicts,
  );
  const outputs = wanted === null ? tensors : tensors.filter((tensor) => wanted.has(tensor.name));
  for (const missing of wanted ?? []) {
    if (outputs.some((tensor) => tensor.name === missing)) continue;
    exchange.error(400, 'invalid_request', `outputs: ${model.name} has no output ${missing}`);
    return null;
  }
  return JSON.stringify(outputs);
}

function splitModel(model: string): [string, string] {
  const at = model.indexOf('@');
  return at < 0 ? [model, ''] : [model.slice(0, at), model.slice(at + 1)];
}

function failRow(exchange: Exchange, failure: RowFailure, rows: number): void {
  fail(exchange, failure.answer, rows === 1 ? '' : `row ${failure.row}: `);
}

const FAILURES: Readonly<Record<string, readonly [status: number, code: string, message: string]>> = {
  invalid: [400, 'invalid_event', 'the event is invalid'],
  failed: [500, 'internal', 'the model failed on this event'],
  overloaded: [429, 'overloaded', 'more events are waiting than can be answered in time'],
  expired: [504, 'deadline_exceeded', 'the deadline passed before the answer'],
  unknown_model: [404, 'unknown_model', 'no such model is served here'],
  unavailable: [503, 'model_unavailable', 'the model is not available now'],
};

function fail(exchange: Exchange, answer: RowFailure['answer'], prefix: string): void {
  const [status, code, message] = FAILURES[answer.status] ?? FAILURES['failed']!;
  const retryable = status === 429 || status === 503;
  // Whole seconds are all that the header can say.
  const seconds = Math.max(1, Math.ceil(answer.retryMs / 1000));
  const headers: Record<string, string> = retryable ? { 'retry-after': String(seconds) } : {};
  exchange.error(status, code, prefix + (answer.detail === '' ? message : answer.detail), headers);
}
