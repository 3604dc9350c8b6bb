// A real engine on a real Redis, and the three ways into it.
import { cpSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Redis } from 'ioredis';
import { unpack } from 'msgpackr';
import { connect } from '../../src/client/client.ts';
import { loadConfig } from '../../src/config.ts';
import { type Engine, type EngineOptions, startEngine } from '../../src/engine.ts';
import { startRedis, type TestRedis } from './redis.ts';

export const FIXTURE_MODELS = new URL('../fixtures/models/', import.meta.url).pathname;
export const MLP = new URL('../../bench/models/mlp/', import.meta.url).pathname;

/** A models directory with copies of these fixtures, each with the manifest given, if any. */
export function modelsDir(models: Readonly<Record<string, { from: string; manifest?: string }>>): string {
  const dir = mkdtempSync(join(tmpdir(), 'subito-models-'));
  for (const [name, { from, manifest }] of Object.entries(models)) {
    mkdirSync(join(dir, name));
    cpSync(from, join(dir, name), { recursive: true });
    if (manifest !== undefined) writeFileSync(join(dir, name, 'model.yaml'), manifest);
  }
  return dir;
}

export interface TestEngine {
  readonly engine: Engine;
  readonly redis: TestRedis;
  readonly client: Redis;
  stop(): Promise<void>;
}

export async function startTestEngine(
  models: string,
  overrides: object = {},
  options: EngineOptions = {},
): Promise<TestEngine> {
  const redis = await startRedis();
  const settings = {
    redis: { url: redis.url },
    models: { path: models },
    gateway: { port: 0 },
    workers: { max: 1 },
    ...overrides,
  };
  try {
    const engine = await startEngine(loadConfig({ env: {}, overrides: settings }), options);
    return {
      engine,
      redis,
      client: redis.connect(),
      async stop() {
        await engine.stop().finally(() => redis.stop());
      },
    };
  } catch (error) {
    await redis.stop();
    throw error;
  }
}

export type Fields = Record<string, Buffer>;

/** All entries of a stream as maps. */
export async function entriesOf(client: Redis, stream: string): Promise<Fields[]> {
  const entries = await client.xrangeBuffer(stream, '-', '+');
  return entries.map(([, values]) => {
    const fields: Fields = {};
    for (let i = 0; i + 1 < values.length; i += 2) fields[String(values[i])] = values[i + 1] as Buffer;
    return fields;
  });
}

/** The prediction of the stream entry `source`, decoded; waits for it. */
export async function predictionOf(
  client: Redis,
  source: string,
): Promise<{ fields: Fields; outputs: unknown }> {
  const giveUpAt = performance.now() + 5000;
  for (;;) {
    for (const fields of await entriesOf(client, 'predictions')) {
      if (String(fields['source']) !== source) continue;
      return { fields, outputs: unpack(fields['outputs'] as Buffer) };
    }
    for (const fields of await entriesOf(client, 'deadletters')) {
      if (String(fields['source']) === source) throw new Error(`dead-lettered: ${fields['detail']}`);
    }
    if (performance.now() > giveUpAt) throw new Error(`no prediction for ${source}`);
  }
}

/** Sends the same event all three ways and returns the three predictions. */
export async function threeWays(
  { engine, client }: TestEngine,
  model: string,
  data: Record<string, unknown>,
) {
  const json = JSON.stringify(data);
  const source = (await client.xadd('events', '*', 'key', 'u1', 'model', model, 'data', json)) as string;
  const stream = (await predictionOf(client, source)).outputs;

  const socket = connect(engine.url.replace('http', 'ws'));
  const { outputs: ws } = await socket.infer({ key: 'u1', model, data });
  socket.close();

  const response = await fetch(`${engine.url}/v2/models/${model}/infer`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ data }),
  });
  const body = (await response.json()) as { outputs?: unknown; error?: string };
  if (!response.ok) throw new Error(body.error);
  return { stream, ws, http: body.outputs };
}
