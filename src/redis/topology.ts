/**
 * Which server serves a key, and how that is found out: the one server of `redis.url`, the master that
 * sentinels name, or the node of a cluster that has the key's slot. Hot sockets ask before every connect, so
 * a failover or a slot that moved asks no more of their owners than to give up a connection.
 */
import type { RedisConfig } from '../config.ts';
import { messageOf } from '../errors.ts';
import { ask } from './ask.ts';
import { parseEndpoint, type RedisEndpoint, reachedAt, spell } from './endpoint.ts';
import { SlotMap } from './slots.ts';
import type { Where } from './socket.ts';

export interface Topology {
  /** For people: the servers that are configured. */
  readonly name: string;
  /** Asks where the key is served now. Rejects when nobody can say. */
  locate(key: string): Promise<RedisEndpoint>;
  /** For a connection that serves this key: constant where nothing moves. */
  where(key: string): Where;
  /** Of a cluster. Null: one server at a time serves all keys. */
  readonly slots: SlotMap | null;
}

/** One that does not answer within this time is passed over for the next. */
const ASK_MS_MAX = 1_500;
const SENTINEL_PORT = 26_379;

/** Reads the PEM files that the configuration names; connects to nothing yet. */
export function topologyOf(redis: Exclude<RedisConfig, { readonly kind: 'embedded' }>): Topology {
  if (redis.kind === 'url') return plainTopology(parseEndpoint(redis.url, redis));
  const servers = redis.urls.map((url) => parseEndpoint(url, redis));
  if (redis.kind === 'cluster') return clusterTopology(servers);
  const { sentinelUsername = '', sentinelPassword = '' } = redis;
  const sentinels = servers.map((server, i) => ({
    ...server,
    port: Number(new URL(redis.urls[i] as string).port || SENTINEL_PORT),
    username: sentinelUsername,
    password: sentinelPassword,
    db: 0,
  }));
  return sentinelTopology(sentinels, redis.master, servers[0] as RedisEndpoint);
}

export function plainTopology(endpoint: RedisEndpoint): Topology {
  return {
    name: spell(endpoint),
    locate: async () => endpoint,
    where: () => endpoint,
    slots: null,
  };
}

/** The servers behind the sentinels are reached like `server`, at another host and port. */
function sentinelTopology(
  sentinels: readonly RedisEndpoint[],
  master: string,
  server: RedisEndpoint,
): Topology {
  // The one that answered last is asked first.
  let ordered = [...sentinels];
  let asking: Promise<RedisEndpoint> | null = null;
  const findMaster = async (): Promise<RedisEndpoint> => {
    const reasons: string[] = [];
    for (const sentinel of ordered) {
      try {
        const found = await masterBy(sentinel, master, server);
        ordered = [sentinel, ...ordered.filter((other) => other !== sentinel)];
        return found;
      } catch (error) {
        reasons.push(`${spell(sentinel)}: ${messageOf(error)}`);
      }
    }
    throw new Error(`no sentinel leads to the master ${master}: ${reasons.join('; ')}`);
  };
  const locate = () => {
    asking ??= findMaster().finally(() => {
      asking = null;
    });
    return asking;
  };
  return { name: `sentinels ${sentinels.map(spell).join(', ')}`, locate, where: () => locate, slots: null };
}

/** What one sentinel says, checked: just after a failover it may still name the old master. */
async function masterBy(
  sentinel: RedisEndpoint,
  name: string,
  server: RedisEndpoint,
): Promise<RedisEndpoint> {
  const question = [['SENTINEL', 'GET-MASTER-ADDR-BY-NAME', name]];
  const [address] = await ask(sentinel, question, ASK_MS_MAX);
  if (!Array.isArray(address)) throw new Error(`knows no master of this name`);
  const [host, port] = address;
  const found = reachedAt(server, String(host), Number(port));
  const [role] = await ask(found, [['ROLE']], ASK_MS_MAX).catch((error: unknown) => {
    throw new Error(`names ${spell(found)}: ${messageOf(error)}`);
  });
  if (Array.isArray(role) && role[0] === 'master') return found;
  throw new Error(`names ${spell(found)}, which is no master now`);
}

function clusterTopology(seeds: readonly RedisEndpoint[]): Topology {
  const slots = new SlotMap(seeds);
  const locate = async (key: string) => {
    // Whoever asks has just lost the node that it knew, or never knew one.
    await slots.refresh();
    return slots.masterOf(key);
  };
  return { name: `cluster ${seeds.map(spell).join(', ')}`, locate, where: (key) => () => locate(key), slots };
}
