/**
 * The gateway: one port for WebSocket (`/ws`), inference over HTTP (`/v2`), metrics, figures and the
 * console. Here is what belongs to the listening socket: who may connect, how often and how many, and how
 * it all ends. What a connection says is connection.ts, what a request gets is routes/.
 */

import type { HttpRequest, HttpResponse, TemplatedApp, us_listen_socket } from 'uWebSockets.js';
import * as uws from 'uWebSockets.js';
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { messageOf, SubitoError } from '../errors.ts';
import type { Limits } from '../limits.ts';
import { notice } from '../observe/channels.ts';
import type { Prediction } from '../publish/prediction.ts';
import { Appends } from './appends.ts';
import type { Backend } from './backend.ts';
import { CODECS, JSON_CODEC } from './codec.ts';
import type { CloseKind } from './codes.ts';
import { CLOSES } from './codes.ts';
import type { ConnectionShared, SocketData } from './connection.ts';
import { Connection } from './connection.ts';
import { Hub } from './hub.ts';
import { hostAllowed, originAllowed } from './origin.ts';
import { AddressRates } from './rates.ts';
import type { RequestHead } from './routes/http.ts';
import { Exchange, readHead, retryAfter } from './routes/http.ts';
import type { Route, RouterOptions } from './routes/router.ts';
import { createRouter } from './routes/router.ts';
import type { Mounts } from './routes/static.ts';
import { loadStatic } from './routes/static.ts';

export type GatewayLimits = ConnectionShared['limits'] &
  RouterOptions['limits'] &
  Pick<Limits, 'connectionsMax' | 'connectionsPerIpPerSecondMax'>;

export interface GatewayOptions {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly limits: GatewayLimits;
  readonly backend: Backend;
  /** Of Subito, for the server's metadata. */
  readonly version?: string;
  /** Served under `/`; null: nothing is. */
  readonly staticDir: string | null;
  /** More to serve: '/vendor/uplot/' to a directory, '/favicon.ico' to a file. */
  readonly mounts?: Mounts;
  /** Origins of web pages that may connect beside the gateway's own: 'https://player.example.com'. */
  readonly origins: readonly string[];
  /** GET routes of the embedding program, answered as JSON. */
  readonly routes?: RouterOptions['routes'];
  /** Unix milliseconds. */
  readonly now?: () => number;
}

export interface Gateway {
  readonly port: number;
  readonly url: string;
  /** Open WebSocket connections. */
  readonly connections: number;
  readonly hub: Hub;
  /** A committed prediction, in the order of the stream. */
  publish(prediction: Prediction): void;
  /**
   * Stops listening, ends connections with 4000, lets requests in hand finish for a moment, then closes it
   * all.
   */
  drain(): Promise<void>;
}

/** A resend within this time finds the first one. Ids per gateway: some 10 MB at most. */
const APPEND_WINDOW_MS = 120_000;
const APPEND_IDS_MAX = 65_536;
/** Messages up to this many times the limit are read to their end, so that the client can be told 4513. */
const OVERSIZE_FACTOR = 4;
/** Seconds after which uWebSockets.js gives up a socket that neither sends nor answers its own pings. */
const IDLE_SECONDS = 120;
/** For close frames to leave, and for requests in hand to be answered, when draining. */
const LINGER_MS = 100;
const REQUESTS_MS_MAX = 2000;

/** Browsers get the client library from here; it has no imports. */
const CLIENT_PATH = fileURLToPath(new URL('../client/client.ts', import.meta.url));

/** Everything that the handlers of one gateway share. */
class Listener {
  readonly app: TemplatedApp = uws.App();
  readonly hub: Hub;
  readonly #options: GatewayOptions;
  readonly #route: Route;
  readonly #shared: ConnectionShared;
  readonly #addresses: AddressRates;
  readonly #now: () => number;
  readonly #connections = new Set<Connection>();
  #named = 0;
  #requests = 0;
  #draining = false;

