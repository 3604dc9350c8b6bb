/**
 * A WebSocket of uWebSockets.js on one side, the protocol's state machine and the hub on the other.
 * Everything that is peculiar to the socket library stays in this file and in server.ts:
 * - after `close` any call on the socket throws, so `#open` guards each of them;
 * - a message's memory is taken away when the handler returns, so what outlives it is copied here;
 * - `end` calls the close handler before it returns.
 */
import type { WebSocket } from 'uWebSockets.js';
import { messageOf } from '../errors.ts';
import type { Limits } from '../limits.ts';
import { notice } from '../observe/channels.ts';
import type { Answer, Caller, DirectEvent } from '../schedule/direct.ts';
import type { Appends } from './appends.ts';
import type { Backend, StreamEvent } from './backend.ts';
import type { Codec, Inbound } from './codec.ts';
import { recode } from './codec.ts';
import type { CloseKind } from './codes.ts';
import { CLOSES } from './codes.ts';
import type { Hub, Outlet } from './hub.ts';
import { Malformed } from './msgpack.ts';
import type { Action, ProtocolLimits, RequestId } from './protocol.ts';
import { Protocol } from './protocol.ts';

/** What all connections of a gateway share. */
export interface ConnectionShared {
  readonly backend: Backend;
  readonly hub: Hub;
  readonly appends: Appends;
  readonly limits: ProtocolLimits & Pick<Limits, 'outboxBytesMax'>;
  readonly epoch: string;
  /** Unix milliseconds. */
  readonly now: () => number;
  readonly modelKnown: (name: string) => boolean;
}

/** Attached to the socket by uWebSockets.js. */
export interface SocketData {
  readonly codec: Codec;
  /** Close with this as soon as the socket is open: only then can the client see why. */
  readonly refuse: CloseKind | null;
  connection: Connection | null;
}

/** A close frame's reason has room for 123 bytes. */
const REASON_BYTES_MAX = 123;

export class Connection implements Outlet {
  readonly #ws: WebSocket<SocketData>;
  readonly #codec: Codec;
  readonly #shared: ConnectionShared;
  /** Of all its events. */
  readonly #caller: Caller = { gone: false };
  readonly #protocol: Protocol;
  #open = true;

