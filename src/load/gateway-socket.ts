/**
 * One WebSocket to the gateway: subprotocol, hello and welcome, ping and pong. Frames as in the push
 * protocol.
 */
import { Packr } from 'msgpackr';
import { WebSocket } from 'ws';
import { SubitoError } from '../errors.ts';
import type { Encoding } from './options.ts';

/** Maps, not records: a browser's decoder must be able to read them. */
const packr = new Packr({ useRecords: false });

const OPEN_MS_MAX = 10_000;
/** The server takes 20 connections per address and second by default. */
const OPENS_PER_S = 18;

export type Frame = Record<string, unknown>;

export class GatewaySocket {
  readonly #socket: WebSocket;
  readonly #encoding: Encoding;
  readonly #onFrame: (frame: Frame) => void;
  #open = true;
  /** Called once when the connection ends other than by close(). */
  onLost: (code: number, reason: string) => void = () => {};

  /** `url` is the gateway's http(s) address. */
  static open(
    url: string,
    encoding: Encoding,
    token: string,
    onFrame: (frame: Frame) => void,
  ): Promise<GatewaySocket> {
    const address = new URL('/ws', url);
    address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
    return new Promise((resolve, reject) => {
      const fail = (why: string) => {
        clearTimeout(timer);
        socket.terminate();
        reject(new SubitoError('GATEWAY_UNREACHABLE', `no WebSocket at ${address.host}: ${why}`));
      };
      const timer = setTimeout(() => fail('no welcome in 10 s'), OPEN_MS_MAX);
      const socket = new WebSocket(address, [`subito.v1.${encoding}`], { perMessageDeflate: false });
      let welcomed = false;
      const wrapped = new GatewaySocket(socket, encoding, (frame) => {
        if (welcomed) onFrame(frame);
        else if (frame['t'] === 'welcome') {
          welcomed = true;
          clearTimeout(timer);
          wrapped.onLost = () => {};
          resolve(wrapped);
        } else if (frame['t'] === 'error') fail(`${frame['code']} ${frame['msg']}`);
      });
      wrapped.onLost = (code, reason) => fail(`closed with ${code} ${reason}`.trim());
      socket.once('error', (error) => fail(error.message));
      socket.once('open', () =>
        wrapped.send({ t: 'hello', id: 1, ...(token === '' ? {} : { token }), sdk: 'load/1' }),
      );
    });
  }

  private constructor(socket: WebSocket, encoding: Encoding, onFrame: (frame: Frame) => void) {
    this.#socket = socket;
    this.#encoding = encoding;
    this.#onFrame = onFrame;
    socket.on('message', (bytes: Buffer) => this.#message(bytes));
    socket.on('error', () => {});
    socket.on('close', (code, reason) => {
      if (!this.#open) return;
      this.#open = false;
      this.onLost(code, reason.toString());
    });
  }

  get isOpen(): boolean {
    return this.#open;
  }

  send(frame: Frame): void {
    this.sendBytes(this.#encoding === 'json' ? JSON.stringify(frame) : packr.pack(frame));
  }

  /** A frame that is already encoded. */
  sendBytes(bytes: Buffer | string): void {
    if (this.#open) this.#socket.send(bytes);
  }

  close(): void {
    this.#open = false;
    this.#socket.close(1000);
    // A server that does not close its side must not keep the process.
    setTimeout(() => this.#socket.terminate(), 1000).unref();
  }

  #message(bytes: Buffer): void {
    const frame = (this.#encoding === 'json' ? JSON.parse(bytes.toString()) : packr.unpack(bytes)) as Frame;
    if (frame['t'] === 'ping') this.send({ t: 'pong' });
    else this.#onFrame(frame);
  }
}

/** Opens `count` connections no faster than the gateway lets one address; `open` gets each one's index. */
export async function openPaced<T>(count: number, open: (index: number) => Promise<T>): Promise<T[]> {
  const opening: Promise<T>[] = [];
  for (let index = 0; index < count; index++) {
    if (index > 0 && index % OPENS_PER_S === 0) await new Promise((resolve) => setTimeout(resolve, 1100));
    const one = open(index);
    // Awaited together below; until then a failure must not count as unhandled.
    one.catch(() => {});
    opening.push(one);
  }
  return Promise.all(opening);
}
