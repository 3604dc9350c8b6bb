/**
 * One connection's side of the push protocol (PROTOCOL.md), without a socket: frames, time and answers go
 * in, actions come out, to be carried out in their order.
 *
 *   silent --hello--> open --+--> closed
 *      |                     |
 *      +--no hello in time---+
 *
 * - silent: the socket is open and nobody has said hello. Any other known frame gets error 101, an unknown
 *   one 104. After `helloMsMax` the connection is closed with 4008.
 * - open: hello was answered with welcome. Subscriptions, events and credit are taken. A ping goes out
 *   every `pingMs`; when one is still unanswered two intervals later the connection is closed with 4003. A
 *   second hello is forbidden.
 * - closed: everything is ignored; answers that arrive late find nobody. `closed()` enters it from outside,
 *   any close action from inside. There is no way back.
 *
 * Two buckets guard the engine. `#events` holds the promised rate: past it an event gets error 111 with
 * `after`. `#patience` holds ten seconds' worth of the same rate and pays for every frame that is not an
 * admitted event, a pong that was asked for, or credit for a subscription: errors, subscriptions, noise. A
 * client that spends it is not busy but broken, and is closed with 4006.
 */

import { InvalidEvent } from '../infer/handler.ts';
import type { Limits } from '../limits.ts';
import type { Answer, DirectEvent } from '../schedule/direct.ts';
import { PRIORITY_DEFAULT, PRIORITY_DIRECT } from '../schedule/entry.ts';
import type { StreamEvent } from './backend.ts';
import type { Inbound, Outbound } from './codec.ts';
import type { CloseKind, ErrorKind } from './codes.ts';
import { CLOSES, ERRORS } from './codes.ts';
import type { Channel, FieldLimits } from './fields.ts';
import {
  channelOf,
  optionalCount,
  optionalDeadlineMs,
  optionalModels,
  optionalPriority,
  optionalText,
} from './fields.ts';
import { TokenBucket } from './rates.ts';

/** Credit of a subscription that names none, and the most that one may hold. */
const CREDIT_DEFAULT = 64;
export const CREDIT_MAX = 65_536;
/** Seconds of the event rate that a client may waste before it is closed for flooding. */
const PATIENCE_SECONDS = 10;
/** After an error of the engine without a better estimate. */
const RETRY_MS_DEFAULT = 1000;
const MODELS_PER_SUBSCRIPTION_MAX = 64;
const TOKEN_BYTES_MAX = 8192;
const REQUEST_ID_LENGTH_MAX = 64;

export type ProtocolLimits = FieldLimits &
  Pick<Limits, 'messageBytesMax' | 'subscriptionsMax' | 'eventsPerSecondMax' | 'helloMsMax' | 'pingMs'>;

/** What a client asked to be sent. */
export interface SubscriptionRequest {
  /** As the client wrote it: `key:u42`. */
  readonly channel: string;
  readonly target: Channel;
  readonly mode: 'latest' | 'all';
  /** Only predictions of these models, by `name` or `name@version`; null: of any. */
  readonly models: readonly string[] | null;
  readonly credit: number;
}

/** The client's own number or name of a request, echoed; undefined when it gave none. */
export type RequestId = number | string | undefined;

export type Action =
  /** `outputs` becomes the frame's `d`: the encoding is whatever `answered` was given. */
  | { readonly do: 'send'; readonly frame: Outbound; readonly outputs?: Uint8Array }
  | { readonly do: 'close'; readonly close: CloseKind }
  | { readonly do: 'subscribe'; readonly request: SubscriptionRequest }
  | { readonly do: 'unsubscribe'; readonly channel: string }
  | { readonly do: 'credit'; readonly channel: string; readonly credit: number }
  | { readonly do: 'infer'; readonly id: RequestId; readonly event: DirectEvent }
  | { readonly do: 'append'; readonly id: RequestId; readonly event: StreamEvent };

export interface ProtocolOptions {
  readonly limits: ProtocolLimits;
  /** This connection's name in logs and in `welcome`. */
  readonly connection: string;
  /** Epoch of the subscriptions: resume works only within one. */
  readonly epoch: string;
  /** Outputs are wanted as JSON. */
  readonly json: boolean;
  readonly modelKnown: (name: string) => boolean;
  readonly openedMs: number;
}