  constructor(ws: WebSocket<SocketData>, codec: Codec, name: string, shared: ConnectionShared) {
    this.#ws = ws;
    this.#codec = codec;
    this.#shared = shared;
    this.#protocol = new Protocol({
      limits: shared.limits,
      connection: name,
      epoch: shared.epoch,
      json: codec.json,
      modelKnown: shared.modelKnown,
      openedMs: shared.now(),
    });
  }

  get json(): boolean {
    return this.#codec.json;
  }

  message(message: ArrayBuffer, isBinary: boolean): void {
    if (!this.#open) return;
    if (message.byteLength > this.#shared.limits.messageBytesMax) {
      this.end(CLOSES.tooLarge);
      return;
    }
    const frame = this.#decode(new Uint8Array(message), isBinary);
    if (frame !== null) this.#run(this.#protocol.receive(frame, this.#shared.now()));
  }

  /** Null when the message was malformed and the connection is closed. */
  #decode(message: Uint8Array, isBinary: boolean): Inbound | null {
    const { json, subprotocol } = this.#codec;
    let detail = `${subprotocol} is spoken in ${json ? 'text' : 'binary'} frames`;
    if (isBinary !== json) {
      try {
        return this.#codec.decode(message);
      } catch (error) {
        detail = error instanceof Malformed ? error.message : 'cannot be decoded';
      }
    }
    this.#protocol.closed();
    this.#end(CLOSES.malformed, `${CLOSES.malformed.name}: ${detail}`);
    return null;
  }

  tick(nowMs: number): void {
    this.#run(this.#protocol.tick(nowMs));
  }

  /** A prediction from the hub, already encoded for this connection. */
  push(frame: Uint8Array): boolean {
    if (!this.#open) return false;
    this.#send(frame);
    return this.#open;
  }

  end(close: CloseKind): void {
    this.#run(this.#protocol.end(close));
  }

  /** The close handler: the socket is gone, whoever ended it. */
  gone(): void {
    this.#open = false;
    this.#caller.gone = true;
    this.#protocol.closed();
    this.#shared.hub.remove(this);
  }

  #run(actions: readonly Action[]): void {
    for (const action of actions) {
      switch (action.do) {
        case 'send':
          this.#sendFrame(action);
          break;
        case 'close':
          this.#end(action.close, action.close.name);
          break;
        case 'subscribe':
          this.#shared.hub.subscribe(this, action.request);
          break;
        case 'unsubscribe':
          this.#shared.hub.unsubscribe(this, action.channel);
          break;
        case 'credit':
          // Corked: all that was held leaves in one system call.
          this.#ws.cork(() => this.#shared.hub.credit(this, action.channel, action.credit));
          break;
        case 'infer':
          this.#infer(action.id, action.event);
          break;
        case 'append':
          this.#append(action.id, action.event);
          break;
        default:
          action satisfies never;
      }
      if (!this.#open) return;
    }
  }

  #infer(id: RequestId, event: DirectEvent): void {
    try {
      this.#shared.backend.infer({ ...event, caller: this.#caller }, (answer) =>
        this.#answered(id, event, answer),
      );
    } catch (error) {
      notice('error', 'GATEWAY_INFER_THREW', messageOf(error));
      this.#answered(id, event, FAILED);
    }
  }

  /** Called by the engine: nothing may be thrown back into it. */
  #answered(id: RequestId, event: DirectEvent, answer: Answer): void {
    let spoken = answer;
    try {
      if (answer.outputs.length > 0) {
        spoken = { ...answer, outputs: recode(answer.outputs, this.#codec.json) };
      }
    } catch (error) {
      notice('error', 'GATEWAY_OUTPUTS_MALFORMED', messageOf(error));
      spoken = FAILED;
    }
    this.#run(this.#protocol.answered(id, event, spoken));
  }

  #append(id: RequestId, event: StreamEvent): void {
    const copy = { ...event, data: event.data.slice() };
    this.#shared.appends.append(copy, this.#shared.now(), ({ sid, dup, error }) => {
      if (error === undefined) {
        this.#run(this.#protocol.appended(id, sid, dup));
      } else {
        const { retryable, detail } = reasonOf(error);
        this.#run(this.#protocol.appendFailed(id, retryable, detail));
      }
    });
  }

  #sendFrame(action: Extract<Action, { do: 'send' }>): void {
    const { frame, outputs } = action;
    const none = outputs === undefined || outputs.length === 0;
    this.#send(this.#codec.encode(frame, none ? undefined : outputs));
  }

  #send(bytes: Uint8Array): void {
    if (!this.#open) return;
    // 1: with the kernel; 0: waiting in memory; 2: refused, because too much waits already.
    if (this.#ws.send(bytes, !this.#codec.json) === 1) return;
    if (this.#ws.getBufferedAmount() > this.#shared.limits.outboxBytesMax) this.end(CLOSES.slowConsumer);
  }

  #end(close: CloseKind, reason: string): void {
    if (!this.#open) return;
    this.#open = false;
    // ASCII, so that cutting it cannot leave half a character.
    const text = reason.replace(/[^\x20-\x7e]/g, '?').slice(0, REASON_BYTES_MAX);
    this.#ws.end(close.code, text);
  }
}

const FAILED: Answer = {
  status: 'failed',
  model: '',
  outputs: new Uint8Array(0),
  detail: 'the engine failed on this event',
  retryMs: 0,
  waitUs: 0,
  inferUs: 0,
};

/**
 * What a client may know of a failed append: a SubitoError says whether to try again, all else stays
 * inside.
 */
function reasonOf(error: unknown): { retryable: boolean; detail: string } {
  const known = error as { retryable?: unknown; code?: unknown } | null;
  const retryable = known !== null && typeof known === 'object' && known.retryable === true;
  const code = retryable && typeof known.code === 'string' ? `: ${known.code}` : '';
  return { retryable, detail: `the event was not appended${code}` };
}
