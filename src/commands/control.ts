/** The control connection of commands that look at the streams of an engine without being one. */
import { realpath } from 'node:fs/promises';
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
    const control = await connectControl({
      endpoint: parseEndpoint(`redis://127.0.0.1:${port}`),
      commandMsMax,
    });
    if (await serves(control, redis.dir)) return control;
    control.close();
  }
  throw new SubitoError('REDIS_UNREACHABLE', `no embedded Redis runs in ${redis.dir}`, {
    fix: 'start the engine first, in the same directory; or name its server with --redis URL',
  });
}

/** The port may have gone to somebody else's Redis, whose streams are none of ours. */
async function serves(control: Control, dir: string): Promise<boolean> {
  const reply = await control.call('CONFIG', 'GET', 'dir');
  // RESP2 gives a list, RESP3 a map.
  const pairs = Array.isArray(reply) ? reply : Object.entries(reply as object).flat();
  return pairs[1] === (await realpath(dir).catch(() => dir));
}
