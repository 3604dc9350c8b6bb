/** `subito demo`: the engine with a private Redis, the models at hand and a crowd of simulated listeners. */
import { join } from 'node:path';
import { type Config, loadConfig } from '../config.ts';
import { Crowd } from '../demo/crowd.ts';
import { readTransitions } from '../demo/sampler.ts';
import { StatusLine, statusLine, welcome } from '../demo/terminal.ts';
import { type Engine, startEngine } from '../engine.ts';
import { SubitoError } from '../errors.ts';
import type { Stats } from '../observe/figures.ts';
import { startLog } from '../observe/log.ts';
import { isFree } from '../ports.ts';
import { seededRandom } from '../random.ts';
import { stopSignal } from './signals.ts';

const MODEL = 'next-track';
const HOST = '127.0.0.1';
const REDIS_PORT = 6379;
const PORT = 8080;
/** When the port is taken, so many after it are tried. */
const PORTS_MORE = 20;
const LISTENERS = 300;
const SONG_SECONDS = 2;
const SONG_SECONDS_MIN = 0.1;
/** Some five minutes of the default crowd, so that the data does not grow for ever. */
const PREDICTIONS_MAX = 50_000;

interface DemoOptions {
  readonly listeners: number;
  readonly songSeconds: number;
  /** Null: 8080, or one of those after it. */
  readonly port: number | null;
  readonly dir: string;
  readonly quiet: boolean;
  readonly json: boolean;
}

/** Options as commander gives them. Resolves with the exit code once everything has stopped. */
export async function run(given: Readonly<Record<string, unknown>>): Promise<number> {
  const options = demoOptions(given);
  const config = await demoConfig(options);
  const crowd = new Crowd({
    listeners: options.listeners,
    songSeconds: options.songSeconds,
    transitions: readTransitions(join(config.models.path, MODEL, 'transitions.json')),
    model: MODEL,
    run: Date.now().toString(36),
    seeded: seededRandom,
    now: () => performance.now(),
  });
  let line: StatusLine | null = null;
  const print = (text: string) => (line === null ? process.stderr.write(text) : line.print(text));
  const signal = stopSignal();
  const stopLog = startLog({
    write: print,
    text: config.log.format === 'text',
    colour: process.stderr.isTTY,
    level: config.log.level,
    now: Date.now,
  });
  try {
    const engine = await start(config, crowd);
    try {
      const { limits } = config;
      await crowd.start({ ...streamsOf(config), redisUrl: engine.redisUrl, gatewayUrl: engine.url, limits });
      sayWhere(engine, config, options);
      if (!options.quiet && !options.json) {
        const text = () => statusLine(engine.backend.stats() as Stats, crowd.figures(), engine.url);
        line = new StatusLine(process.stdout, text);
      }
      await signal.first;
    } finally {
      await crowd.stop();
      line?.stop();
      await engine.stop();
    }
    if (!options.quiet && !options.json) process.stdout.write('Stopped; every event was settled.\n');
    return 0;
  } finally {
    stopLog();
    signal.off();
  }
}

function demoOptions(given: Readonly<Record<string, unknown>>): DemoOptions {
  const songSeconds = Number(given['songSeconds'] ?? SONG_SECONDS);
  if (!(songSeconds >= SONG_SECONDS_MIN && songSeconds <= 3600)) {
    const range = `a number from ${SONG_SECONDS_MIN} to 3600`;
    throw new SubitoError('USAGE', `--song-seconds is ${given['songSeconds']}: it must be ${range}`);
  }
  return {
    listeners: Number(given['listeners'] ?? LISTENERS),
    songSeconds,
    port: given['port'] === undefined ? null : Number(given['port']),
    dir: join(String(given['data'] ?? './data'), 'demo'),
    quiet: given['quiet'] === true,
    json: given['json'] === true,
  };
}

/** Whatever the environment says of the rest holds: models.path, workers, limits. */
async function demoConfig({ port, dir }: DemoOptions): Promise<Config> {
  // The usual port makes plain `redis-cli` work. Where it is taken, any will do, or the one of a Redis left
  // over here.
  const redisPort = (await isFree(REDIS_PORT)) ? REDIS_PORT : 0;
  return loadConfig({
    overrides: {
      redis: { embedded: { port: redisPort, dir } },
      // JSON, so that redis-cli shows predictions that can be read.
      streams: [{ name: 'events', model: MODEL, encoding: 'json', predictions_max: PREDICTIONS_MAX }],
      gateway: { host: HOST, port: port ?? (await freePortFrom(PORT)) },
    },
  });
}

function streamsOf({ streams }: Config): { stream: string; predictions: string; deadletters: string } {
  const [{ name, predictions, deadletters }] = streams as [Config['streams'][number]];
  return { stream: name, predictions, deadletters };
}

async function start(config: Config, crowd: Crowd): Promise<Engine> {
  let engine: Engine;
  const more = {
    sections: { demo: () => crowd.figures() },
    routes: { '/demo/listeners': () => crowd.views() },
  };
  try {
    engine = await startEngine(config, more);
  } catch (error) {
    const code = error instanceof SubitoError ? error.code : '';
    if (code === 'REDIS_DIR_IN_USE') {
      throw new SubitoError('REDIS_DIR_IN_USE', (error as SubitoError).message, {
        cause: error,
        fix: 'stop the other demo, or give this one another --data directory',
      });
    }
    const { redis } = config;
    // Somebody took the usual port since it was looked at.
    if (code !== 'REDIS_PORT_BUSY' || redis.kind !== 'embedded' || redis.port === 0) throw error;
    return start({ ...config, redis: { ...redis, port: 0 } }, crowd);
  }
  if (engine.backend.model(MODEL) !== undefined) return engine;
  await engine.stop();
  const reason =
    engine.problems.find(({ model }) => model.split('@')[0] === MODEL)?.message ?? 'it is not there';
  throw new SubitoError('ENGINE_NO_MODEL', `the demo's model ${MODEL} is not served: ${reason}`);
}

function sayWhere(engine: Engine, config: Config, options: DemoOptions): void {
  const { url, redisUrl, problems } = engine;
  const { listeners, songSeconds } = options;
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ url, redis: redisUrl, listeners, problems })}\n`);
    return;
  }
  if (options.quiet) {
    process.stdout.write(`${url}\n`);
    return;
  }
  process.stdout.write(welcome({ url, redisUrl, listeners, songSeconds, ...streamsOf(config) }));
  if (options.port === null && config.gateway.port !== PORT) {
    process.stdout.write(`  (Port ${PORT} is taken by another program, so it is ${config.gateway.port}.)\n`);
  }
  for (const { model, message } of problems) process.stdout.write(`  Not served: ${model}: ${message}\n`);
}

/** The first free port; the wanted one when all are taken, whose error then says so. */
async function freePortFrom(wanted: number): Promise<number> {
  for (let port = wanted; port <= wanted + PORTS_MORE; port += 1) if (await isFree(port)) return port;
  return wanted;
}
