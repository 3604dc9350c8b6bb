/**
 * One Redis, some engines each behind a proxy of its own, a producer, and what became of its events. A
 * scenario breaks things in it; at its end every event must have its one outcome.
 */
import { copyFileSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { auditStream } from '../../../src/ledger/audit.ts';
import { connectControl } from '../../../src/redis/control.ts';
import { parseEndpoint } from '../../../src/redis/endpoint.ts';
import { FIXTURE_MODELS, MLP, modelsDir } from '../../support/engine.ts';
import { startRedis, type TestRedis, type TestRedisOptions } from '../../support/redis.ts';
import { EngineProcess } from './engine-process.ts';
import { Outcomes } from './outcomes.ts';
import { Producer } from './producer.ts';
import { FaultProxy } from './proxy.ts';
import { type Fate, verdict } from './verdict.ts';

export const STREAM = 'events';
export const GROUP = 'subito';
const OUTCOME_STREAMS = { predictions: 'predictions', deadletters: 'deadletters' } as const;

export interface WorldOptions {
  readonly redis?: TestRedisOptions;
  /** Default 1. */
  readonly engines?: number;
  /** Over the short ones that scenarios use, in snake_case. */
  readonly limits?: Readonly<Record<string, number>>;
  /** `mlp` takes raw features, fast; `trouble` does as its events say. */
  readonly model?: 'mlp' | 'trouble';
  /** More of the stream's configuration. */
  readonly stream?: object;
  /** Data of event `n`, for `trouble`. */
  readonly data?: (n: number) => object;
}

export interface Engine {
  readonly process: EngineProcess;
  readonly proxy: FaultProxy;
}

export const CLAIM_IDLE_MS = 2000;
const LIMITS = { claim_idle_ms: CLAIM_IDLE_MS, infer_ms_max: 900, read_block_ms: 500, stop_ms_max: 5000 };
/** Trimming is at work in every scenario. */
const EVENTS_KEEP_MS = 500;
const SETTLE_MS_MAX = 90_000;
/** A duplicate would come from somebody who is late. */
const LINGER_MS = 300;
const FEATURES = Buffer.alloc(256);

export class World {
  redis: TestRedis;
  readonly #first: TestRedis;
  /** Straight to the server, for the scenario's own questions. */
  client: Redis;
  readonly engines: Engine[] = [];
  /** Between the producer and Redis. */
  readonly producerProxy: FaultProxy;
  readonly producer: Producer;
  outcomes: Outcomes;
  readonly #models: string;
  readonly #options: WorldOptions;
  readonly #fates = new Map<number, Fate>();
  readonly #journal: string[] = [];
  readonly #beginMs = performance.now();
  readonly #closers: (() => unknown)[] = [];

  private constructor(options: WorldOptions, redis: TestRedis, producerProxy: FaultProxy) {
    this.#options = options;
    this.redis = redis;
    this.#first = redis;
    this.client = redis.connect();
    this.outcomes = new Outcomes(this.client, Object.values(OUTCOME_STREAMS));
    this.producerProxy = producerProxy;
    const from = options.model === 'trouble' ? `${FIXTURE_MODELS}same_float32` : MLP;
    this.#models = modelsDir({ [options.model ?? 'mlp']: { from } });
    if (options.model === 'trouble') {
      const handler = new URL('./trouble-handler.ts', import.meta.url);
      copyFileSync(handler, join(this.#models, 'trouble', 'handler.ts'));
    }
    const data = options.data ?? (() => ({}));
    const payload = (n: number): readonly (string | Buffer)[] =>
      options.model === 'trouble' ? ['data', JSON.stringify(data(n))] : ['features', FEATURES];
    this.producer = new Producer({
      port: producerProxy.port,
      stream: STREAM,
      fields: (n) => ['key', `k${n % 100}`, ...payload(n)],
    });
  }

  /** Everything runs, and nothing is broken yet. */
  static async open(options: WorldOptions): Promise<World> {
    const redis = await startRedis(options.redis);
    const world = new World(options, redis, await FaultProxy.to(redis.port));
    try {
      for (let i = 0; i < (options.engines ?? 1); i += 1) await world.addEngine();
      await Promise.all(world.engines.map((engine) => engine.process.start()));
      await world.producer.connected();
    } catch (error) {
      await world.close();
      throw error;
    }
    return world;
  }

  /** One more, not started yet. */
  async addEngine(): Promise<Engine> {
    const proxy = await FaultProxy.to(this.redis.port);
    const config = {
      redis: { url: `redis://127.0.0.1:${proxy.port}` },
      streams: [
        {
          name: STREAM,
          group: GROUP,
          model: this.#options.model ?? 'mlp',
          events_keep_ms: EVENTS_KEEP_MS,
          ...this.#options.stream,
        },
      ],
      models: { path: this.#models },
      workers: { max: 1 },
      gateway: { port: 0 },
      limits: { ...LIMITS, ...this.#options.limits },
    };
    const engine = { process: new EngineProcess(`engine ${this.engines.length}`, config), proxy };
    this.engines.push(engine);
    return engine;
  }

  engine(i: number): Engine {
    return this.engines[i] as Engine;
  }

  /** For the report of a failure. */
  note(text: string): void {
    this.#journal.push(`${((performance.now() - this.#beginMs) / 1000).toFixed(3)} s: ${text}`);
  }

  onClose(close: () => unknown): void {
    this.#closers.push(close);
  }

  /** Engines and producer reach another server from now on; and so do the scenario and its verdict. */
  moveTo(redis: TestRedis): void {
    for (const { proxy } of [...this.engines, { proxy: this.producerProxy }]) proxy.redirect(redis.port);
    this.redis = redis;
    this.client = redis.connect();
    this.outcomes = new Outcomes(this.client, Object.values(OUTCOME_STREAMS));
  }

  /** Ids that are pending now, of everyone. */
  async pending(): Promise<string[]> {
    const rows = (await this.client.xpending(STREAM, GROUP, '-', '+', 100_000)) as [string][];
    return rows.map(([id]) => id);
  }

  /** Waits for a moment at which engines have events in hand; their ids. */
  async inHand(): Promise<string[]> {
    for (;;) {
      const ids = await this.pending();
      if (ids.length > 0) return ids;
      await sleep(1);
    }
  }

  /** Events `from` up to, not including, `to` may have been lost with the server. */
  fate(from: number, to: number, fate: Fate): void {
    for (let n = from; n < to; n += 1) this.#fates.set(n, fate);
  }

  /**
   * After a loss, before any engine is let in again: what is in the streams has survived; whatever else was
   * confirmed until now is lost. Returns how many are.
   */
  async recordSurvivors(): Promise<number> {
    await this.producer.stop();
    await this.outcomes.readAgain();
    const survivors = await this.#learn();
    let lost = 0;
    for (let n = 0; n < this.producer.count; n += 1) {
      const known = this.producer.sent(n).state !== 'refused';
      if (!known || survivors.has(n) || this.outcomes.of(n).length > 0) continue;
      if (this.producer.sent(n).state === 'added') lost += 1;
      this.#fates.set(n, 'lost');
    }
    this.note(`${lost} of ${this.producer.count} events are lost`);
    return lost;
  }

  /** Resolves when each of these entries has an outcome. */
  async settledIds(ids: Iterable<string>, msMax: number): Promise<void> {
    const open = new Set(ids);
    const giveUpAt = performance.now() + msMax;
    while (open.size > 0) {
      await this.outcomes.read();
      for (const id of open) if (this.outcomes.hasSource(id)) open.delete(id);
      if (open.size === 0) return;
      if (performance.now() > giveUpAt)
        throw new Error(`not settled in ${msMax} ms: ${open.size}, such as ${[...open][0]}`);
      await sleep(10);
    }
  }

  /** Resolves when event `n` has an outcome. */
  async settledEvent(n: number, msMax: number): Promise<void> {
    const giveUpAt = performance.now() + msMax;
    while (this.outcomes.of(n).length === 0) {
      if (performance.now() > giveUpAt) throw new Error(`event ${n} was not settled in ${msMax} ms`);
      await sleep(5);
      await this.outcomes.read();
    }
  }

  /** Resolves when an outcome is committed from now on; with the milliseconds until then. */
  async flows(msMax = 60_000): Promise<number> {
    const beginMs = performance.now();
    const last = async () => (await this.client.xrevrange('predictions', '+', '-', 'COUNT', 1))[0]?.[0];
    const before = await last();
    while ((await last()) === before) {
      if (performance.now() - beginMs > msMax) throw new Error(`nothing was settled for ${msMax} ms`);
      await sleep(2);
    }
    return performance.now() - beginMs;
  }

  /** Waits until nothing is open, and holds the outcomes against the record. Throws what is wrong. */
  async conclude(): Promise<void> {
    await this.producer.stop();
    const giveUpAt = performance.now() + SETTLE_MS_MAX;
    while (!(await this.#allSettled()) && performance.now() < giveUpAt) await sleep(50);
    await sleep(LINGER_MS);
    await this.#learn();
    await this.outcomes.readAgain();
    const wrong = verdict(this.producer, this.outcomes, (n) => this.#fates.get(n) ?? 'kept');
    const pending = await this.pending().catch(() => []);
    if (pending.length > 0) wrong.push(`${pending.length} entries are still pending, such as ${pending[0]}`);
    wrong.push(...(await this.#audit()));
    if (wrong.length > 0) throw new Error(`the ledger does not hold:\n  ${wrong.join('\n  ')}`);
  }

  async #allSettled(): Promise<boolean> {
    await this.outcomes.read();
    for (let n = 0; n < this.producer.count; n += 1) {
      const expected = this.producer.sent(n).state === 'added' && (this.#fates.get(n) ?? 'kept') === 'kept';
      if (expected && this.outcomes.of(n).length === 0) return false;
    }
    return (await this.pending().catch(() => [])).length === 0;
  }

  /** Events whose reply was lost and that are in the stream have been added. Returns all that are there. */
  async #learn(): Promise<Set<number>> {
    const found = new Set<number>();
    for (let from = '-'; ; ) {
      const entries = await this.client.xrange(STREAM, from, '+', 'COUNT', 5000);
      for (const [id, values] of entries) {
        const event = Number(values[values.indexOf('event') + 1]);
        found.add(event);
        this.producer.learn(event, id);
      }
      const last = entries.at(-1);
      if (entries.length < 5000 || last === undefined) return found;
      from = `(${last[0]}`;
    }
  }

  /** What `subito audit` finds: the other opinion. */
  async #audit(): Promise<string[]> {
    const { url } = this.redis;
    const control = await connectControl({ endpoint: parseEndpoint(url), commandMsMax: 10_000 });
    try {
      const report = await auditStream(control, { stream: STREAM, group: GROUP, ...OUTCOME_STREAMS });
      if (report.clean) return [];
      const offences = Object.entries(report.offences).filter(([, ids]) => ids.length > 0);
      return offences.map(([offence, ids]) => `audit: ${offence}: ${ids.length}, such as ${ids[0]}`);
    } finally {
      control.close();
    }
  }

  /** What a person needs who wants to know why it failed. */
  async report(): Promise<string> {
    const parts = ['faults:', ...this.#journal.slice(-40).map((line) => `  ${line}`)];
    const ask = async (...command: readonly [string, ...string[]]) => {
      const answer = await this.client.call(...command).catch((error: Error) => error.message);
      parts.push(`${command.join(' ')}: ${JSON.stringify(answer).replaceAll('\\u0000', '').slice(0, 900)}`);
    };
    await ask('XINFO', 'STREAM', STREAM);
    await ask('XINFO', 'GROUPS', STREAM);
    await ask('XINFO', 'CONSUMERS', STREAM, GROUP);
    await ask('XPENDING', STREAM, GROUP, '-', '+', '10');
    for (const { process } of this.engines)
      parts.push(`${process.name}:`, ...process.log.map((l) => `  ${l}`));
    const log = join(this.redis.dir, 'redis.log');
    if (existsSync(log)) parts.push('redis:', ...readFileSync(log, 'utf8').trimEnd().split('\n').slice(-12));
    return parts.join('\n');
  }

  async close(): Promise<void> {
    this.producer.close();
    for (const { process } of this.engines) await process.stop();
    for (const { proxy } of this.engines) proxy.close();
    this.producerProxy.close();
    for (const close of this.#closers) await close();
    await this.#first.stop();
    rmSync(this.#models, { recursive: true, force: true });
  }
}
