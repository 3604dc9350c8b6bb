/**
 * `--observe push`: subscriptions on the channels of all keys, so that the whole way to a player is measured.
 */

import type { Frame } from './gateway-socket.ts';
import { GatewaySocket, openPaced } from './gateway-socket.ts';
import type { LoadOptions } from './options.ts';
import { keyOf } from './way.ts';

/** Below the server's default of 64 a connection. */
const SUBSCRIPTIONS_PER_CONNECTION = 50;
/** Predictions a channel may have on the way; half of it is returned at a time. */
const CREDIT = 256;
const SUBSCRIBE_MS_MAX = 10_000;

export class PushObserver {
  readonly notes: string[] = [];
  readonly #options: LoadOptions;
  readonly #onPrediction: (event: string, status: string | undefined) => void;
  readonly #fail: (error: Error) => void;
  /** Predictions taken since credit was last returned, by channel. */
  readonly #taken = new Map<string, number>();
  #sockets: GatewaySocket[] = [];
  #subscribed = 0;
  #onSubscribed: () => void = () => {};

  constructor(
    options: LoadOptions,
    onPrediction: (event: string, status: string | undefined) => void,
    fail: (error: Error) => void,
  ) {
    this.#options = options;
    this.#onPrediction = onPrediction;
    this.#fail = fail;
  }

  async open(): Promise<void> {
    const { keys, connections, url, encoding, token } = this.#options;
    const count = Math.max(connections, Math.ceil(keys / SUBSCRIPTIONS_PER_CONNECTION));
    if (count > connections) {
      this.notes.push(
        `${count} connections instead of ${connections}: ${keys} keys are as many subscriptions`,
      );
    }
    this.#sockets = await openPaced(Math.min(count, keys), async (index) => {
      const socket: GatewaySocket = await GatewaySocket.open(url, encoding, token, (frame) =>
        this.#frame(socket, frame),
      );
      socket.onLost = (code, reason) =>
        this.#fail(new Error(`connection ${index} closed with ${code} ${reason}`.trim()));
      return socket;
    });
    const all = new Promise<void>((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`${this.#subscribed} of ${keys} subscriptions in 10 s`)),
        SUBSCRIBE_MS_MAX,
      );
      this.#onSubscribed = () => {
        if (this.#subscribed < keys) return;
        clearTimeout(timer);
        resolve();
      };
    });
    for (let key = 0; key < keys; key++) {
      const ch = `key:${keyOf(key, this.#options)}`;
      const socket = this.#sockets[key % this.#sockets.length]!;
      socket.send({ t: 'sub', id: key + 1, ch, mode: 'all', credit: CREDIT });
    }
    await all;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.close();
  }

  #frame(socket: GatewaySocket, frame: Frame): void {
    if (frame['t'] === 'subd') {
      this.#subscribed++;
      this.#onSubscribed();
    } else if (frame['t'] === 'error') {
      this.#fail(new Error(`the gateway answers ${frame['code']} ${frame['msg']}`));
    } else if (frame['t'] === 'pred' && typeof frame['ch'] === 'string') {
      this.#onPrediction(String(frame['re'] ?? ''), frame['st'] as string | undefined);
      const taken = (this.#taken.get(frame['ch']) ?? 0) + 1;
      this.#taken.set(frame['ch'], taken % (CREDIT / 2));
      if (taken === CREDIT / 2) socket.send({ t: 'flow', ch: frame['ch'], seq: frame['seq'], credit: taken });
    }
  }
}
