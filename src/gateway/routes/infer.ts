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
import { PRIORITY_DIRECT } from '../../schedule/entry.ts';
import type { Backend, ModelInfo } from '../backend.ts';
import { decodeOutputs, parseJsonObject, recode } from '../codec.ts';
import type { FieldLimits } from '../fields.ts';
import { optionalDeadlineMs, optionalPriority, optionalText } from '../fields.ts';
import { Malformed } from '../msgpack.ts';
import type { BinaryBody } from './binary.ts';
import { elementBytes, plainBinary, splitBody, withValues } from './binary.ts';
import type { PlainRequest } from './body.ts';
import { plainRequest } from './body.ts';
import type { RowAnswer, RowFailure } from './fan.ts';
import { fanOut } from './fan.ts';
import type { Exchange, RequestHead } from './http.ts';
import { OutputTexts } from './outputs.ts';
import type { OutputTensor } from './tensors.ts';
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

/** Where the engine does not know. */
const RETRY_MS_DEFAULT = 1000;

/** `curl -d` says form-urlencoded unless told otherwise, and means JSON. */
const JSON_TYPES = /^(application\/(json|[\w.-]+\+json|x-www-form-urlencoded)|text\/plain)?\s*(;|$)/i;

const BINARY_TYPE = /^application\/octet-stream\s*(;|$)/i;

export function inferRoute(
  options: InferOptions,
  name: string,
  model: ModelInfo,
  head: RequestHead,
  exchange: Exchange,
): void {
  const { contentType, inferenceHeaderLength, traceparent: trace } = head;
  const isBinary = inferenceHeaderLength !== '';
  if (!JSON_TYPES.test(contentType) && !(isBinary && BINARY_TYPE.test(contentType))) {
    const message =
      'send JSON with content-type application/json; or binary tensors behind it, as ' +
      'application/octet-stream with inference-header-content-length';
    exchange.error(415, 'unsupported_media_type', message, {}, true);
    return;
  }
  exchange.readBody(head, options.limits.httpBodyBytesMax, (bytes) => {
    guarded(exchange, () => {
      const split = isBinary ? splitBody(bytes, inferenceHeaderLength) : null;
      const plain = plainOf(model, bytes, split);
      if (plain !== null) {
        inferTensors(options, name, model, plain.fields, { ...plain, raw: true, trace }, exchange);
        return;
      }
      const body = split === null ? parseJsonObject(bytes) : withValues(split);
      if (body['inputs'] === undefined && body['data'] !== undefined) {
        inferEvent(options, name, body, trace, exchange);
        return;
      }
      const rows = rowsOf(body['inputs'], model.fields, REQUEST_ROWS_MAX);
      const row = (i: number) => Buffer.from(JSON.stringify(rows[i]), 'utf8');
      inferTensors(options, name, model, body, { rows: rows.length, row, raw: false, trace }, exchange);
    });
  });
}

