/**
 * The client library for browsers and Node: subscribe to predictions, ask for one, send events. It has no
 * imports and uses the global WebSocket; the protocol is in gateway/PROTOCOL.md.
 * tidy: it is long because it is one file: the gateway serves it to browsers as `/client.js`.
 *
 *   const client = connect('ws://127.0.0.1:8080');
 *   client.subscribe('key:u42', { models: ['genre'] }, (prediction) => show(prediction.outputs));
 *   const answer = await client.infer({ key: 'u42', model: 'genre', data: { energy: 0.7 } });
 *   await client.send({ key: 'u42', model: 'genre', data: { energy: 0.7 } });
 *
 * A connection is, in turn: connecting; open, once the gateway has said welcome; waiting, until the next
 * try; and in the end closed, by `close()` or by a close code that says not to come back as you are. Coming
 * back, it subscribes to everything again and resends events whose `ack` it has not seen: their ids make
 * that harmless. The gateway says how many events it takes without an answer; more than that wait here.
 */

/** A prediction, pushed to a subscription or in answer to `infer`. */
export interface ClientPrediction {
  readonly key: string;
  /** `name@version`. */
  readonly model: string;
  /** `ok`, `degraded`, ... */
  readonly status: string;
  /** Of a degraded one: what it came from instead of the model (`previous`, ...); '' otherwise. */
  readonly rung: string;
  readonly outputs: Readonly<Record<string, unknown>>;
  /** The producer's own id of the event; '' for none. */
  readonly event: string;
  /** Entry ids of the prediction and of the event; '' when it went through no stream. */
  readonly sid: string;
  readonly source: string;
  /** How many predictions of this subscription were skipped since the one before, in favour of newer ones. */
  readonly conflated: number;
  readonly waitMs: number;
  readonly inferMs: number;
}

export interface ClientOptions {
  readonly token?: string;
  /** An answer that takes longer counts as failed. Default 15,000. */
  readonly timeoutMs?: number;
  /**
   * How often `infer` and `send` try again when the gateway refuses an event for now (overloaded, too fast,
   * ...), after the time that it says, and up to half as much again. Each try may take `timeoutMs`. Default
   * 0.
   */
  readonly retries?: number;
  /** Told about each change, with the reason where there is one. */
  readonly onState?: (state: ClientState, reason: string) => void;
  /**
   * Told what no promise can tell: a callback that threw, predictions lost on the way. Default:
   * console.error.
   */
  readonly onError?: (error: unknown) => void;
}

export type ClientState = 'connecting' | 'open' | 'waiting' | 'closed';

export interface SubscribeOptions {
  /** Default 'latest'. */
  readonly mode?: 'latest' | 'all';
  readonly models?: readonly string[];
  /** Predictions on their way or in callbacks at any time. Default 64. */
  readonly credit?: number;
}

/** May return a promise: credit goes back to the gateway when it settles. */
export type OnPrediction = (prediction: ClientPrediction) => unknown;

export interface ClientSubscription {
  readonly channel: string;
  /** Resolves when the gateway first confirms; rejects with a ClientError when it refuses. */
  readonly ready: Promise<void>;
  unsubscribe(): void;
}

export interface ClientEvent {
  readonly key?: string;
  readonly model?: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** The caller's own id; by default `send` makes one up. */
  readonly event?: string;
  readonly deadlineMs?: number;
}

export class ClientError extends Error {
  override readonly name = 'ClientError';
  /** The protocol's number of the error; 0: it arose on this side. */
  readonly code: number;
  readonly retryable: boolean;
  /** When a retry makes sense; 0: not known. */
  readonly afterMs: number;
  /** The field of the event that is wrong; '' for none. */
  readonly path: string;

  constructor(message: string, code: number, retryable: boolean, afterMs = 0, path = '') {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.afterMs = afterMs;
    this.path = path;
  }
}

