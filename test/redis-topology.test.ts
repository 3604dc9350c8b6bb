// Who serves a key: asked of real clusters and real Sentinels.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { RedisConfig } from '../src/config.ts';
import { freePort } from '../src/ports.ts';
import { type Control, connectControl } from '../src/redis/control.ts';
import { parseEndpoint, reachedAt, spell } from '../src/redis/endpoint.ts';
import { slotOf } from '../src/redis/slots.ts';
import { StreamTail } from '../src/redis/stream-tail.ts';
import { topologyOf } from '../src/redis/topology.ts';
import { startCluster, type TestCluster, type TestNode } from './support/cluster.ts';
import { until } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';
import { MASTER_NAME, Sentinel } from './support/sentinel.ts';

// Servers agree among themselves in seconds; a busy machine takes its time.
vi.setConfig({ testTimeout: 60_000, hookTimeout: 60_000 });

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function cluster(replicas = 0): Promise<TestCluster> {
  const started = await startCluster({ replicas });
  cleanups.push(() => started.stop());
  return started;
}

async function redis(options = {}): Promise<TestRedis> {
  const started = await startRedis(options);
  cleanups.push(() => started.stop());
  return started;
}

async function sentinel(master: TestRedis, lines: readonly string[] = []): Promise<Sentinel> {
  const started = new Sentinel(await freePort(), master, lines);
  cleanups.push(() => started.stop());
  const answers = () => started.client.ping().catch((error: Error) => /NOAUTH/.test(error.message));
  await until('the sentinel answers', answers);
  return started;
}

async function control(config: Exclude<RedisConfig, { kind: 'embedded' }>): Promise<Control> {
  const connected = await connectControl({ topology: topologyOf(config), commandMsMax: 3000 });
  cleanups.push(() => connected.close());
  return connected;
}

const behind = (sentinels: readonly Sentinel[], more = {}): Extract<RedisConfig, { kind: 'sentinel' }> => ({
  kind: 'sentinel',
  urls: sentinels.map(({ port }) => `redis://127.0.0.1:${port}`),
  master: MASTER_NAME,
  ...more,
});

test('a single server is a constant', async () => {
  const topology = topologyOf({ kind: 'url', url: 'redis://u@h:7/3', password: 'pw' });
  expect(topology.where('a')).toBe(topology.where('b'));
  expect(topology.where('a')).toMatchObject({ host: 'h', port: 7, db: 3, username: 'u', password: 'pw' });
  expect(await topology.locate('a')).toBe(topology.where('a'));
});

test('another server is reached like the one that is known; a certificate is asked for its own name', () => {
  const endpoint = parseEndpoint('rediss://a.example:7/2', { username: 'u', password: 'pw', tls: {} });
  expect(reachedAt(endpoint, 'b.example', 8)).toMatchObject({
    ...{ host: 'b.example', port: 8, db: 2, username: 'u', password: 'pw' },
    tls: { servername: 'b.example' },
  });
  expect(reachedAt(endpoint, '10.0.0.1', 8).tls?.servername).toBe('');
  const named = parseEndpoint('rediss://a.example:7', { tls: { servername: 'redis' } });
  expect(reachedAt(named, '10.0.0.1', 8).tls?.servername).toBe('redis');
  expect(spell(reachedAt(endpoint, '::1', 8))).toBe('[::1]:8');
});

