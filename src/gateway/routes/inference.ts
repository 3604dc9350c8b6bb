/**
 * The Open Inference Protocol, version 2, over HTTP with JSON (the one that Triton and KServe speak), and
 * beside it the short form: a body with `data` instead of `inputs` is one event as on the stream, answered
 * with its prediction.
 */
import { messageOf } from '../../errors.ts';
import type { FieldSpec } from '../../infer/handler.ts';
import { InvalidEvent } from '../../infer/handler.ts';
import type { Limits } from '../../limits.ts';
import { notice } from '../../observe/channels.ts';
import type { Answer, AnswerCallback } from '../../schedule/direct.ts';
import type { Backend, ModelInfo } from '../backend.ts';
import { decodeOutputs, parseJsonObject } from '../codec.ts';
import type { FieldLimits } from '../fields.ts';
import { optionalDeadlineMs, optionalText } from '../fields.ts';
import { Malformed } from '../msgpack.ts';
import type { RowAnswer, RowFailure } from './fan.ts';
import { fanOut } from './fan.ts';
import type { Exchange, RequestHead } from './http.ts';
import { DATATYPES, rowsOf, tensorsOf } from './tensors.ts';

export interface InferenceOptions {
  readonly backend: Backend;
  readonly limits: FieldLimits & Pick<Limits, 'httpBodyBytesMax'>;
  /** Of Subito, for the server's metadata. */
  readonly version: string;
}

/** Rows of one request; more belong on the stream. */
const REQUEST_ROWS_MAX = 4096;

/** Rows of one request in flight at once, however large the model's slabs are. */
const WINDOW_ROWS_MAX = 64;

type Fields = Readonly<Record<string, unknown>>;

/** True when the path was one of ours; it is then answered, now or later. */
export function serveInference(options: InferenceOptions, head: RequestHead, exchange: Exchange): boolean {
  if (head.path !== '/v2' && !head.path.startsWith('/v2/')) return false;
  const parts = pathParts(head.path);
  if (parts === null) {
    exchange.error(400, 'invalid_path', 'the path is not valid percent-encoding');
    return true;
  }
  const [, first, name, third, version, last] = parts;
  if (parts.length === 1) getOnly(head, exchange, () => serverMetadata(options, exchange));
  else if (first === 'health' && parts.length === 3 && (name === 'live' || name === 'ready')) {
    getOnly(head, exchange, () => health(options.backend, name, exchange));
  } else if (first === 'models' && name !== undefined && name !== '') {
    if (third === 'versions' && version !== undefined && parts.length <= 6) {
      modelRoute(options, `${name}@${version}`, last, head, exchange);
    } else if (parts.length <= 4) modelRoute(options, name, third, head, exchange);
    else exchange.error(404, 'not_found', `there is nothing at ${head.path}`);
  } else exchange.error(404, 'not_found', `there is nothing at ${head.path}`);
  return true;
}

function pathParts(path: string): string[] | null {
  try {
    return path.slice(1).split('/').map(decodeURIComponent);
  } catch {
    return null;
  }
}

function getOnly(head: RequestHead, exchange: Exchange, answer: () => void): void {
  if (head.method === 'GET' || head.method === 'HEAD') answer();
  else exchange.error(405, 'method_not_allowed', `${head.path} answers GET`, { allow: 'GET, HEAD' });
}

function modelRoute(
  options: InferenceOptions,
  name: string,
  verb: string | undefined,
  head: RequestHead,
  exchange: Exchange,
): void {
  const { backend } = options;
  const model = backend.model(name);
  if (model === undefined) {
    exchange.error(404, 'unknown_model', `no model ${name} is served here`);
  } else if (verb === undefined) {
    getOnly(head, exchange, () => exchange.json(200, modelMetadata(backend, model)));
  } else if (verb === 'ready') {
    const { ready } = backend.health();
    getOnly(head, exchange, () => exchange.json(ready ? 200 : 503, { name: model.name, ready }));
  } else if (verb === 'infer') {
    if (head.method === 'POST') inferRoute(options, name, model, head, exchange);
    else exchange.error(405, 'method_not_allowed', `${head.path} answers POST`, { allow: 'POST' });
  } else exchange.error(404, 'not_found', `there is nothing at ${head.path}`);
}