  constructor(options: GatewayOptions, router: RouterOptions) {
    const { backend, limits } = options;
    this.#options = options;
    this.#route = createRouter(router);
    this.#now = options.now ?? Date.now;
    this.#addresses = new AddressRates(limits.connectionsPerIpPerSecondMax);
    this.hub = new Hub({
      heldBytesMax: limits.outboxBytesMax,
      now: this.#now,
      wanted: (wanted) => backend.wantPredictions(wanted),
    });
    this.#shared = {
      backend,
      limits,
      hub: this.hub,
      appends: new Appends({
        append: (event) => backend.append(event),
        windowMs: APPEND_WINDOW_MS,
        idsMax: APPEND_IDS_MAX,
      }),
      epoch: randomBytes(6).toString('base64url'),
      now: this.#now,
      modelKnown: (name) => backend.model(name) !== undefined,
    };
    this.#listenWebSocket();
    this.app.any('/*', (res, req) => this.#request(res, req));
  }

  get connections(): number {
    return this.#connections.size;
  }

  tick(): void {
    const nowMs = this.#now();
    for (const connection of this.#connections) connection.tick(nowMs);
    this.#addresses.forget(nowMs);
  }

  /** One that cannot be read must not stop the tail that brought it: its subscribers see it in `conf`. */
  publish(prediction: Prediction): void {
    try {
      this.hub.offer(prediction);
    } catch (error) {
      notice('error', 'GATEWAY_PREDICTION_MALFORMED', `${prediction.sid}: ${messageOf(error)}`);
    }
  }

  async drain(): Promise<void> {
    this.#draining = true;
    for (const connection of [...this.#connections]) connection.end(CLOSES.draining);
    const untilMs = performance.now() + REQUESTS_MS_MAX;
    do await new Promise((resolve) => setTimeout(resolve, LINGER_MS));
    while (this.#requests > 0 && performance.now() < untilMs);
    this.app.close();
  }

  #listenWebSocket(): void {
    const { messageBytesMax, outboxBytesMax } = this.#options.limits;
    this.app.ws<SocketData>('/ws', {
      compression: uws.DISABLED,
      maxPayloadLength: messageBytesMax * OVERSIZE_FACTOR,
      // The connection watches its own backlog; this is far behind it, so that the close frame itself is
      // not refused.
      maxBackpressure: outboxBytesMax * 4,
      idleTimeout: IDLE_SECONDS,
      sendPingsAutomatically: true,
      upgrade: (res, req, context) => this.#upgrade(res, req, context),
      open: (ws) => {
        const data = ws.getUserData();
        if (data.refuse !== null) return ws.end(data.refuse.code, data.refuse.name);
        const connection = new Connection(ws, data.codec, `c${++this.#named}`, this.#shared);
        data.connection = connection;
        this.#connections.add(connection);
      },
      message: (ws, message, isBinary) => ws.getUserData().connection?.message(message, isBinary),
      close: (ws) => {
        const { connection } = ws.getUserData();
        if (connection === null) return;
        this.#connections.delete(connection);
        connection.gone();
      },
    });
  }

  /** All in one go: after an await the request's headers are gone. */
  #upgrade(res: HttpResponse, req: HttpRequest, context: Parameters<HttpResponse['upgrade']>[4]): void {
    const head = readHead(req);
    const { host, origins } = this.#options;
    if (!hostAllowed(head.host, host, origins)) {
      res.writeStatus('421 Misdirected Request').end('this host name is not answered here');
      return;
    }
    if (!originAllowed(head.origin, head.host, origins)) {
      res.writeStatus('403 Forbidden').end('this origin may not connect');
      return;
    }
    const address = Buffer.from(res.getRemoteAddressAsText()).toString('latin1');
    const afterMs = this.#addresses.take(address, this.#now());
    if (afterMs > 0) {
      const error = 'too many new connections from this address';
      res.writeStatus('429 Too Many Requests').writeHeader('content-type', 'application/json');
      for (const [name, value] of Object.entries(retryAfter(afterMs))) res.writeHeader(name, value);
      res.end(JSON.stringify({ error, code: 'rate_limited', retry_ms: Math.ceil(afterMs) }));
      return;
    }
    const offered = req.getHeader('sec-websocket-protocol').split(',', 16);
    const names = offered.map((name) => name.trim());
    const spoken = names.find((name) => CODECS.has(name));
    const data: SocketData = {
      codec: CODECS.get(spoken ?? '') ?? JSON_CODEC,
      refuse: this.#refusal(spoken),
      connection: null,
    };
    // Without an answer to its offer a browser reports a failed connection instead of 4506: name its first
    // one.
    const answer = spoken ?? names[0] ?? '';
    res.upgrade(data, req.getHeader('sec-websocket-key'), answer, '', context);
  }

  #refusal(spoken: string | undefined): CloseKind | null {
    if (this.#draining) return CLOSES.draining;
    if (spoken === undefined) return CLOSES.subprotocol;
    return this.#connections.size >= this.#options.limits.connectionsMax ? CLOSES.tooManyConnections : null;
  }

  #request(res: HttpResponse, req: HttpRequest): void {
    const head: RequestHead = readHead(req, this.#options.backend.tracing);
    this.#requests++;
    const exchange = new Exchange(res, head.method, () => this.#requests--);
    try {
      this.#route(head, exchange);
    } catch (error) {
      notice('error', 'GATEWAY_ROUTE_FAILED', `${head.path}: ${messageOf(error)}`);
      exchange.error(500, 'internal', 'the request could not be answered');
    }
  }
}

/** Throws a SubitoError when it cannot listen. */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  const { host, backend, limits, origins } = options;
  const mounts: Mounts = {
    '/client.js': CLIENT_PATH,
    ...(options.staticDir === null ? {} : { '/': options.staticDir }),
    ...options.mounts,
  };
  const files = await loadStatic(mounts);
  const version = options.version ?? '0';
  const listener = new Listener(options, {
    backend,
    limits,
    host,
    origins,
    version,
    files,
    routes: options.routes ?? {},
  });
  const token = await listen(listener.app, host, options.port);
  const port = uws.us_socket_local_port(token as never);
  // Often enough for the shortest of the times that are watched.
  const tickMs = Math.max(10, Math.min(1000, limits.helloMsMax / 4, limits.pingMs / 4));
  const timer = setInterval(() => listener.tick(), tickMs);
  let drained: Promise<void> | null = null;
  const stop = async (): Promise<void> => {
    uws.us_listen_socket_close(token);
    clearInterval(timer);
    await listener.drain();
  };
  return {
    port,
    url: `http://${host.includes(':') ? `[${host}]` : host}:${port}`,
    hub: listener.hub,
    get connections() {
      return listener.connections;
    },
    publish: (prediction) => listener.publish(prediction),
    drain: () => (drained ??= stop()),
  };
}

/** The library's types leave out the form with options. */
type ListenWithOptions = (
  host: string,
  port: number,
  options: number,
  done: (token: us_listen_socket | false) => void,
) => void;

/** Without it two processes could share the port, and half the clients would reach the wrong one. */
const EXCLUSIVE_PORT = 1;

async function listen(app: TemplatedApp, host: string, port: number): Promise<us_listen_socket> {
  const token = await new Promise<us_listen_socket | false>((resolve) => {
    (app.listen as unknown as ListenWithOptions).call(app, host, port, EXCLUSIVE_PORT, resolve);
  });
  if (token !== false) return token;
  const reason = await whyNot(host, port);
  const at = `${host}:${port}`;
  if (reason === 'EADDRINUSE') {
    throw new SubitoError('GATEWAY_PORT_BUSY', `gateway.port: ${at} is in use by another program`, {
      fix: 'stop what listens there, set gateway.port to another one, or to 0 for any free one',
      detail: reason,
    });
  }
  throw new SubitoError('CONFIG_INVALID', `gateway: cannot listen on ${at} (${reason})`, {
    fix: 'set gateway.host to an address of this machine and gateway.port to one that this user may open',
    detail: reason,
  });
}

/** uWebSockets.js does not say why; the system tells whoever tries the same again. */
function whyNot(host: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    probe.listen({ host, port, exclusive: true }, () => probe.close(() => resolve('no reason given')));
  });
}