const FRAME_TYPES = new Set(['hello', 'sub', 'unsub', 'event', 'flow', 'ping', 'pong']);

/** `path: detail` as InvalidEvent writes it, apart again. */
function invalidParts(detail: string): { path?: string; detail: string } {
  const cut = /^([\w.[\]@-]{1,128}): (.*)$/s.exec(detail);
  return cut === null ? { detail } : { path: cut[1]!, detail: cut[2]! };
}

export class Protocol {
  readonly #options: ProtocolOptions;
  readonly #events: TokenBucket;
  readonly #patience: TokenBucket;
  readonly #channels = new Set<string>();
  /** Direct events and appends without an answer yet. */
  #unanswered = 0;
  readonly #unansweredMax: number;
  #state: 'silent' | 'open' | 'closed' = 'silent';
  #pingedMs = 0;
  /** When the oldest unanswered ping was sent; 0: none is. */
  #unpongedMs = 0;

  constructor(options: ProtocolOptions) {
    this.#options = options;
    const rate = options.limits.eventsPerSecondMax;
    this.#events = new TokenBucket(rate, rate, options.openedMs);
    this.#patience = new TokenBucket(rate * PATIENCE_SECONDS, rate, options.openedMs);
    // A direct answer takes a second at worst by default; what is older than two seconds of traffic is stuck.
    this.#unansweredMax = rate * 2;
  }

  get state(): 'silent' | 'open' | 'closed' {
    return this.#state;
  }

  get subscriptions(): number {
    return this.#channels.size;
  }