function serverMetadata(options: InferenceOptions, exchange: Exchange): void {
  exchange.json(200, { name: 'subito', version: options.version, extensions: [] });
}

function health(backend: Backend, which: 'live' | 'ready', exchange: Exchange): void {
  const { live, ready, reasons } = backend.health();
  const well = which === 'live' ? live : ready;
  exchange.json(well ? 200 : 503, { [which]: well, ...(well ? {} : { reasons }) });
}

function tensorMetadata(field: FieldSpec): Fields {
  return { name: field.name, datatype: DATATYPES[field.dtype], shape: [-1, ...field.shape] };
}

function modelMetadata(backend: Backend, model: ModelInfo): Fields {
  const versions = backend
    .models()
    .filter((one) => one.name === model.name)
    .map((one) => String(one.version));
  return {
    name: model.name,
    versions: versions.length > 0 ? versions : [String(model.version)],
    platform: 'onnxruntime_onnx',
    inputs: model.fields.map(tensorMetadata),
    outputs: model.predicts.map(tensorMetadata),
    parameters: { description: model.description, provider: model.provider, rows_max: model.rowsMax },
  };
}

/** `curl -d` says form-urlencoded unless told otherwise, and means JSON. */
const JSON_TYPES = /^(application\/(json|[\w.-]+\+json|x-www-form-urlencoded)|text\/plain)?\s*(;|$)/i;

function inferRoute(
  options: InferenceOptions,
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
      const body = parseJsonObject(bytes);
      if (body['inputs'] === undefined && body['data'] !== undefined) {
        inferEvent(options, name, body, exchange);
      } else inferTensors(options, name, model, body, exchange);
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

function inferEvent(options: InferenceOptions, model: string, body: Fields, exchange: Exchange): void {
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

function inferTensors(
  options: InferenceOptions,
  name: string,
  model: ModelInfo,
  body: Fields,
  exchange: Exchange,
): void {
  const id = optionalText(body, 'id', options.limits.eventIdBytesMax);
  const parameters = body['parameters'] ?? {};
  if (typeof parameters !== 'object') throw new InvalidEvent('parameters', 'must be an object');
  const common = eventFields(parameters as Fields, options.limits);
  const wanted = wantedOutputs(body['outputs']);
  const rows = rowsOf(body['inputs'], model.fields, REQUEST_ROWS_MAX);
  const fan = {
    rows: rows.length,
    window: Math.min(model.rowsMax, WINDOW_ROWS_MAX),
    infer: (row: number, answer: AnswerCallback) => {
      const data = Buffer.from(JSON.stringify(rows[row]), 'utf8');
      options.backend.infer({ model: name, event: id, ...common, data, json: true }, (one) => {
        guarded(exchange, () => answer(one));
      });
    },
    decode: decodeOutputs,
    wanted: () => exchange.open,
  };
  fanOut(fan, (result) => {
    if (Array.isArray(result)) replyTensors(exchange, id, model, result, wanted);
    else failRow(exchange, result, rows.length);
  });
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

function replyTensors(
  exchange: Exchange,
  id: string,
  model: ModelInfo,
  rows: readonly RowAnswer[],
  wanted: ReadonlySet<string> | null,
): void {
  const tensors = tensorsOf(
    rows.map((row) => row.outputs),
    model.predicts,
  );
  const outputs = wanted === null ? tensors : tensors.filter((tensor) => wanted.has(tensor.name));
  for (const missing of wanted ?? []) {
    if (outputs.some((tensor) => tensor.name === missing)) continue;
    exchange.error(400, 'invalid_request', `outputs: ${model.name} has no output ${missing}`);
    return;
  }
  const [name, version] = splitModel(rows[0]!.model);
  exchange.json(200, {
    model_name: name === '' ? model.name : name,
    model_version: version === '' ? String(model.version) : version,
    ...(id === '' ? {} : { id }),
    parameters: { status: rows.some((row) => row.status === 'degraded') ? 'degraded' : 'ok' },
    outputs,
  });
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