/** A frame from the gateway, of any type. */
interface Frame {
  readonly t: string;
  readonly id?: number;
  readonly ch?: string;
  readonly sid?: string;
  readonly src?: string;
  readonly re?: string;
  readonly key?: string;
  readonly model?: string;
  readonly st?: string;
  readonly rung?: string;
  readonly seq?: number;
  readonly conf?: number;
  readonly ms?: { readonly q: number; readonly i: number };
  readonly d?: Readonly<Record<string, unknown>>;
  readonly dup?: boolean;
  readonly ping?: number;
  readonly events?: number;
  readonly code?: number;
  readonly msg?: string;
  readonly detail?: string;
  readonly path?: string;
  readonly retry?: boolean;
  readonly after?: number;
}

/** A request without an answer yet. */
interface Waiting {
  readonly frame: Readonly<Record<string, unknown>>;
  /** Sent again on a new connection. */
  readonly resend: boolean;
  sent: boolean;
  readonly resolve: (frame: Frame) => void;
  readonly reject: (error: ClientError) => void;
}

interface Following {
  readonly channel: string;
  readonly options: SubscribeOptions;
  readonly onPrediction: OnPrediction;
  readonly credit: number;
  readonly confirmed: () => void;
  readonly refused: (error: ClientError) => void;
  /** Raised with each subscription on the wire: callbacks of an older one return no credit. */
  generation: number;
  seq: number;
  /** Consumed, but not yet returned as credit. */
  consumed: number;
}

const SUBPROTOCOL = 'subito.v1.json';
const CREDIT_DEFAULT = 64;
const TIMEOUT_MS_DEFAULT = 15_000;
/** From the first try to welcome. */
const CONNECT_MS_MAX = 10_000;
const BACKOFF_MS_MIN = 250;
const BACKOFF_MS_MAX = 15_000;
/** From this code on: do not reconnect as you are. */
const CLOSE_FINAL_MIN = 4500;
/** More tries are no patience, but load. */
const RETRIES_MAX = 20;
/** Who is told to come back later than that is told so, and does not wait. */
const RETRY_AFTER_MS_MAX = 60_000;
/** Requests without an answer; past it new ones are refused here, for memory is not a queue. */
const WAITING_MAX = 1024;

export function connect(url: string, options: ClientOptions = {}): Client {
  return new Client(url, options);
}

export class Client {
  readonly #url: string;
  readonly #options: ClientOptions;
  readonly #waiting = new Map<number, Waiting>();
  readonly #following = new Map<string, Following>();
  /**
   * Events that the gateway has not answered on this connection, also those that nobody waits for any more.
   */
  readonly #unanswered = new Set<number>();
  /** Events that wait for one of them to be answered. */
  #held: number[] = [];
  /** How many there may be; from welcome. */
  #unansweredMax = Number.POSITIVE_INFINITY;
  /** Ends the waits between tries. */
  readonly #waits = new Set<() => void>();
  #state: ClientState = 'waiting';
  #socket: WebSocket | null = null;
  #nextId = 1;
  #attempts = 0;
  #retryTimer: ReturnType<typeof setTimeout> | undefined;
  #silenceTimer: ReturnType<typeof setTimeout> | undefined;
  #silenceMs = 0;

  constructor(url: string, options: ClientOptions) {
    this.#url = socketUrl(url);
    this.#options = options;
    const { retries = 0 } = options;
    if (!Number.isInteger(retries) || retries < 0 || retries > RETRIES_MAX) {
      throw new ClientError(
        `retries is ${retries}: it must be a whole number up to ${RETRIES_MAX}`,
        0,
        false,
      );
    }
    this.#connect();
  }

  get state(): ClientState {
    return this.#state;
  }