describe('a cluster', () => {
  test('each key at the node of its slot, whichever node is asked that can know', async () => {
    const { nodes, urls } = await cluster();
    const [first] = nodes as [TestNode];
    for (const key of ['a', 'events:{0}', 'x{}y', 'a{}{b}', '{a}{b}', 'ü', '{x', 'x}', '{ü}', '']) {
      expect([key, slotOf(key)]).toEqual([key, await first.client.cluster('KEYSLOT', key)]);
    }
    // One is not there, one belongs to no cluster yet and serves nothing.
    const lonely = await redis({
      config: { 'cluster-enabled': 'yes', 'cluster-port': String(await freePort()) },
    });
    const dead = `redis://127.0.0.1:${await freePort()}`;
    const topology = topologyOf({ kind: 'cluster', urls: [dead, lonely.url, urls[2] as string] });
    for (const { redis: server, client } of nodes) {
      const { port } = server;
      const key = ['a', 'b', 'c', 'd', 'e', 'f'].find((name) => topologyPort(nodes, name) === port) ?? '';
      expect((await topology.locate(key)).port).toBe(port);
      await expect(client.set(key, 'x')).resolves.toBe('OK');
    }
    const nobody = topologyOf({ kind: 'cluster', urls: [dead] });
    await expect(nobody.locate('a')).rejects.toThrow(/ECONNREFUSED/);
  });

  test('a waiting read is ended at the node where it waits', async () => {
    const started = await cluster();
    const asked = await control({ kind: 'cluster', urls: started.urls });
    for (const key of ['a', 'b', 'c', 'd', 'e', 'f']) {
      const waiting = (await started.masterOf(key)).redis.connect();
      const id = String(await waiting.client('ID'));
      const answer = waiting.xread('BLOCK', 0, 'STREAMS', key, '$');
      await until('it waits', async () => {
        asked.unblock(id, key);
        return Promise.race([answer.then(() => true), sleep(50, false)]);
      });
      expect(await answer).toBe(null);
    }
  });

  test('a slot that moved: the next look finds it, and who was refused follows', async () => {
    const three = await cluster();
    const { nodes } = three;
    const topology = topologyOf({ kind: 'cluster', urls: three.urls });
    const home = await three.masterOf('s');
    const away = nodes.find((node) => node !== home) as TestNode;
    expect((await topology.locate('s')).port).toBe(home.redis.port);
    const asked = await control({ kind: 'cluster', urls: three.urls });
    await asked.append('s', ['n', '1']);
    const seen: string[] = [];
    const refused: string[] = [];
    const tail = new StreamTail({
      endpoint: topology.where('s'),
      name: 'subito:test',
      stream: 's',
      fields: ['n'],
      onEntry: (entry) => seen.push(entry.text(0) as string),
      onRefused: (message) => refused.push(message.split(' ')[0] as string),
    });
    cleanups.push(() => tail.close());
    tail.follow('0');
    tail.open();
    await until('the first', () => seen.length === 1);
    let second = '';
    await three.move('s', away, async () => {
      // Nobody has the key and the slot now; the control connection waits until somebody has.
      void asked.append('s', ['n', '2']).then((id) => {
        second = id;
      });
      await sleep(300);
      expect(second).toBe('');
    });
    await until('the second', () => second !== '');
    expect((await topology.locate('s')).port).toBe(away.redis.port);
    await asked.append('s', ['n', '3']);
    await until('all three', () => seen.length === 3);
    expect(seen).toEqual(['1', '2', '3']);
    expect(refused.at(-1)).toBe('MOVED');
    // What was refused has not been carried out, and so was asked for again: once.
    expect(await away.client.xlen('s')).toBe(3);
  });

  test('a replica that took over is found, by the control connection too', async () => {
    const all = await cluster(3);
    const [victim] = all.nodes as [TestNode];
    const key = ['a', 'b', 'c', 'd', 'e', 'f'].find(
      (name) => topologyPort(all.nodes, name) === victim.redis.port,
    ) as string;
    const topology = topologyOf({ kind: 'cluster', urls: all.urls });
    const asked = await control({ kind: 'cluster', urls: all.urls });
    await asked.append(key, ['n', '1']);
    await victim.redis.kill();
    await expect(asked.append(key, ['n', '2'])).rejects.toMatchObject({ code: 'APPEND_FAILED' });
    const found = async () => (await topology.locate(key).catch(() => null))?.port ?? victim.redis.port;
    await until('another master', async () => (await found()) !== victim.redis.port, 15_000);
    await until('appended', () => asked.append(key, ['n', '3']).catch(() => ''));
    expect(await asked.lastId(key)).not.toBe('0');
  });
});

