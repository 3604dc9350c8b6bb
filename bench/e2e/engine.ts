/** The engine as users start it: `subito serve` with a configuration file. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort } from '../../src/ports.ts';
import { Runner } from '../runner.ts';
import type { Site } from '../site.ts';

const MAIN = new URL('../../src/main.ts', import.meta.url).pathname;
/** Node's arguments before those of the program: the program and, as on its own first line, Node's flags. */
export const SUBITO = [...readFileSync(MAIN, 'utf8').split('\n', 1)[0]!.matchAll(/--\S+/g), MAIN].map(String);
const MODELS = new URL('../models', import.meta.url).pathname;

export interface EngineOptions {
  /** Added to the configuration, over what stands in `engineConfig`. */
  readonly config?: Readonly<Record<string, unknown>>;
  readonly env?: Readonly<Record<string, string>>;
}

export interface Engine {
  readonly runner: Runner;
  /** The gateway's. */
  readonly url: string;
}

/** One model, one stream, one worker thread, the gateway on; deadlines out of the way. */
export function engineConfig(site: Site, port: number): Record<string, unknown> {
  return {
    redis: { url: site.redisUrl },
    streams: [{ name: 'events', model: 'mlp', deadline_ms: 3_600_000, events_keep_ms: 1000 }],
    models: { path: MODELS },
    workers: { min: 1, max: 1 },
    gateway: { port },
    log: { level: 'warn' },
  };
}

export async function startEngine(site: Site, options: EngineOptions = {}): Promise<Engine> {
  const port = await freePort();
  const file = join(site.directory, `subito-${port}.yaml`);
  // JSON is YAML.
  writeFileSync(file, JSON.stringify({ ...engineConfig(site, port), ...options.config }));
  const url = `http://127.0.0.1:${port}`;
  const runner = await Runner.start([...SUBITO, 'serve', '--config', file], () => isReady(url), {
    ...(options.env === undefined ? {} : { env: options.env }),
  });
  return { runner, url };
}

export function isReady(url: string): Promise<boolean> {
  return fetch(`${url}/v2/health/ready`).then(
    (response) => response.ok,
    () => false,
  );
}
