/**
 * The Open Inference Protocol, version 2, over HTTP with JSON (the one that Triton and KServe speak): who is
 * asked for what. Inference itself is infer.ts.
 */
import type { FieldSpec } from '../../infer/handler.ts';
import type { Backend, ModelInfo } from '../backend.ts';
import type { Exchange, RequestHead } from './http.ts';
import { retryAfter } from './http.ts';
import type { InferOptions } from './infer.ts';
import { inferRoute } from './infer.ts';
import { DATATYPES } from './tensors.ts';

export interface InferenceOptions extends InferOptions {
  /** Of Subito, for the server's metadata. */
  readonly version: string;
}

/** Readiness is judged anew each time; a second is what reconnecting takes. */
const READY_RETRY_MS = 1000;

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
  if (!path.includes('%')) return path.slice(1).split('/');
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
  const problem = model === undefined ? backend.problem?.(name) : undefined;
  if (problem !== undefined && verb === 'ready') {
    // It stays so until somebody mends the model: there is no time to name.
    getOnly(head, exchange, () => exchange.json(503, { name, ready: false, reasons: [problem] }));
  } else if (model === undefined) {
    exchange.error(404, 'unknown_model', `no model ${name} is served here`);
  } else if (verb === undefined) {
    getOnly(head, exchange, () => exchange.json(200, modelMetadata(backend, model)));
  } else if (verb === 'ready') {
    const { ready } = backend.health();
    const answer = { name: model.name, ready };
    getOnly(head, exchange, () => (ready ? exchange.json(200, answer) : notReady(exchange, answer)));
  } else if (verb === 'infer') {
    if (head.method === 'POST') inferRoute(options, name, model, head, exchange);
    else exchange.error(405, 'method_not_allowed', `${head.path} answers POST`, { allow: 'POST' });
  } else exchange.error(404, 'not_found', `there is nothing at ${head.path}`);
}

function serverMetadata(options: InferenceOptions, exchange: Exchange): void {
  exchange.json(200, { name: 'subito', version: options.version, extensions: ['binary_tensor_data'] });
}

function health(backend: Backend, which: 'live' | 'ready', exchange: Exchange): void {
  const { live, ready, reasons } = backend.health();
  const well = which === 'live' ? live : ready;
  const says = reasons.length > 0 && !(which === 'live' && well);
  const answer = { [which]: well, ...(says ? { reasons } : {}) };
  if (well) exchange.json(200, answer);
  else notReady(exchange, answer);
}

/** Probes ask again anyway; whoever is not a probe is told when to. */
function notReady(exchange: Exchange, answer: Fields): void {
  exchange.json(503, answer, retryAfter(READY_RETRY_MS));
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
