/**
 * The engine for `ledger.ts`: as `subito serve` starts it, with or without the upkeep of its ledger.
 *
 * Arguments: the Redis URL, `on` or `off`.
 */
import { loadConfig } from '../../src/config.ts';
import { startEngine } from '../../src/engine.ts';

const [redisUrl, upkeep] = process.argv.slice(2);
const config = loadConfig({
  env: {},
  overrides: {
    redis: { url: redisUrl },
    streams: [{ name: 'events', model: 'mlp', deadline_ms: 3_600_000, events_keep_ms: 500 }],
    models: { path: new URL('../models', import.meta.url).pathname },
    workers: { max: 1 },
    gateway: { port: 0 },
    log: { level: 'warn' },
  },
});
const engine = await startEngine(config, { upkeep: upkeep !== 'off' });
process.once('SIGTERM', () => void engine.stop());
process.stdout.write('ready\n');