/** Slots are shared evenly, in the order of the nodes. */
function topologyPort(nodes: readonly TestNode[], key: string): number | undefined {
  return nodes[Math.floor((slotOf(key) * 3) / 16_384)]?.redis.port;
}

describe('sentinels', () => {
  test('the master that a sentinel names, and that says so itself; no silent sentinel', async () => {
    const server = await redis();
    const [frozen, awake] = [await sentinel(server), await sentinel(server)];
    frozen.signal('SIGSTOP');
    const topology = topologyOf(behind([frozen, awake]));
    expect((await topology.locate('a')).port).toBe(server.port);
    // The one that answered is asked first from then on.
    const started = performance.now();
    expect((await topology.locate('b')).port).toBe(server.port);
    expect(performance.now() - started).toBeLessThan(1000);
    expect(topology.where('a')).toBe(topology.where('b'));
    const other = await redis();
    await server.connect().replicaof('127.0.0.1', other.port);
    await expect(topology.locate('a')).rejects.toThrow(/names 127\.0\.0\.1:\d+, which is no master now/);
  });

  test('credentials of their own, a database, and reasons', async () => {
    const server = await redis({ requirepass: 'pw' });
    const lines = ['requirepass spw', `sentinel auth-pass ${MASTER_NAME} pw`];
    const guard = await sentinel(server, lines);
    const config = { ...behind([guard]), password: 'pw', sentinelPassword: 'spw' };
    const [url] = config.urls;
    const asked = await control({ ...config, urls: [`${url}/3`] });
    await asked.append('a', ['x', 'y']);
    const client = server.connect();
    await client.select(3);
    expect(await client.xlen('a')).toBe(1);
    const reason = async (more: object) => {
      const error = await control({ ...config, ...more }).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: 'REDIS_UNREACHABLE' });
      return (error as Error).message;
    };
    expect(await reason({ sentinelPassword: 'no' })).toMatch(/sentinels 127.*WRONGPASS/);
    expect(await reason({ password: 'no' })).toMatch(/names 127.*WRONGPASS/);
    expect(await reason({ master: 'nobody' })).toMatch(/master nobody: .*knows no master of this name/);
    expect(await reason({ urls: [server.url.replace(/:pw@/, '')] })).toMatch(/NOAUTH|WRONGPASS/);
  });

  test('the control connection asks again when the master went silent', async () => {
    const [old, next] = [await redis(), await redis()];
    const guard = await sentinel(old);
    const asked = await control({ ...behind([guard]) });
    await asked.append('a', ['x', '1']);
    process.kill(old.pid, 'SIGSTOP');
    cleanups.push(() => process.kill(old.pid, 'SIGCONT'));
    await expect(asked.append('a', ['x', '2'])).rejects.toMatchObject({ code: 'APPEND_FAILED' });
    await guard.client.call('SENTINEL', 'REMOVE', MASTER_NAME);
    await guard.client.call('SENTINEL', 'MONITOR', MASTER_NAME, '127.0.0.1', next.port, 1);
    await until('the new one is used', () => asked.append('a', ['x', '3']).catch(() => ''));
    expect(await next.connect().xlen('a')).toBe(1);
  });
});

test('a server of another kind is named', async () => {
  const server = await redis();
  const node = await redis({
    config: { 'cluster-enabled': 'yes', 'cluster-port': String(await freePort()) },
  });
  const guard = await sentinel(server);
  const asSingle = (to: string) => control({ kind: 'url', url: to });
  await expect(asSingle(node.url)).rejects.toMatchObject({
    code: 'REDIS_MODE',
    message: expect.stringContaining('runs as cluster, not as standalone'),
  });
  await expect(asSingle(`redis://127.0.0.1:${guard.port}`)).rejects.toMatchObject({ code: 'REDIS_MODE' });
  await expect(control({ kind: 'cluster', urls: [server.url] })).rejects.toMatchObject({
    code: 'REDIS_UNREACHABLE',
    message: expect.stringContaining('cluster support disabled'),
  });
});
