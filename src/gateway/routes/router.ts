/**
 * Which request is answered by whom: inference, metrics and figures, the embedding program's routes, then
 * files.
 */
import { messageOf } from '../../errors.ts';
import type { Backend } from '../backend.ts';
import { hostAllowed, originAllowed } from '../origin.ts';
import type { Exchange, RequestHead } from './http.ts';
import type { InferenceOptions } from './inference.ts';
import { serveInference } from './inference.ts';
import type { StaticFile } from './static.ts';
import { serveStatic } from './static.ts';

export interface RouterOptions extends InferenceOptions {
  readonly backend: Backend;
  /** The address that the gateway listens on. */
  readonly host: string;
  readonly origins: readonly string[];
  readonly files: ReadonlyMap<string, StaticFile>;
  /** GET routes of the embedding program, by path; a value or the promise of one is answered as JSON. */
  readonly routes: Readonly<Record<string, () => unknown>>;
}

const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

export type Route = (head: RequestHead, exchange: Exchange) => void;

export function createRouter(options: RouterOptions): Route {
  // Request after request names the same host, and taking a name apart costs as much as a small inference.
  let known = '';
  return (head, exchange) => {
    const isAnswered = head.host === known || hostAllowed(head.host, options.host, options.origins);
    if (isAnswered) known = head.host;
    route(options, head, exchange, isAnswered);
  };
}

function route(options: RouterOptions, head: RequestHead, exchange: Exchange, isAnswered: boolean): void {
  const reads = head.method === 'GET' || head.method === 'HEAD';
  if (!isAnswered) {
    exchange.error(421, 'misdirected', `the host name ${head.host} is not answered here`, {}, true);
    return;
  }
  // A page of another site cannot read our answers anyway; it must not cause inference either.
  if (!reads && !originAllowed(head.origin, head.host, options.origins)) {
    exchange.error(403, 'forbidden', `the origin ${head.origin} may not post here`, {}, true);
  } else if (!serveInference(options, head, exchange)) {
    const allow = { allow: 'GET, HEAD' };
    if (reads) read(options, head, exchange);
    else exchange.error(405, 'method_not_allowed', `${head.path} answers GET`, allow, true);
  }
}

function read(options: RouterOptions, head: RequestHead, exchange: Exchange): void {
  const { backend, routes } = options;
  const own = Object.hasOwn(routes, head.path) ? routes[head.path] : undefined;
  if (own !== undefined) {
    later(own, exchange, (value) => exchange.json(200, value ?? null));
  } else if (head.path === '/stats') {
    exchange.json(200, backend.stats() ?? null);
  } else if (head.path === '/autoscale' && backend.autoscale !== undefined) {
    exchange.json(200, backend.autoscale());
  } else if (head.path === '/metrics') {
    const headers = { 'content-type': METRICS_TYPE, 'cache-control': 'no-store' };
    const answer = (text: string): void => exchange.reply(200, headers, text);
    later(() => backend.metrics(), exchange, answer);
  } else if (!serveStatic(options.files, head, exchange)) {
    exchange.error(404, 'not_found', `there is nothing at ${head.path}`);
  }
}

/** Answers when the value is there, or with 500 when it never will be. */
function later<T>(make: () => T | Promise<T>, exchange: Exchange, answer: (value: T) => void): void {
  Promise.resolve()
    .then(make)
    .then(answer)
    .catch((error: unknown) => {
      exchange.error(500, 'internal', messageOf(error));
    });
}
