/** `subito serve`: the engine until it is told to stop. */

import type { ConfigInput } from '../config/schema.ts';
import { type Config, loadConfig } from '../config.ts';
import { type Engine, startEngine } from '../engine.ts';
import { startLog } from '../observe/log.ts';
import { stopSignal } from './signals.ts';

type Given = Readonly<Record<string, unknown>>;

/** Options as commander gives them. Resolves with the exit code once the engine has stopped. */
export async function run(given: Given): Promise<number> {
  const file = given['config'];
  const config = loadConfig({
    file: file === undefined ? undefined : String(file),
    overrides: serveOverrides(given),
  });
  // Before the start: a signal that comes meanwhile must not leave half an engine, or a Redis, behind.
  const signal = stopSignal();
  const stopLog = startLog({
    write: (line) => process.stderr.write(line),
    text: config.log.format === 'text',
    colour: process.stderr.isTTY,
    level: config.log.level,
    now: Date.now,
  });
  try {
    const engine = await startUnless(signal.first, config);
    if (engine === null) return 0;
    say(engine, config, given['json'] === true);
    await signal.first;
    await engine.stop();
    return 0;
  } finally {
    stopLog();
    signal.off();
  }
}

/** Null: it was told to stop before the engine was up, and nothing of it is left. */
async function startUnless(told: Promise<unknown>, config: Config): Promise<Engine | null> {
  const giveUp = new AbortController();
  void told.then(() => giveUp.abort());
  try {
    return await startEngine(config, { signal: giveUp.signal });
  } catch (error) {
    if (giveUp.signal.aborted) return null;
    throw error;
  }
}

/** What the command line says, in the form of the configuration; it wins over file and environment. */
export function serveOverrides(given: Given): ConfigInput {
  const { host, port, redis, models, insecure } = given;
  const gateway = {
    ...(host === undefined ? {} : { host: String(host) }),
    ...(port === undefined ? {} : { port: Number(port) }),
    ...(insecure === undefined ? {} : { insecure: insecure === true }),
  };
  return {
    ...(redis === undefined ? {} : { redis: redis === 'embedded' ? 'embedded' : { url: String(redis) } }),
    ...(models === undefined ? {} : { models: { path: String(models) } }),
    ...(Object.keys(gateway).length === 0 ? {} : { gateway }),
  };
}

/** One line that says where everything is; one more for each model that is not served. */
function say(engine: Engine, { streams }: Config, json: boolean): void {
  const { url, redisUrl, problems } = engine;
  const models = engine.backend.models().map(({ name, version, provider }) => ({ name, version, provider }));
  const names = streams.map(({ name }) => name);
  if (json) {
    process.stdout.write(`${JSON.stringify({ url, redis: redisUrl, streams: names, models, problems })}\n`);
    return;
  }
  const served = models.map(({ name, version, provider }) => `${name}@${version} (${provider})`).join(', ');
  process.stdout.write(`subito serves ${served} at ${url}, events from ${names.join(', ')} at ${redisUrl}\n`);
  for (const { model, message } of problems) {
    process.stderr.write(`subito: the model ${model} is not served: ${message}\n`);
  }
}