/** The short way, where there is one. */
function plainOf({ tensors }: ModelInfo, bytes: Buffer, split: BinaryBody | null): PlainRequest | null {
  if (tensors === null) return null;
  return split === null
    ? plainRequest(bytes, tensors, REQUEST_ROWS_MAX)
    : plainBinary(split, tensors, REQUEST_ROWS_MAX);
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
function eventFields(
  fields: Fields,
  limits: FieldLimits,
): { key: string; deadlineMs: number; priority: number } {
  return {
    key: optionalText(fields, 'key', limits.keyBytesMax),
    deadlineMs: optionalDeadlineMs(fields, 'deadline_ms', limits.deadlineMsMax),
    priority: optionalPriority(fields, PRIORITY_DIRECT),
  };
}

function inferEvent(
  options: InferOptions,
  model: string,
  body: Fields,
  trace: string,
  exchange: Exchange,
): void {
  const { data } = body;
  if (typeof data !== 'object' || data === null || Array.isArray(data)) {
    throw new InvalidEvent('data', 'must be a map of named fields');
  }
  const common = eventFields(body, options.limits);
  const event = optionalText(body, 'event', options.limits.eventIdBytesMax);
  const bytes = Buffer.from(JSON.stringify(data), 'utf8');
  const { caller } = exchange;
  options.backend.infer({ model, event, ...common, data: bytes, json: true, trace, caller }, (answer) => {
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
    ...(answer.rung ? { rung: answer.rung } : {}),
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
  /** The request's; its first row speaks for all. */
  readonly trace: string;
}

function inferTensors(
  options: InferOptions,
  name: string,
  model: ModelInfo,
  body: Fields,
  { rows, row, raw, trace }: Rows,
  exchange: Exchange,
): void {
  const id = optionalText(body, 'id', options.limits.eventIdBytesMax);
  const parameters = body['parameters'] ?? {};
  if (typeof parameters !== 'object') throw new InvalidEvent('parameters', 'must be an object');
  const common = eventFields(parameters as Fields, options.limits);
  const wanted = wantedOutputs(body['outputs'], (parameters as Fields)['binary_data_output'] === true);
  const fan = {
    rows,
    window: Math.min(model.rowsMax, WINDOW_ROWS_MAX),
    infer: (at: number, answer: AnswerCallback) => {
      const { caller } = exchange;
      const event = { model: name, event: id, ...common, data: row(at), raw, json: true, caller };
      options.backend.infer(at === 0 ? { ...event, trace } : event, (one) =>
        guarded(exchange, () => answer(one)),
      );
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

/** Which outputs are asked for, and which of them in binary. */
interface Wanted {
  /** Null: all. */
  readonly names: ReadonlySet<string> | null;
  readonly binary: (name: string) => boolean;
  readonly isBinary: boolean;
}

/** `isBinary`: unless an output says otherwise. */
function wantedOutputs(outputs: unknown, isBinary: boolean): Wanted {
  if (outputs !== undefined && outputs !== null && !Array.isArray(outputs)) {
    throw new InvalidEvent('outputs', 'must be a list');
  }
  if (!outputs || outputs.length === 0) return { names: null, binary: () => isBinary, isBinary };
  const binary = new Map<string, boolean>();
  for (const [i, output] of outputs.entries()) {
    const { name, parameters } = (output ?? {}) as { name?: unknown; parameters?: Fields | null };
    if (typeof name !== 'string') throw new InvalidEvent(`outputs[${i}].name`, 'must be a string');
    binary.set(name, (parameters?.['binary_data'] ?? isBinary) === true);
  }
  const names = new Set(binary.keys());
  const any = [...binary.values()].includes(true);
  return { names, binary: (name) => binary.get(name) === true, isBinary: any };
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
  wanted: Wanted,
): void {
  const texts = rows.map((row) => row.outputs);
  const joined = wanted.isBinary ? null : outputTextsOf(model).join(texts, wanted.names);
  const tensors = joined === null ? tensorsWanted(exchange, model, texts, wanted) : [];
  if (tensors === null) return;
  const parts: Buffer[] = [];
  const outputs = joined ?? JSON.stringify(tensors.map((tensor) => placed(tensor, wanted, parts)));
  const [name, version] = splitModel(rows[0]!.model);
  const modelText = JSON.stringify(name === '' ? model.name : name);
  const versionText = JSON.stringify(version === '' ? String(model.version) : version);
  const idText = id === '' ? '' : `"id":${JSON.stringify(id)},`;
  const degraded = rows.find((row) => row.status === 'degraded');
  const status = degraded === undefined ? '"ok"' : `"degraded","rung":${JSON.stringify(degraded.rung)}`;
  const text =
    `{"model_name":${modelText},"model_version":${versionText},${idText}` +
    `"parameters":{"status":${status}},"outputs":${outputs}}`;
  if (parts.length > 0) exchange.binary(200, text, parts);
  else exchange.jsonText(200, text);
}

/** What the JSON says of a tensor; its elements go to `parts` where they are wanted in binary. */
function placed(tensor: OutputTensor, wanted: Wanted, parts: Buffer[]): Fields | OutputTensor {
  const bytes = wanted.binary(tensor.name) ? elementBytes(tensor) : null;
  if (bytes === null) return tensor;
  parts.push(bytes);
  const { data: _elsewhere, parameters, ...rest } = tensor;
  return { ...rest, parameters: { ...parameters, binary_data_size: bytes.length } };
}

/** Null: an output is asked for that is not there, and that was answered. */
function tensorsWanted(
  exchange: Exchange,
  model: ModelInfo,
  rows: readonly string[],
  { names }: Wanted,
): OutputTensor[] | null {
  const isMap = (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value);
  const values = rows.map((row) => JSON.parse(row) as unknown);
  const tensors = tensorsOf(
    values.map((value) => (isMap(value) ? (value as Fields) : {})),
    model.predicts,
  );
  const outputs = names === null ? tensors : tensors.filter((tensor) => names.has(tensor.name));
  for (const missing of names ?? []) {
    if (outputs.some((tensor) => tensor.name === missing)) continue;
    exchange.error(400, 'invalid_request', `outputs: ${model.name} has no output ${missing}`);
    return null;
  }
  return outputs;
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
  superseded: [409, 'superseded', 'a newer event of the same key took its place'],
  unknown_model: [404, 'unknown_model', 'no such model is served here'],
  unavailable: [503, 'model_unavailable', 'the model is not available now'],
};

function fail(exchange: Exchange, answer: RowFailure['answer'], prefix: string): void {
  const [status, code, message] = FAILURES[answer.status] ?? FAILURES['failed']!;
  const text = prefix + (answer.detail === '' ? message : answer.detail);
  if (status !== 429 && status !== 503) exchange.error(status, code, text);
  else exchange.retry(status, code, text, answer.retryMs > 0 ? answer.retryMs : RETRY_MS_DEFAULT);
}