  receive(frame: Inbound, nowMs: number): Action[] {
    if (this.#state === 'closed') return [];
    const { fields } = frame;
    const id = requestId(fields['id']);
    const type = fields['t'];
    if (typeof type !== 'string' || !FRAME_TYPES.has(type))
      return this.#refuse(id, ERRORS.unknownType, nowMs);
    if (this.#state === 'silent' && type !== 'hello') return this.#refuse(id, ERRORS.notAuthenticated, nowMs);
    try {
      return this.#take(type, id, frame, nowMs);
    } catch (error) {
      if (error instanceof InvalidEvent) {
        return this.#refuse(id, ERRORS.invalidEvent, nowMs, invalidParts(error.message));
      }
      throw error;
    }
  }

  /** To be called about once a second. */
  tick(nowMs: number): Action[] {
    const { helloMsMax, pingMs } = this.#options.limits;
    if (this.#state === 'silent') {
      return nowMs - this.#options.openedMs >= helloMsMax ? this.#close(CLOSES.noHello) : [];
    }
    if (this.#state === 'closed' || nowMs - this.#pingedMs < pingMs) return [];
    if (this.#unpongedMs !== 0 && nowMs - this.#unpongedMs >= 2 * pingMs) return this.#close(CLOSES.noPong);
    this.#pingedMs = nowMs;
    if (this.#unpongedMs === 0) this.#unpongedMs = nowMs;
    return [{ do: 'send', frame: { t: 'ping' } }];
  }

  /** The engine answered a direct event. */
  answered(id: RequestId, event: DirectEvent, answer: Answer): Action[] {
    if (this.#state === 'closed') return [];
    this.#unanswered--;
    const re = event.event === '' ? {} : { re: event.event };
    if (answer.status !== 'ok' && answer.status !== 'degraded') {
      return [this.#answerError(id, re, answer)];
    }
    const frame = {
      t: 'pred',
      ...withId(id),
      ...re,
      key: event.key,
      model: answer.model,
      st: answer.status,
      ...(answer.rung ? { rung: answer.rung } : {}),
      ms: { q: answer.waitUs / 1000, i: answer.inferUs / 1000 },
    };
    return [{ do: 'send', frame, outputs: answer.outputs }];
  }

  /** Redis has the event; `dup`: it had it before. */
  appended(id: RequestId, sid: string, dup: boolean): Action[] {
    if (this.#state === 'closed') return [];
    this.#unanswered--;
    return [{ do: 'send', frame: { t: 'ack', ...withId(id), sid, dup } }];
  }

  /** The event could not be appended. */
  appendFailed(id: RequestId, retryable: boolean, detail: string): Action[] {
    if (this.#state === 'closed') return [];
    this.#unanswered--;
    const kind = retryable ? ERRORS.overloaded : ERRORS.internal;
    return [sendError(id, kind, { after: RETRY_MS_DEFAULT, detail })];
  }

  /** The connection is to end for a reason that lies outside: slow consumer, draining, too large. */
  end(close: CloseKind): Action[] {
    return this.#state === 'closed' ? [] : this.#close(close);
  }

  /** The socket is gone. */
  closed(): void {
    this.#state = 'closed';
    this.#channels.clear();
  }

  #take(type: string, id: RequestId, frame: Inbound, nowMs: number): Action[] {
    const { fields } = frame;
    switch (type) {
      case 'event':
        return this.#event(id, frame, nowMs);
      case 'flow':
        return this.#flow(fields, nowMs);
      case 'pong':
        if (this.#unpongedMs === 0) return this.#charge(nowMs);
        this.#unpongedMs = 0;
        return [];
      case 'hello':
        return this.#hello(id, fields, nowMs);
      case 'sub':
        return this.#subscribe(id, fields, nowMs);
      case 'unsub': {
        const channel = fields['ch'];
        if (typeof channel !== 'string' || !this.#channels.delete(channel)) return this.#charge(nowMs);
        return [{ do: 'unsubscribe', channel }, ...this.#charge(nowMs)];
      }
      default:
        return [{ do: 'send', frame: { t: 'pong', ...withId(id) } }, ...this.#charge(nowMs)];
    }
  }

  #hello(id: RequestId, fields: Inbound['fields'], nowMs: number): Action[] {
    if (this.#state !== 'silent') {
      return this.#refuse(id, ERRORS.forbidden, nowMs, { detail: 'hello was said before' });
    }
    // Tokens are not checked yet: the gateway runs with auth off, and one code base may serve both.
    optionalText(fields, 'token', TOKEN_BYTES_MAX);
    this.#state = 'open';
    this.#pingedMs = nowMs;
    const { pingMs, messageBytesMax } = this.#options.limits;
    const frame = {
      t: 'welcome',
      ...withId(id),
      conn: this.#options.connection,
      now: Math.floor(nowMs),
      ping: pingMs,
      max: messageBytesMax,
      events: this.#unansweredMax,
    };
    return [{ do: 'send', frame }, ...this.#charge(nowMs)];
  }

  #subscribe(id: RequestId, fields: Inbound['fields'], nowMs: number): Action[] {
    const target = channelOf(fields, 'ch', this.#options.limits);
    const channel = fields['ch'] as string;
    const mode = fields['mode'] ?? 'latest';
    if (mode !== 'latest' && mode !== 'all') throw new InvalidEvent('mode', 'must be latest or all');
    const models = optionalModels(
      fields,
      'models',
      MODELS_PER_SUBSCRIPTION_MAX,
      this.#options.limits.modelNameBytesMax,
    );
    const credit = optionalCount(fields, 'credit', 0, CREDIT_MAX, CREDIT_DEFAULT);
    if (this.#channels.has(channel)) return this.#refuse(id, ERRORS.alreadySubscribed, nowMs);
    if (this.#channels.size >= this.#options.limits.subscriptionsMax) {
      return this.#refuse(id, ERRORS.tooManySubscriptions, nowMs);
    }
    if (target.kind === 'model' && !this.#options.modelKnown(target.name)) {
      return this.#refuse(id, ERRORS.unknownModel, nowMs);
    }
    this.#channels.add(channel);
    const frame = {
      t: 'subd',
      ...withId(id),
      ch: channel,
      e: this.#options.epoch,
      seq: 0,
      recovered: false,
      replayed: 0,
    };
    return [
      { do: 'send', frame },
      { do: 'subscribe', request: { channel, target, mode, models, credit } },
      ...this.#charge(nowMs),
    ];
  }

  #flow(fields: Inbound['fields'], nowMs: number): Action[] {
    const channel = fields['ch'];
    const credit = optionalCount(fields, 'credit', 1, CREDIT_MAX, 0);
    // Not an error: credit and unsub may cross, and the client's own bookkeeping is its own.
    if (typeof channel !== 'string' || credit === 0 || !this.#channels.has(channel))
      return this.#charge(nowMs);
    return [{ do: 'credit', channel, credit }];
  }

  #event(id: RequestId, frame: Inbound, nowMs: number): Action[] {
    const afterMs = this.#events.take(nowMs);
    if (afterMs > 0) return this.#refuse(id, ERRORS.rateLimited, nowMs, { after: afterMs });
    const { fields, data } = frame;
    const { keyBytesMax, modelNameBytesMax, eventIdBytesMax, deadlineMsMax } = this.#options.limits;
    const key = optionalText(fields, 'key', keyBytesMax);
    const model = optionalText(fields, 'model', modelNameBytesMax);
    const event = optionalText(fields, 'eid', eventIdBytesMax);
    const deadlineMs = optionalDeadlineMs(fields, 'deadline', deadlineMsMax);
    const via = fields['via'] ?? 'direct';
    if (via !== 'direct' && via !== 'stream') throw new InvalidEvent('via', 'must be direct or stream');
    if (data === null) throw new InvalidEvent('d', 'must be a map of named fields');
    if (model !== '' && !this.#options.modelKnown(model)) return this.#refuse(id, ERRORS.unknownModel, nowMs);
    if (this.#unanswered >= this.#unansweredMax) {
      return this.#refuse(id, ERRORS.overloaded, nowMs, { after: RETRY_MS_DEFAULT });
    }
    this.#unanswered++;
    const priority = optionalPriority(fields, via === 'stream' ? PRIORITY_DEFAULT : PRIORITY_DIRECT);
    const common = { model, key, event, data, deadlineMs, priority };
    if (via === 'stream') return [{ do: 'append', id, event: common }];
    return [{ do: 'infer', id, event: { ...common, json: this.#options.json } }];
  }

  #answerError(id: RequestId, re: { re?: string }, answer: Answer): Action {
    const after = answer.retryMs > 0 ? Math.ceil(answer.retryMs) : RETRY_MS_DEFAULT;
    const detail = answer.detail === '' ? {} : { detail: answer.detail };
    switch (answer.status) {
      case 'invalid':
        return sendError(id, ERRORS.invalidEvent, { ...re, ...invalidParts(answer.detail) });
      case 'overloaded':
        return sendError(id, ERRORS.overloaded, { ...re, ...detail, after });
      case 'expired':
        return sendError(id, ERRORS.deadlineExceeded, { ...re, ...detail, after });
      case 'unavailable':
        return sendError(id, ERRORS.modelUnavailable, { ...re, ...detail, after });
      case 'superseded':
        return sendError(id, ERRORS.superseded, { ...re, ...detail });
      case 'unknown_model':
        return sendError(id, ERRORS.unknownModel, { ...re, ...detail });
      default:
        return sendError(id, ERRORS.internal, { ...re, ...detail, after });
    }
  }

  /** An error in answer to a frame; it costs patience. */
  #refuse(id: RequestId, kind: ErrorKind, nowMs: number, more: Outbound = {}): Action[] {
    return [sendError(id, kind, more), ...this.#charge(nowMs)];
  }

  /** One frame's worth of patience, or the end of it. */
  #charge(nowMs: number): Action[] {
    return this.#patience.take(nowMs) === 0 ? [] : this.#close(CLOSES.flooding);
  }

  #close(close: CloseKind): Action[] {
    this.closed();
    return [{ do: 'close', close }];
  }
}

function requestId(value: unknown): RequestId {
  if (typeof value === 'number' && Number.isFinite(value)) return value;
  return typeof value === 'string' && value.length <= REQUEST_ID_LENGTH_MAX ? value : undefined;
}

function withId(id: RequestId): { id?: number | string } {
  return id === undefined ? {} : { id };
}

function sendError(id: RequestId, kind: ErrorKind, more: Outbound): Action {
  const frame = { t: 'error', ...withId(id), code: kind.code, msg: kind.name, retry: kind.retry, ...more };
  return { do: 'send', frame };
}
