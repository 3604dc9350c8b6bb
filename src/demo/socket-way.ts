/**
 * Listeners as players would be: over WebSocket, many on one connection. Every other one asks for its answer
 * on the connection (`via: direct`); the others append to the stream (`via: stream`) and are pushed what
 * comes of it, on a subscription to their key.
 */
import { type Frame, GatewaySocket, openPaced } from '../load/gateway-socket.ts';
import type { Guess, Question } from './listener.ts';
import { guessesOf, RETRY_MS, type Settle, type Way } from './way.ts';

export interface SocketWayOptions {
  readonly url: string;
  readonly model: string;
  /** Of the listeners that go this way, by their number. */
  readonly keys: readonly string[];
  /** Events per second of one listener. */
  readonly ratePerS: number;
  readonly limits: { readonly eventsPerSecondMax: number; readonly subscriptionsMax: number };
  readonly settle: Settle;
}

/** More would only make the failure of one connection worse. */
const LISTENERS_PER_LINE = 32;
/** Chance makes some seconds busier than others. */
const RATE_SHARE = 0.6;
/** Predictions that one subscription may have on the way. */
const CREDIT = 16;

/** Asks for its answer directly; the odd ones follow their key instead. */
const isDirect = (listener: number) => listener % 2 === 0;

/** Listeners on one connection. */
function perLine({ ratePerS, limits }: SocketWayOptions): number {
  const byRate = Math.floor((limits.eventsPerSecondMax * RATE_SHARE) / ratePerS);
  return Math.max(1, Math.min(LISTENERS_PER_LINE, limits.subscriptionsMax, byRate));
}

export class SocketWay implements Way {
  readonly #options: SocketWayOptions;
  readonly #perLine: number;
  #lines: Line[] = [];

  constructor(options: SocketWayOptions) {
    this.#options = options;
    this.#perLine = perLine(options);
  }

  async open(): Promise<void> {
    const { keys } = this.#options;
    const count = Math.ceil(keys.length / this.#perLine);
    this.#lines = Array.from({ length: count }, (_, index) => {
      const first = index * this.#perLine;
      const followed = keys.slice(first, first + this.#perLine).filter((_key, at) => !isDirect(first + at));
      return new Line(this.#options, followed);
    });
    // Those beyond the first are opened while listeners already play: the gateway lets in some 20 a second.
    const [first] = this.#lines;
    await first?.open();
    void openPaced(count - 1, async (index) => this.#lines[index + 1]!.keepOpen());
  }

  ready(listener: number): boolean {
    return this.#line(listener).isOpen;
  }

  send(listener: number, { key, event, data }: Question): void {
    const via = isDirect(listener) ? 'direct' : 'stream';
    // The event's id is also the request's, so that answer, ack and error all name it.
    this.#line(listener).send({
      t: 'event',
      id: event,
      key,
      model: this.#options.model,
      eid: event,
      via,
      d: data,
    });
  }

  flush(): void {}

  close(): void {
    for (const line of this.#lines) line.close();
  }

  #line(listener: number): Line {
    return this.#lines[Math.floor(listener / this.#perLine)]!;
  }
}

/** One connection that comes back by itself, with its subscriptions. */
class Line {
  readonly #options: SocketWayOptions;
  readonly #followed: readonly string[];
  #socket: GatewaySocket | null = null;
  #retry: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(options: SocketWayOptions, followed: readonly string[]) {
    this.#options = options;
    this.#followed = followed;
  }

  get isOpen(): boolean {
    return this.#socket !== null;
  }

  async open(): Promise<void> {
    const socket = await GatewaySocket.open(this.#options.url, 'msgpack', '', (frame) => this.#frame(frame));
    if (this.#closed) return socket.close();
    socket.onLost = () => {
      this.#socket = null;
      if (!this.#closed) this.#again();
    };
    this.#socket = socket;
    for (const key of this.#followed)
      socket.send({ t: 'sub', ch: `key:${key}`, mode: 'all', credit: CREDIT });
  }

  keepOpen(): Promise<void> {
    return this.open().catch(() => this.#again());
  }

  send(frame: Frame): void {
    this.#socket?.send(frame);
  }

  close(): void {
    this.#closed = true;
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#socket?.close();
    this.#socket = null;
  }

  #again(): void {
    if (!this.#closed) this.#retry = setTimeout(() => void this.keepOpen(), RETRY_MS);
  }

  #frame(frame: Frame): void {
    const { t, ch, seq, id, re } = frame;
    const event = re ?? id;
    if (t === 'pred' && ch !== undefined) this.send({ t: 'flow', ch, seq, credit: 1 });
    if (typeof event !== 'string') return;
    if (t === 'pred') this.#options.settle(event, answerOf(frame));
    else if (t === 'error') this.#options.settle(event, `${frame['code']} ${frame['msg']}`);
  }
}

function answerOf({ st, d }: Frame): readonly Guess[] | string {
  return st === 'ok' || st === 'degraded' ? guessesOf(d) : String(st);
}
