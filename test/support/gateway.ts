/** A gateway on a free port with a backend that tests steer, and clients that keep every frame they got. */

import { pack, unpack } from 'msgpackr';
import { WebSocket } from 'ws';
import type { Backend, ModelInfo, StreamEvent } from '../../src/gateway/backend.ts';
import type { Gateway, GatewayOptions } from '../../src/gateway/server.ts';
import { startGateway } from '../../src/gateway/server.ts';
import type { Limits } from '../../src/limits.ts';
import { limitsDefault } from '../../src/limits.ts';
import type { Prediction } from '../../src/publish/prediction.ts';
import type { Answer, DirectEvent } from '../../src/schedule/direct.ts';

export const GENRE: ModelInfo = {
  name: 'genre',
  version: 3,
  description: 'Genre of a track',
  fields: [
    { name: 'energy', dtype: 'float32', shape: [] },
    { name: 'plays', dtype: 'int64', shape: [], default: 0 },
    { name: 'embedding', dtype: 'float32', shape: [2, 2], default: [] },
  ],
  predicts: [
    { name: 'score', dtype: 'float32', shape: [] },
    { name: 'probabilities', dtype: 'float32', shape: [2] },
  ],
  tensors: null,
  provider: 'cpu',
  rowsMax: 8,
};

export const OK: Answer = {
  status: 'ok',
  model: 'genre@3',
  outputs: Buffer.from('{"score":0.5,"probabilities":[0.25,0.75]}'),
  detail: '',
  retryMs: 0,
  waitUs: 400,
  inferUs: 200,
};

/** Answers as `answer` says; `held` answers wait until the test calls them. */
export class TestBackend implements Backend {
  readonly direct: { event: DirectEvent; data: Record<string, unknown> }[] = [];
  readonly appended: (StreamEvent & { fields: Record<string, unknown> })[] = [];
  readonly wanted: boolean[] = [];
  answer: (event: DirectEvent, call: number) => Answer | null = () => OK;
  append: (event: StreamEvent) => Promise<string> = (event) => {
    this.appended.push({ ...event, fields: decode(event.data) });
    return Promise.resolve(`1761-${this.appended.length}`);
  };
  readonly held: ((answer: Answer) => void)[] = [];
  ready = true;

  models(): readonly ModelInfo[] {
    return [GENRE];
  }

  model(name: string): ModelInfo | undefined {
    return name === 'genre' || name === 'genre@3' ? GENRE : undefined;
  }

  infer(event: DirectEvent, answer: (answer: Answer) => void): void {
    this.direct.push({ event, data: decode(event.data) });
    const now = this.answer(event, this.direct.length);
    if (now === null) this.held.push(answer);
    else answer(now);
  }

  wantPredictions(wanted: boolean): void {
    this.wanted.push(wanted);
  }

  health(): { live: boolean; ready: boolean; reasons: readonly string[] } {
    return { live: true, ready: this.ready, reasons: this.ready ? [] : ['no model is loaded'] };
  }

  metrics(): Promise<string> {
    return Promise.resolve('subito_connections 1\n');
  }

  stats(): unknown {
    return { events: 7 };
  }
}

function decode(data: Uint8Array): Record<string, unknown> {
  const copy = Buffer.from(data);
  return copy[0] === 0x7b ? JSON.parse(copy.toString()) : unpack(copy);
}

export interface Started {
  readonly gateway: Gateway;
  readonly backend: TestBackend;
  readonly ws: string;
}

const running: Gateway[] = [];

/** Call from afterEach. */
export async function stopGateways(): Promise<void> {
  await Promise.all(running.splice(0).map((gateway) => gateway.drain()));
}

export async function start(
  limits: Partial<Limits> = {},
  options: Partial<GatewayOptions> = {},
): Promise<Started> {
  const backend = new TestBackend();
  const gateway = await startGateway({
    host: '127.0.0.1',
    port: 0,
    backend,
    staticDir: null,
    origins: [],
    limits: { ...limitsDefault, connectionsPerIpPerSecondMax: 5000, ...limits },
    ...options,
  });
  running.push(gateway);
  return { gateway, backend, ws: `ws://127.0.0.1:${gateway.port}/ws` };
}

export type Frame = Record<string, unknown>;

export class Player {
  readonly socket: WebSocket;
  readonly frames: Frame[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;
  readonly #json: boolean;
  #wake: () => void = () => undefined;

  constructor(url: string, subprotocol = 'subito.v1.json', options: Record<string, unknown> = {}) {
    this.#json = subprotocol === 'subito.v1.json';
    this.socket = new WebSocket(url, subprotocol, options);
    this.socket.on('message', (data: Buffer) => {
      this.frames.push(this.#json ? JSON.parse(data.toString()) : unpack(data));
      this.#wake();
    });
    this.socket.on('error', () => undefined);
    this.closed = new Promise((resolve) => {
      this.socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
    });
  }

  async opened(): Promise<this> {
    await new Promise((resolve, reject) => this.socket.once('open', resolve).once('error', reject));
    return this;
  }

  send(frame: Frame): void {
    this.socket.send(this.#json ? JSON.stringify(frame) : pack(frame));
  }

  /** The first frame that fits, now or later; it is taken out of `frames`. */
  async take(wanted: (frame: Frame) => boolean, timeoutMs = 5000): Promise<Frame> {
    const endMs = Date.now() + timeoutMs;
    for (;;) {
      const at = this.frames.findIndex(wanted);
      if (at >= 0) return this.frames.splice(at, 1)[0]!;
      const leftMs = endMs - Date.now();
      if (leftMs <= 0) throw new Error(`no such frame among ${JSON.stringify(this.frames)}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, leftMs);
      });
    }
  }

  answer(id: number): Promise<Frame> {
    return this.take((frame) => frame['id'] === id);
  }

  /** Sends a frame and waits for what carries its id. */
  ask(frame: Frame & { id: number }): Promise<Frame> {
    this.send(frame);
    return this.answer(frame.id);
  }
}

/** An open connection that has been welcomed. */
export async function player(url: string, subprotocol?: string): Promise<Player> {
  const one = await new Player(url, subprotocol).opened();
  const welcome = await one.ask({ t: 'hello', id: 1 });
  if (welcome['t'] !== 'welcome') throw new Error(JSON.stringify(welcome));
  return one;
}

export function prediction(n: number, more: Partial<Prediction> = {}): Prediction {
  return {
    sid: `${1_760_000_000_000 + n}-0`,
    key: 'u42',
    model: 'genre@3',
    status: 'ok',
    event: '',
    source: `${1_750_000_000_000 + n}-0`,
    outputs: Buffer.from(JSON.stringify({ n })),
    waitUs: 400,
    inferUs: 200,
    ...more,
  };
}

export async function until(what: () => boolean, timeoutMs = 5000): Promise<void> {
  const endMs = Date.now() + timeoutMs;
  while (!what()) {
    if (Date.now() > endMs) throw new Error(`timed out waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