  /** `channel` is `key:<key>` or `model:<name>`. */
  subscribe(channel: string, options: SubscribeOptions, onPrediction: OnPrediction): ClientSubscription {
    if (this.#following.has(channel)) throw new ClientError(`already subscribed to ${channel}`, 105, false);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    promise.catch(() => undefined);
    const following: Following = {
      channel,
      options,
      onPrediction,
      credit: options.credit ?? CREDIT_DEFAULT,
      confirmed: resolve,
      refused: reject,
      generation: 0,
      seq: 0,
      consumed: 0,
    };
    if (this.#state === 'closed') reject(closedError('the client is closed'));
    else {
      this.#following.set(channel, following);
      if (this.#state === 'open') this.#follow(following);
    }
    return { channel, ready: promise, unsubscribe: () => this.#unfollow(following) };
  }

  /**
   * Asks for the prediction of one event, here and now. Rejects with a ClientError; after a lost connection
   * it is not sent a second time.
   */
  async infer(event: ClientEvent): Promise<ClientPrediction> {
    return toPrediction(await this.#ask({ ...eventFrame(event), via: 'direct' }, false));
  }

  /** Appends an event to the input stream; resolves with its entry id once it is stored. */
  async send(event: ClientEvent): Promise<{ sid: string; dup: boolean }> {
    const frame = { ...eventFrame(event), eid: event.event ?? randomId(), via: 'stream' };
    const ack = await this.#ask(frame, true);
    return { sid: ack.sid ?? '', dup: ack.dup ?? false };
  }

  /** Ends the connection for good; what has no answer yet is rejected. */
  close(): void {
    this.#finish('closed by the caller');
  }

  #connect(): void {
    this.#setState('connecting', '');
    const socket = new WebSocket(this.#url, SUBPROTOCOL);
    this.#socket = socket;
    this.#silenceMs = CONNECT_MS_MAX;
    this.#listen();
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.#write({ t: 'hello', id: 0, token: this.#options.token, sdk: 'js/1.0' });
    };
    socket.onmessage = (message: { data: unknown }) => {
      if (socket !== this.#socket) return;
      this.#listen();
      this.#receive(JSON.parse(String(message.data)) as Frame);
    };
    // Of a connection that was never open, Node 22 reports the error and no close. Of one that was, close
    // comes as well and knows more.
    socket.onerror = () => {
      if (!opened && socket === this.#socket) this.#lost(1006, 'no connection');
    };
    socket.onclose = (close: { code: number; reason: string }) => {
      if (socket === this.#socket) this.#lost(close.code, close.reason);
    };
  }

  #lost(code: number, reason: string): void {
    this.#socket = null;
    clearTimeout(this.#silenceTimer);
    const text = `connection closed (${code}${reason === '' ? '' : ` ${reason}`})`;
    if (code >= CLOSE_FINAL_MIN && code < 5000) {
      this.#finish(text);
      return;
    }
    this.#unanswered.clear();
    this.#held = [];
    for (const [id, waiting] of this.#waiting) {
      if (!waiting.sent) continue;
      waiting.sent = false;
      if (waiting.resend) continue;
      this.#waiting.delete(id);
      waiting.reject(new ClientError(`${text} before the answer came`, 0, true));
    }
    // Full jitter: after a restart of the gateway not everyone is back in the same moment.
    const ceilingMs = Math.min(BACKOFF_MS_MAX, BACKOFF_MS_MIN * 2 ** this.#attempts++);
    this.#retryTimer = setTimeout(() => this.#connect(), BACKOFF_MS_MIN / 4 + Math.random() * ceilingMs);
    this.#setState('waiting', text);
  }

  #finish(reason: string): void {
    if (this.#state === 'closed') return;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#silenceTimer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
    for (const waiting of this.#waiting.values()) waiting.reject(closedError(reason));
    for (const following of this.#following.values()) following.refused(closedError(reason));
    this.#waiting.clear();
    this.#following.clear();
    this.#setState('closed', reason);
    for (const end of this.#waits) end();
  }

  #receive(frame: Frame): void {
    if (frame.t === 'ping') {
      this.#write({ t: 'pong' });
    } else if (frame.t === 'welcome') {
      this.#welcome(frame);
    } else if (frame.t === 'pred' && frame.ch !== undefined) {
      const following = this.#following.get(frame.ch);
      if (following !== undefined) void this.#deliver(following, frame);
    } else if (frame.id !== undefined) {
      const waiting = this.#waiting.get(frame.id);
      this.#waiting.delete(frame.id);
      this.#answered(frame.id);
      if (frame.t === 'error') waiting?.reject(toError(frame));
      else waiting?.resolve(frame);
    }
  }

  #welcome(frame: Frame): void {
    this.#attempts = 0;
    this.#silenceMs = 2.5 * (frame.ping ?? CONNECT_MS_MAX);
    this.#unansweredMax = frame.events ?? Number.POSITIVE_INFINITY;
    this.#listen();
    this.#setState('open', '');
    // Before the subscriptions: those are requests too, and would be written twice.
    for (const [id, waiting] of this.#waiting) this.#send(id, waiting);
    for (const following of this.#following.values()) this.#follow(following);
  }

  /**
   * The gateway pings; when it has been silent for too long the connection is dead, whatever the socket
   * says.
   */
  #listen(): void {
    clearTimeout(this.#silenceTimer);
    this.#silenceTimer = setTimeout(() => {
      const socket = this.#socket;
      this.#lost(1006, 'silent');
      socket?.close();
    }, this.#silenceMs);
  }

  #follow(following: Following): void {
    const { channel, options, credit } = following;
    following.generation++;
    following.seq = 0;
    following.consumed = 0;
    const frame = { t: 'sub', ch: channel, mode: options.mode ?? 'latest', models: options.models, credit };
    this.#request(frame, false).then(
      () => following.confirmed(),
      (error: ClientError) => {
        // Lost with the connection: the next welcome subscribes again.
        if (error.code === 0 || this.#following.get(channel) !== following) return;
        this.#following.delete(channel);
        following.refused(error);
        this.#report(error);
      },
    );
  }

  #unfollow(following: Following): void {
    if (this.#following.get(following.channel) !== following) return;
    this.#following.delete(following.channel);
    if (this.#state === 'open') this.#write({ t: 'unsub', ch: following.channel });
  }

  async #deliver(following: Following, frame: Frame): Promise<void> {
    const { generation } = following;
    const { seq = 0, conf = 0 } = frame;
    if (seq !== following.seq + 1 + conf) {
      this.#report(new ClientError(`${following.channel}: predictions were lost before ${seq}`, 0, true));
      this.#write({ t: 'unsub', ch: following.channel });
      this.#follow(following);
      return;
    }
    following.seq = seq;
    try {
      await following.onPrediction(toPrediction(frame));
    } catch (error) {
      this.#report(error);
    }
    if (following.generation !== generation || this.#following.get(following.channel) !== following) return;
    following.consumed++;
    // In halves, so that credit costs less than a frame per prediction and the gateway never runs dry.
    if (following.consumed * 2 < following.credit) return;
    this.#write({ t: 'flow', ch: following.channel, seq, credit: following.consumed });
    following.consumed = 0;
  }

  /** A request for an event, with as many more tries as the caller wants. */
  async #ask(fields: Readonly<Record<string, unknown>>, resend: boolean): Promise<Frame> {
    for (let tries = 0; ; tries++) {
      try {
        return await this.#request(fields, resend);
      } catch (error) {
        const waitMs = tries < (this.#options.retries ?? 0) ? retryMs(error, tries) : null;
        if (waitMs === null) throw error;
        await this.#wait(waitMs);
      }
    }
  }

  /** Ends sooner when the client is closed. */
  #wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#waits.delete(end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      this.#waits.add(end);
    });
  }

  /** Writes a request, or holds an event back of which the gateway has enough. */
  #send(id: number, waiting: Waiting): void {
    const isEvent = waiting.frame['t'] === 'event';
    if (isEvent && this.#unanswered.size >= this.#unansweredMax) {
      this.#held.push(id);
      return;
    }
    if (isEvent) this.#unanswered.add(id);
    waiting.sent = true;
    this.#write(waiting.frame);
  }

  /** There is room for the event that has waited longest, and that somebody still waits for. */
  #answered(id: number): void {
    if (!this.#unanswered.delete(id)) return;
    while (this.#held.length > 0 && this.#unanswered.size < this.#unansweredMax) {
      const next = this.#held.shift() as number;
      const waiting = this.#waiting.get(next);
      if (waiting !== undefined) this.#send(next, waiting);
    }
  }

  #request(fields: Readonly<Record<string, unknown>>, resend: boolean): Promise<Frame> {
    if (this.#state === 'closed') return Promise.reject(closedError('the client is closed'));
    if (this.#waiting.size >= WAITING_MAX) {
      return Promise.reject(new ClientError(`${WAITING_MAX} requests are waiting already`, 0, true));
    }
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timeoutMs = this.#options.timeoutMs ?? TIMEOUT_MS_DEFAULT;
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new ClientError(`no answer within ${timeoutMs} ms`, 0, true));
      }, timeoutMs);
      const settle = <T>(done: (value: T) => void) => {
        return (value: T): void => {
          clearTimeout(timer);
          done(value);
        };
      };
      const [resolved, rejected] = [settle(resolve), settle(reject)];
      const frame = { ...fields, id };
      const waiting: Waiting = { frame, resend, sent: false, resolve: resolved, reject: rejected };
      this.#waiting.set(id, waiting);
      if (this.#state === 'open') this.#send(id, waiting);
    });
  }

  #write(frame: Readonly<Record<string, unknown>>): void {
    // 1 is OPEN; between close and its event a socket takes nothing.
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  #setState(state: ClientState, reason: string): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#options.onState?.(state, reason);
  }

  #report(error: unknown): void {
    if (this.#options.onError === undefined) console.error(error);
    else this.#options.onError(error);
  }
}

/** http and https are taken too, and the gateway's path is the default. */
function socketUrl(text: string): string {
  const url = new URL(text);
  url.protocol = url.protocol.replace(/^http/, 'ws');
  if (url.pathname === '/') url.pathname = '/ws';
  return url.href;
}

function eventFrame(event: ClientEvent): Record<string, unknown> {
  const { key, model, data, deadlineMs } = event;
  return { t: 'event', key, model, eid: event.event, deadline: deadlineMs, d: data };
}

/** 128 random bits; randomUUID is missing in pages that are not served over TLS. */
function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function toPrediction(frame: Frame): ClientPrediction {
  return {
    key: frame.key ?? '',
    model: frame.model ?? '',
    status: frame.st ?? '',
    rung: frame.rung ?? '',
    outputs: frame.d ?? {},
    event: frame.re ?? '',
    sid: frame.sid ?? '',
    source: frame.src ?? '',
    conflated: frame.conf ?? 0,
    waitMs: frame.ms?.q ?? 0,
    inferMs: frame.ms?.i ?? 0,
  };
}

function toError(frame: Frame): ClientError {
  const parts = [frame.msg ?? 'error', frame.path, frame.detail].filter((part) => part !== undefined);
  const { code = 0, retry = false, after = 0, path = '' } = frame;
  return new ClientError(parts.join(': '), code, retry, after, path);
}

/** How long to wait before another try; null: there is no point in one, or it is not known that there is. */
function retryMs(error: unknown, tries: number): number | null {
  const isRefusal = error instanceof ClientError && error.code !== 0 && error.retryable;
  if (!isRefusal || error.afterMs > RETRY_AFTER_MS_MAX) return null;
  const baseMs = error.afterMs > 0 ? error.afterMs : BACKOFF_MS_MIN * 2 ** tries;
  // Never sooner than it was asked to; and not all who were refused together are back together.
  return Math.min(baseMs, RETRY_AFTER_MS_MAX) * (1 + Math.random() / 2);
}

function closedError(reason: string): ClientError {
  return new ClientError(reason, 0, false);
}
