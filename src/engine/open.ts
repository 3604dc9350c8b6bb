/** What the engine opens towards the outside: Redis, and the gateway. */
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { nowMs } from '../clock.ts';
import type { Config } from '../config.ts';
import type { EngineOptions } from '../engine.ts';
import type { Backend } from '../gateway/backend.ts';
import { type Gateway, startGateway } from '../gateway/server.ts';
import { startEmbedded } from '../redis/embedded.ts';
import { parseEndpoint } from '../redis/endpoint.ts';
import { plainTopology, type Topology, topologyOf } from '../redis/topology.ts';
import type { Parts } from './parts.ts';

export async function openRedis(
  { redis }: Config,
  { signal }: EngineOptions,
  parts: Parts,
): Promise<{ topology: Topology; redisUrl: string }> {
  if (redis.kind !== 'embedded') {
    return { topology: topologyOf(redis), redisUrl: redis.kind === 'url' ? redis.url : redis.urls.join(',') };
  }
  const starting = startEmbedded({ ...redis, signal });
  // Before it runs: one that is still starting must not be left behind either.
  parts.add(starting, async (started) => (await started.catch(() => null))?.stop());
  const server = await starting;
  return { topology: plainTopology(parseEndpoint(server.url)), redisUrl: server.url };
}

export function openGateway(
  config: Config,
  backend: Backend,
  { routes = {} }: EngineOptions,
): Promise<Gateway> {
  const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
  return startGateway({
    ...config.gateway,
    limits: config.limits,
    version: packageVersion(),
    backend,
    staticDir: here('../console/'),
    mounts: { '/vendor/uplot/': dirname(fileURLToPath(import.meta.resolve('uplot'))) },
    routes,
    now: nowMs,
  });
}

function packageVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
