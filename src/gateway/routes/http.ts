/**
 * One HTTP request and its one answer, on top of uWebSockets.js. The library aborts the process when a
 * handler neither answers nor listens for the client's going away, and it takes the request object back as
 * soon as the handler returns: an Exchange listens from the start, copies what routes may read, and answers
 * at most once.
 */
import type { HttpRequest, HttpResponse } from 'uWebSockets.js';
import type { Caller } from '../../schedule/direct.ts';

export interface RequestHead {
  /** In capitals. */
  readonly method: string;
  /** As it came, still percent-encoded, without the query. */
  readonly path: string;
  readonly query: string;
  /** '' for a header that was not sent. */
  readonly host: string;
  readonly origin: string;
  readonly contentType: string;
  readonly contentLength: string;
  readonly ifNoneMatch: string;
  /** Bytes of the JSON in front of binary tensors; only requests that bring some say it. */
  readonly inferenceHeaderLength: string;
  /** '' also while nobody traces. */
  readonly traceparent: string;
}

export function readHead(req: HttpRequest, tracing = false): RequestHead {
  return {
    method: req.getCaseSensitiveMethod().toUpperCase(),
    path: req.getUrl(),
    query: req.getQuery() ?? '',
    host: req.getHeader('host'),
    origin: req.getHeader('origin'),
    contentType: req.getHeader('content-type'),
    contentLength: req.getHeader('content-length'),
    ifNoneMatch: req.getHeader('if-none-match'),
    inferenceHeaderLength: req.getHeader('inference-header-content-length'),
    traceparent: tracing ? req.getHeader('traceparent') : '',
  };
}

const STATUS_TEXT: Readonly<Record<number, string>> = {
  200: 'OK',
  304: 'Not Modified',
  400: 'Bad Request',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  409: 'Conflict',
  413: 'Content Too Large',
  421: 'Misdirected Request',
  415: 'Unsupported Media Type',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
};

export type Headers = Readonly<Record<string, string>>;

/** On every answer that does not say otherwise: nothing is to be sniffed, framed or told to other sites. */
const SECURITY_HEADERS: Headers = {
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
};

const JSON_HEADERS: Headers = { 'content-type': 'application/json', 'cache-control': 'no-store' };

/** Of refusals that pass. */
export function retryAfter(retryMs: number): Headers {
  return { 'retry-after': String(Math.max(1, Math.ceil(retryMs / 1000))) };
}

type Pairs = readonly (readonly [name: string, value: string])[];

const pairsOf = (headers: Headers): Pairs => Object.entries({ ...SECURITY_HEADERS, ...headers });
/** Of nearly every answer; made once. */
const JSON_PAIRS = pairsOf(JSON_HEADERS);

export class Exchange {
  readonly #res: HttpResponse;
  readonly #bodyless: boolean;
  readonly #ended: () => void;
  #state: 'open' | 'answered' | 'aborted' = 'open';
  readonly caller: Caller = { gone: false };

  /** `ended` is called once, when the request is answered or the client has gone. */
  constructor(res: HttpResponse, method: string, ended: () => void) {
    this.#res = res;
    this.#bodyless = method === 'HEAD';
    this.#ended = ended;
    res.onAborted(() => {
      if (this.#state === 'open') ended();
      this.#state = 'aborted';
      this.caller.gone = true;
    });
  }

  /** False: nobody waits for an answer any more. */
  get open(): boolean {
    return this.#state === 'open';
  }

  /** `close`: the connection is not to be used again, for the client may still be sending. */
  reply(status: number, headers: Headers, body: string | Uint8Array, close = false): void {
    this.#reply(status, pairsOf(headers), body, close);
  }

  json(status: number, value: unknown, headers: Headers = {}, close = false): void {
    this.reply(status, { ...JSON_HEADERS, ...headers }, JSON.stringify(value), close);
  }

  /** Answers with what is JSON already. */
  jsonText(status: number, text: string): void {
    this.#reply(status, JSON_PAIRS, text, false);
  }

  /** JSON and the tensors behind it. */
  binary(status: number, text: string, parts: readonly Buffer[]): void {
    const json = Buffer.from(text, 'utf8');
    const headers = {
      'content-type': 'application/octet-stream',
      'cache-control': 'no-store',
      'inference-header-content-length': `${json.length}`,
    };
    this.reply(status, headers, Buffer.concat([json, ...parts]));
  }

  /**
   * An error that is worth another try in `retryMs` milliseconds: whole seconds, rounded up, are all that the
   * header can say; the body has them precisely.
   */
  retry(status: 429 | 503, code: string, message: string, retryMs: number): void {
    this.json(status, { error: message, code, retry_ms: Math.ceil(retryMs) }, retryAfter(retryMs));
  }

  /** The error form of the Open Inference Protocol, with a code for programs. */
  error(status: number, code: string, message: string, headers: Headers = {}, close = false): void {
    this.json(status, { error: message, code }, headers, close);
  }

  #reply(status: number, headers: Pairs, body: string | Uint8Array, close: boolean): void {
    if (this.#state !== 'open') return;
    this.#state = 'answered';
    this.#res.cork(() => {
      // Status 200 needs no saying.
      if (status !== 200) this.#res.writeStatus(`${status} ${STATUS_TEXT[status] ?? 'Unknown'}`);
      for (const [name, value] of headers) this.#res.writeHeader(name, value);
      if (this.#bodyless) this.#res.endWithoutBody(Buffer.byteLength(body), close);
      else if (status === 304) this.#res.endWithoutBody(undefined, close);
      else this.#res.end(body, close);
    });
    this.#ended();
  }

  /**
   * Calls `done` with the whole body, or answers 413 when it is longer than `bytesMax`. The body is the
   * library's memory: it is gone when `done` returns.
   */
  readBody(head: RequestHead, bytesMax: number, done: (body: Buffer) => void): void {
    const tooLarge = (): void => {
      this.error(413, 'too_large', `the body is longer than ${bytesMax} bytes`, {}, true);
    };
    if (Number(head.contentLength) > bytesMax) {
      tooLarge();
      return;
    }
    const chunks: Buffer[] = [];
    let bytes = 0;
    this.#res.onData((chunk, isLast) => {
      if (this.#state !== 'open') return;
      bytes += chunk.byteLength;
      if (bytes > bytesMax) {
        chunks.length = 0;
        tooLarge();
        return;
      }
      if (isLast && chunks.length === 0) {
        done(Buffer.from(chunk));
        return;
      }
      // The chunk's memory is the library's: copy it.
      if (chunk.byteLength > 0) chunks.push(Buffer.from(new Uint8Array(chunk)));
      if (isLast) done(Buffer.concat(chunks, bytes));
    });
  }
}
