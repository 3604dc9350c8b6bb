/** `--via http`: Open Inference Protocol requests over keep-alive connections. */
import { Agent, request } from 'node:http';
import { Agent as TlsAgent, request as tlsRequest } from 'node:https';
import type { LoadOptions } from './options.ts';
import type { Sample } from './payload.ts';
import { priorityPattern } from './priorities.ts';
import type { Settle, Way } from './way.ts';
import { eventId, keyOf } from './way.ts';

/** An input as the model's metadata (`GET /v2/models/{m}`) names it. */
export interface OipInput {
  readonly name: string;
  readonly datatype: string;
  readonly shape: readonly number[];
}

/** Of a refusal's body, and of the sentence in it. */
const REFUSAL_LENGTH_MAX = 4096;
const SENTENCE_LENGTH_MAX = 200;
const REFUSALS_MAX = 100;
/** Of a good answer: model, version, event id, status. */
const STATUS_WITHIN = 1024;

/** The gateway's `{"error":"...","code":"..."}`; empty texts where a server answers something else. */
function refusalOf(text: string): { code: string; error: string } {
  try {
    const { code, error } = JSON.parse(text) as Record<string, unknown>;
    const plain = (value: unknown) =>
      // Control characters have no place on a terminal.
      typeof value === 'string' ? value.replace(/\p{Cc}+/gu, ' ').slice(0, SENTENCE_LENGTH_MAX) : '';
    return { code: plain(code), error: plain(error) };
  } catch {
    return { code: '', error: '' };
  }
}

export class HttpWay implements Way {
  readonly notes: string[] = [];
  readonly #options: LoadOptions;
  readonly #run: string;
  readonly #settle: Settle;
  readonly #agent: Agent;
  readonly #url: URL;
  /** Everything of the body after `id` and `key`. */
  readonly #bodies: string[];
  /** Deadline and priority, in the order in which events have them. */
  readonly #parameters: string[];
  /** By status and code, with the sentence that came first. */
  readonly #refusals = new Map<string, string>();
  #closed = false;

  constructor(
    options: LoadOptions,
    run: string,
    samples: readonly Sample[],
    inputs: readonly OipInput[],
    settle: Settle,
  ) {
    this.#options = options;
    this.#run = run;
    this.#settle = settle;
    this.#url = inferUrl(options);
    const agent = { keepAlive: true, maxSockets: options.connections, scheduling: 'fifo' } as const;
    this.#agent = this.#url.protocol === 'https:' ? new TlsAgent(agent) : new Agent(agent);
    const pattern = priorityPattern(options.priority);
    const deadline = options.deadlineMs === 0 ? '' : `,"deadline_ms":${options.deadlineMs}`;
    this.#parameters =
      pattern.length === 0 ? [deadline] : pattern.map((priority) => `${deadline},"priority":${priority}`);
    this.#bodies = samples.map((sample) =>
      JSON.stringify({ inputs: oipInputs(sample.data, inputs) }).slice(1),
    );
  }

  async open(): Promise<void> {}

  send(seq: number): void {
    const key = keyOf(seq, this.#options);
    const id = eventId(this.#run, seq);
    const more = this.#parameters[seq % this.#parameters.length];
    const head = `{"id":"${id}","parameters":{"key":"${key}"${more}},`;
    const body = `${head}${this.#bodies[seq % this.#bodies.length]}`;
    const headers: Record<string, string | number> = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
    };
    if (this.#options.token !== '') headers['authorization'] = `Bearer ${this.#options.token}`;
    let done = false;
    // A reset can follow the answer on the same socket: the first outcome is the outcome.
    const settle = (code: string) => {
      if (done || this.#closed) return;
      done = true;
      this.#settle(seq, code);
    };
    const open = this.#url.protocol === 'https:' ? tlsRequest : request;
    const outgoing = open(this.#url, { method: 'POST', headers, agent: this.#agent }, (response) => {
      response.on('error', (error: NodeJS.ErrnoException) => settle(error.code ?? 'aborted'));
      if (response.statusCode === 200) {
        let isDegraded = false;
        response.setEncoding('latin1');
        // It stands at the beginning, before the outputs: in the first part.
        response.once('data', (part: string) => {
          isDegraded = part.slice(0, STATUS_WITHIN).includes('"status":"degraded"');
        });
        response.on('end', () => settle(isDegraded ? 'degraded' : ''));
        response.resume();
        return;
      }
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        if (text.length < REFUSAL_LENGTH_MAX) text += part;
      });
      response.on('end', () => settle(this.#refusal(response.statusCode!, text)));
    });
    outgoing.on('error', (error: NodeJS.ErrnoException) => settle(error.code ?? error.message));
    outgoing.end(body);
  }

  /** `HTTP 404 unknown_model: ...`. Sentences that differ from event to event count under the first one. */
  #refusal(status: number, text: string): string {
    const { code, error } = refusalOf(text);
    const kind = code === '' ? `HTTP ${status}` : `HTTP ${status} ${code}`;
    let named = this.#refusals.get(kind);
    if (named === undefined) {
      named = error === '' ? kind : `${kind}: ${error}`;
      // A server may put anything into a code.
      if (this.#refusals.size < REFUSALS_MAX) this.#refusals.set(kind, named);
    }
    return named;
  }

  flush(): void {}

  async close(): Promise<void> {
    this.#closed = true;
    this.#agent.destroy();
  }
}

/** `name@version` becomes `/versions/N`. */
function inferUrl(options: LoadOptions): URL {
  const [name = '', version] = options.model.split('@', 2);
  const part = version === undefined ? '' : `/versions/${encodeURIComponent(version)}`;
  return new URL(`/v2/models/${encodeURIComponent(name)}${part}/infer`, options.url);
}

/** The model's inputs as the server names them; empty where it does not say. */
export async function modelInputs(options: LoadOptions): Promise<readonly OipInput[]> {
  const url = inferUrl(options);
  url.pathname = url.pathname.slice(0, -'/infer'.length);
  const headers: Record<string, string> = {};
  if (options.token !== '') headers['authorization'] = `Bearer ${options.token}`;
  const response = await fetch(url, { headers, signal: AbortSignal.timeout(5000) }).catch(() => null);
  if (response === null || !response.ok) return [];
  const metadata = (await response.json().catch(() => ({}))) as { inputs?: OipInput[] };
  return metadata.inputs ?? [];
}

/** Named fields as tensors of one row. What the metadata does not name gets its type from the value. */
export function oipInputs(data: Readonly<Record<string, unknown>>, inputs: readonly OipInput[]): unknown[] {
  return Object.entries(data).map(([name, value]) => {
    const known = inputs.find((input) => input.name === name);
    const values = (Array.isArray(value) ? value : [value]).flat(10) as unknown[];
    // A list of free length is as long as it is; the metadata's first dimension is the batch.
    const row = known?.shape.slice(1) ?? [-1];
    const fixed = row.every((size) => size > 0);
    const rowShape = fixed ? row : Array.isArray(value) ? [values.length] : [];
    return {
      name,
      datatype: known?.datatype ?? datatypeOf(values[0]),
      shape: [1, ...rowShape],
      data: values,
    };
  });
}

function datatypeOf(value: unknown): string {
  if (typeof value === 'string') return 'BYTES';
  return typeof value === 'boolean' ? 'BOOL' : 'FP32';
}
