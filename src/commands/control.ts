/** The control connection of commands that look at the streams of an engine without being one. */
import { type Config, loadConfig } from '../config.ts';
import { SubitoError } from '../errors.ts';
import { type Control, connectControl } from '../redis/control.ts';
import { embeddedPort } from '../redis/embedded.ts';
import { parseEndpoint } from '../redis/endpoint.ts';
import { topologyOf } from '../redis/topology.ts';

/** What such a command is told: `--config` and `--redis`. */
export function operatorConfig(given: Readonly<Record<string, unknown>>): Config {
  const { config, redis } = given;
  return loadConfig({
    file: config === undefined ? undefined : String(config),
    overrides: redis === undefined ? {} : { redis: { url: String(redis) } },
  });
}

/** An embedded server is found while its engine runs; it is not started. Rejects with REDIS_UNREACHABLE. */
export async function openControl({ redis, limits }: Config): Promise<Control> {
  const { redisCommandMsMax: commandMsMax } = limits;
  if (redis.kind !== 'embedded') return connectControl({ topology: topologyOf(redis), commandMsMax });
  const port = redis.port || (await embeddedPort(redis.dir));
  if (port !== null) {
    return connectControl({ endpoint: parseEndpoint(`redis://127.0.0.1:${port}`), commandMsMax });
  }
  throw new SubitoError('REDIS_UNREACHABLE', `no embedded Redis has run in ${redis.dir}`, {
    fix: 'start the engine first, in the same directory; or name its server with --redis URL',
  });
}
