// A real Redis Cluster for a test: masters, replicas, slots moved between them, masters killed. Formed by
// commands over ioredis, for redis-cli may be missing.
import { Cluster, type Redis } from 'ioredis';
import { freePort } from '../../src/ports.ts';
import { slotOf } from '../../src/redis/slots.ts';
import { until } from './core.ts';
import { startRedis, type TestRedis, type TestRedisOptions } from './redis.ts';

const SLOTS = 16_384;
const HOST = '127.0.0.1';

export interface TestNode {
  readonly redis: TestRedis;
  readonly id: string;
  /** A connection to this node alone. */
  readonly client: Redis;
}

export class TestCluster {
  readonly nodes: readonly TestNode[];
  readonly #clients: Cluster[] = [];

  constructor(nodes: readonly TestNode[]) {
    this.nodes = nodes;
  }

  /** For `redis.cluster` of the configuration. */
  get urls(): string[] {
    return this.nodes.map(({ redis }) => `redis://${HOST}:${redis.port}`);
  }

  /** A client of the whole cluster, closed by stop(). */
  connect(): Cluster {
    const seeds = this.nodes.map(({ redis }) => ({ host: HOST, port: redis.port }));
    const cluster = new Cluster(seeds, { slotsRefreshInterval: 500, redisOptions: { connectTimeout: 1000 } });
    cluster.on('error', () => {});
    this.#clients.push(cluster);
    return cluster;
  }

  /** The master that serves the key, in the view of this node. */
  async masterOf(key: string, seenBy = this.nodes[0] as TestNode): Promise<TestNode> {
    const slot = slotOf(key);
    const ranges = await seenBy.client.cluster('SLOTS');
    const range = ranges.find(([first, last]) => first <= slot && slot <= last);
    const node = this.nodes.find(({ id }) => id === range?.[2]?.[2]);
    if (node === undefined) throw new Error(`nobody serves slot ${slot}`);
    return node;
  }

  async replicaOf(master: TestNode): Promise<TestNode> {
    const [replica] = (await master.client.cluster('REPLICAS', master.id)) as string[];
    const node = this.nodes.find(({ id }) => replica?.startsWith(id));
    if (node === undefined) throw new Error('it has no replica');
    return node;
  }

  /**
   * Moves a key's slot with all that is in it, as redis-cli's reshard does. `halfWay` runs when the key has
   * gone and the slot has not.
   */
  async move(key: string, to: TestNode, halfWay?: () => Promise<unknown>): Promise<void> {
    const slot = slotOf(key);
    const from = await this.masterOf(key);
    await to.client.cluster('SETSLOT', slot, 'IMPORTING', from.id);
    await from.client.cluster('SETSLOT', slot, 'MIGRATING', to.id);
    const pass = ['MIGRATE', HOST, to.redis.port, '', 0, 5000, 'KEYS'] as const;
    const [command, ...args] = pass;
    // The last keys first: a partition is then in two places for a while.
    await from.client.call(command, ...args, key);
    await halfWay?.();
    for (;;) {
      const keys = (await from.client.cluster('GETKEYSINSLOT', slot, 100)) as string[];
      if (keys.length === 0) break;
      await from.client.call(command, ...args, ...keys);
    }
    for (const node of [to, from, ...this.nodes]) {
      // A replica hears of it from its master.
      await node.client.cluster('SETSLOT', slot, 'NODE', to.id).catch(() => {});
    }
  }

  async stop(): Promise<void> {
    for (const client of this.#clients) client.disconnect();
    await Promise.all(this.nodes.map(({ redis }) => redis.stop()));
  }
}

export interface TestClusterOptions {
  /** How many of the three masters have a replica; these come behind the masters in `nodes`. */
  readonly replicas?: number;
  readonly redis?: TestRedisOptions;
  /** More of redis.conf, made for each node. */
  readonly config?: () => Promise<Readonly<Record<string, string>>>;
}

/** Three masters that share the slots evenly, and replicas of the first ones. */
export async function startCluster(options: TestClusterOptions = {}): Promise<TestCluster> {
  const { replicas = 0, redis = {} } = options;
  const masters = 3;
  const starting = Array.from({ length: masters + replicas }, async () => {
    const config: Record<string, string> & { readonly 'cluster-port': string } = {
      'cluster-enabled': 'yes',
      'cluster-node-timeout': '1000',
      'cluster-port': String(await freePort()),
      'repl-diskless-sync-delay': '0',
      ...redis.config,
      ...(await options.config?.()),
    };
    const server = await startRedis({ ...redis, config });
    const client = server.connect();
    return {
      redis: server,
      client,
      id: (await client.cluster('MYID')) as string,
      bus: config['cluster-port'],
      config,
    };
  });
  const started = await Promise.allSettled(starting);
  const nodes = started.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []));
  const cluster = new TestCluster(nodes);
  try {
    for (const each of started) if (each.status === 'rejected') throw each.reason;
    for (const [i, { client }] of nodes.entries()) {
      await client.cluster('SET-CONFIG-EPOCH', i + 1);
      if (i >= masters) continue;
      const [first, next] = [i, i + 1].map((n) => Math.round((n * SLOTS) / masters)) as [number, number];
      await client.cluster('ADDSLOTSRANGE', first, next - 1);
    }
    const [first, ...others] = nodes;
    for (const { redis: other, bus, config } of others) {
      // Where the nodes talk TLS to each other, that port is what they know of each other.
      const port = config['tls-cluster'] === 'yes' ? config['tls-port'] : other.port;
      await first?.client.call('CLUSTER', 'MEET', HOST, String(port), bus);
    }
    await until('all nodes know each other', async () => {
      const known = nodes.map(
        async ({ client }) =>
          String(await client.cluster('NODES'))
            .trim()
            .split('\n').length,
      );
      return (await Promise.all(known)).every((count) => count === nodes.length);
    });
    for (const [i, { client }] of nodes.slice(masters).entries()) {
      await client.cluster('REPLICATE', nodes[i]?.id as string);
    }
    await until('the cluster is well', async () => {
      const infos = await Promise.all(nodes.map(({ client }) => client.cluster('INFO')));
      return infos.every((info) => String(info).includes('cluster_state:ok'));
    });
    await until('the replicas are in step', async () => {
      const infos = await Promise.all(nodes.slice(masters).map(({ client }) => client.info('replication')));
      return infos.every((info) => info.includes('master_link_status:up'));
    });
    return cluster;
  } catch (error) {
    await cluster.stop();
    throw error;
  }
}
