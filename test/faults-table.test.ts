// Every row of src/redis/faults.ts as it really happens: a real engine on real servers, events coming in
// before, during and after. Whatever Redis answers, each event ends in one prediction: none is lost, given up
// or predicted twice, the operator is told what Redis said, and readiness too while it lasts.
// tidy: one situation after another, each a few lines; a reader looks for one of them.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Cluster, Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { type Engine, startEngine } from '../src/engine.ts';
import { slotOf } from '../src/redis/slots.ts';
import { startCluster, type TestCluster, type TestNode } from './support/cluster.ts';
import { collectNotices, Relay, until } from './support/core.ts';
import { MLP, modelsDir } from './support/engine.ts';
import { Flow } from './support/flow.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const EVENT = ['key', 'u', 'features', Buffer.alloc(256)];
const ONE = { name: 'events', group: 'subito', predictions: 'predictions', deadletters: 'deadletters' };
/** None of this counts against an event: what is given out again to the same consumer is no new delivery. */
const DELIVERIES_MAX = 1;

const notices = collectNotices();
afterAll(() => notices.stop());

const models = modelsDir({ mlp: { from: MLP } });

function start(redis: object, streams = [{ name: 'events', partitions: 1 }]): Promise<Engine> {
  const limits = { infer_ms_max: 1000, claim_idle_ms: 2000, read_block_ms: 100, redis_command_ms_max: 1000 };
  const parts = { gateway: { port: 0 }, models: { path: models }, workers: { max: 1 } };
  return startEngine(loadConfig({ env: {}, overrides: { redis, streams, limits, ...parts } }));
}

interface Situation {
  /** What the notice must name, by its code or Redis' text; null where none is due. */
  readonly prefix: string | null;
  /**
   * What readiness has to say until it ends: `off` where no connection is let in that could say more, `any`
   * where it ends by itself.
   */
  readonly ready: 'names it' | 'off' | 'any';
  readonly begin: () => Promise<unknown>;
  readonly end: () => Promise<unknown>;
}

/** Takes an engine through a situation. */
async function takeThrough(engine: Engine, flow: Flow, situation: Situation): Promise<void> {
  const { prefix, ready, begin, end } = situation;
  const reasons = () => engine.backend.health().reasons.join('; ');
  await until('the engine is ready', () => engine.backend.health().ready);
  flow.start();
  await flow.flows();
  notices.all.length = 0;
  flow.deliveries = 0;
  await begin();
  if (prefix !== null) {
    await until(`a notice names ${prefix}`, () =>
      notices.all.some(({ code, message }) => `${code} ${message}`.includes(prefix)),
    );
    if (ready === 'names it') await until(`readiness names ${prefix}`, () => reasons().includes(prefix));
  }
  if (ready === 'off') await until('readiness is off', () => reasons().includes('not connected'));
  // Long enough to be asked again more than once.
  await sleep(ready === 'any' ? 0 : 300);
  await flow.lookAtDeliveries().catch(() => {});
  await end();
  await flow.flows();
  await until('the engine is ready again', () => engine.backend.health().ready);
  await flow.stop();
  await flow.lookAtDeliveries();
  await flow.settled();
  expect(flow.deliveries).toBeLessThanOrEqual(DELIVERIES_MAX);
}

describe('one server', () => {
  /** Grows before a restart. */
  const config: Record<string, string> = {};
  const dir = mkdtempSync(join(tmpdir(), 'subito-acl-'));
  let server: TestRedis;
  let admin: Redis;
  let engine: Engine;
  let flow: Flow;
  let restarted: Promise<void> = Promise.resolve();

  beforeAll(async () => {
    // The engine is the default user, whom the tests forbid this and that; they speak as somebody else.
    config['aclfile'] = join(dir, 'users.acl');
    writeFileSync(config['aclfile'], 'user default on nopass ~* &* +@all\nuser admin on >a ~* &* +@all\n');
    config['repl-diskless-sync-delay'] = '0';
    server = await startRedis({ appendonly: true, config });
    const soon = { retryStrategy: () => 20, maxLoadingRetryTime: 50 };
    admin = new Redis({ port: server.port, username: 'admin', password: 'a', ...soon });
    admin.on('error', () => undefined);
    flow = new Flow(admin, [ONE], EVENT);
    engine = await start({ url: server.url });
  });
  // One situation that went wrong must not take the others along.
  afterEach(async ({ task }) => {
    await flow.stop();
    if (task.result?.state !== 'fail') return;
    await Promise.race([engine.stop().catch(() => {}), sleep(1000)]);
    await server.kill();
    await server.restart();
    await until('it is back', () => admin.ping().catch(() => ''));
    await admin.flushall();
    flow = new Flow(admin, [ONE], EVENT);
    engine = await start({ url: server.url });
  });
  afterAll(async () => {
    admin.disconnect();
    await engine.stop();
    await restarted;
    await server.stop();
    rmSync(dir, { recursive: true });
  });
  const passes = (situation: Situation) => takeThrough(engine, flow, situation);

  const say = async (...commands: readonly string[][]) => {
    for (const [name = '', ...args] of commands) await admin.call(name, ...args);
  };
  const together = async (commands: readonly string[][]) => {
    const all = admin.multi();
    for (const [name = '', ...args] of commands) all.call(name, ...args);
    await all.exec();
  };
  const set = (name: string, value: string) => ['CONFIG', 'SET', name, value];
  const list = async () => String(await admin.call('CLIENT', 'LIST'));
  /** The engine's connections by name. */
  const connections = async () => {
    const lines = (await list()).split('\n');
    const found = lines.map((line) => /^id=(\d+) .* name=(subito:\S+)/.exec(line));
    return found.flatMap((match) => (match === null ? [] : [{ id: match[1]!, name: match[2]! }]));
  };
  const killAll = async () => {
    for (const { id } of await connections()) await admin.call('CLIENT', 'KILL', 'ID', id);
  };
  /** Events that are on their way when it happens. */
  const with50 = (...commands: readonly string[][]) => flow.sendWith(50, commands);

  test('LOADING: the server starts again and needs its time', async () => {
    // Each key takes a millisecond to load.
    const fill = Array.from({ length: 1500 }, (_, i) => `fill:${i}`);
    await admin.mset(...fill.flatMap((key) => [key, '']));
    Object.assign(config, { 'key-load-delay': '1000', 'loading-process-events-interval-bytes': '1024' });
    await passes({
      prefix: 'LOADING',
      ready: 'off',
      async begin() {
        await say(['BGREWRITEAOF']);
        const persistence = () => admin.info('persistence');
        await until('keys are where they are slow', async () => {
          return (await persistence()).includes('aof_rewrite_in_progress:0');
        });
        await with50();
        await server.kill();
        // A client that is told how long it will take waits for longer.
        restarted = server.restart().catch(() => {});
      },
      async end() {
        await until('it has loaded', () => admin.ping().catch(() => ''));
        // Its heartbeats are due each second, whatever Redis thinks how long it would take.
        const works = /name=subito:control .* cmd=(?!info|hello|auth|client)/;
        await until('the control connection works', async () => works.test(await list()), 5000);
      },
    });
    await admin.del(...fill);
  });

  const moveAside = (key: string) => [
    ['RENAME', key, 'aside'],
    ['SET', key, 'in the way'],
  ];
  const moveBack = (key: string) => [
    ['DEL', key],
    ['RENAME', 'aside', key],
  ];
  const forbid = (...rules: string[]) => ['ACL', 'SETUSER', 'default', ...rules];
  const users: readonly (readonly [string, string, string[][], string[][]])[] = [
    ['OOM', 'no memory left', [set('maxmemory', '1')], [set('maxmemory', '0')]],
    ['NOREPLICAS', 'too few', [set('min-replicas-to-write', '1')], [set('min-replicas-to-write', '0')]],
    ['WRONGTYPE', 'of the input', moveAside('events'), moveBack('events')],
    ['WRONGTYPE', 'of the predictions', moveAside('predictions'), moveBack('predictions')],
    ['NOPERM', 'to read', [forbid('-xreadgroup')], [forbid('+@all')]],
    ['NOPERM', 'to settle', [forbid('-evalsha')], [forbid('+@all')]],
    ['NOPERM', 'to some keys', [forbid('resetkeys', '~events', '~{events}*')], [forbid('~*')]],
    ["ERR The user executing the script can't", 'to acknowledge', [forbid('-xack')], [forbid('+@all')]],
    ["ERR The user executing the script can't", 'to append', [forbid('-xadd')], [forbid('+@all')]],
  ];
  test.each(users)('%s: %s', async (prefix, _, wrong, right) => {
    // Without memory no transaction is let in; two commands have to be one.
    const end = () => (right.length === 1 ? say(...right) : together(right));
    await passes({ prefix, ready: 'names it', begin: () => with50(...wrong), end });
  });

  test('MISCONF: a snapshot cannot be written', async () => {
    // A snapshot takes its place by a rename, and no file takes the place of a directory that is not empty.
    const inTheWay = join(server.dir, 'dump.rdb');
    await passes({
      prefix: 'MISCONF',
      ready: 'names it',
      async begin() {
        mkdirSync(join(inTheWay, 'x'), { recursive: true });
        await say(set('stop-writes-on-bgsave-error', 'no'), set('save', '3600 1'), ['BGSAVE']);
        const failed = async () => (await admin.info('persistence')).includes('rdb_last_bgsave_status:err');
        await until('it could not be saved', failed);
        await with50(set('stop-writes-on-bgsave-error', 'yes'));
      },
      async end() {
        rmSync(inTheWay, { recursive: true });
        await say(['BGSAVE']);
      },
    });
    await say(set('save', ''));
  });

  test('READONLY: it is a replica for a while', async () => {
    await passes({
      prefix: 'READONLY',
      ready: 'names it',
      begin: () => with50(['REPLICAOF', '127.0.0.1', '1']),
      end: () => say(['REPLICAOF', 'NO', 'ONE']),
    });
  });

  test('READONLY: its replica takes over, and gives back', async () => {
    const other = await startRedis({ config: { replicaof: `127.0.0.1 ${server.port}` } });
    const replica = other.connect();
    const synced = async (of: Redis) => (await of.info('replication')).includes('state=online,');
    await until('it has a replica', () => synced(admin));
    await passes({
      prefix: 'READONLY',
      ready: 'names it',
      begin: () => with50().then(() => say(['FAILOVER', 'TO', '127.0.0.1', String(other.port)])),
      async end() {
        await until('the other took over', () => synced(replica));
        await replica.call('FAILOVER', 'TO', '127.0.0.1', String(server.port));
        await until('and gave back', () => synced(admin));
      },
    });
    await other.stop();
  });

  test('MASTERDOWN: a replica that takes writes, and its master is gone', async () => {
    await say(set('replica-serve-stale-data', 'no'), set('replica-read-only', 'no'));
    await passes({
      prefix: 'MASTERDOWN',
      ready: 'names it',
      begin: () => with50(['REPLICAOF', '127.0.0.1', '1']),
      end: () => say(['REPLICAOF', 'NO', 'ONE']),
    });
  });

  test('BUSY: somebody runs a script for too long', async () => {
    await say(set('busy-reply-threshold', '20'));
    const other = server.connect();
    await passes({
      prefix: 'BUSY',
      ready: 'names it',
      async begin() {
        await with50();
        other.eval('while true do end', 0).catch(() => {});
      },
      async end() {
        await say(['SCRIPT', 'KILL']);
        await until('it has ended', () => admin.ping().catch(() => ''));
      },
    });
  });

  test('NOSCRIPT: the scripts are flushed', async () => {
    await passes({
      prefix: 'NOSCRIPT',
      ready: 'any',
      begin: () => with50(['SCRIPT', 'FLUSH']),
      end: async () => {},
    });
  });

  test('UNBLOCKED: the waiting read is ended', async () => {
    await passes({
      prefix: 'UNBLOCKED',
      ready: 'any',
      async begin() {
        await flow.stop();
        await flow.settled();
        const reader = async () => (await connections()).find(({ name }) => /reader/.test(name))?.id ?? '0';
        // It answers 0 between two reads.
        await until('it waited', async () => admin.call('CLIENT', 'UNBLOCK', await reader(), 'ERROR'));
        flow.start();
      },
      end: async () => {},
    });
  });

  test('NOGROUP: the group is destroyed', async () => {
    await passes({
      prefix: 'NOGROUP',
      ready: 'any',
      begin: () => with50(['XGROUP', 'DESTROY', 'events', 'subito']),
      end: async () => {},
    });
  });

  test('connection closed: each of its connections is killed', async () => {
    await until('it is connected', async () => (await connections()).length >= 3);
    const names = (await connections()).map(({ name }) => name);
    for (const name of names) {
      const before = (await connections()).find((one) => one.name === name)!.id;
      const isBack = async () => (await connections()).some((one) => one.name === name && one.id !== before);
      // Closed with bytes on their way it is "read ECONNRESET". ioredis says nothing.
      const prefix = name === 'subito:control' ? null : 'DISCONNECTED';
      const begin = async () => {
        await with50(['CLIENT', 'KILL', 'ID', before]);
        await until(`${name} is back`, isBack);
      };
      await passes({ prefix, ready: 'any', begin, end: async () => {} });
    }
  });

  test('NOAUTH: a password is set, and the connections end', async () => {
    await passes({
      prefix: 'NOAUTH',
      ready: 'off',
      async begin() {
        await with50(forbid('resetpass', '>secret'));
        await killAll();
      },
      end: () => say(forbid('nopass')),
    });
  });
});

describe('the way to the server', () => {
  const users = mkdtempSync(join(tmpdir(), 'subito-acl-'));
  let server: TestRedis;
  let admin: Redis;
  let relay: Relay;
  let engine: Engine;
  let flow: Flow;

  beforeAll(async () => {
    const aclfile = join(users, 'users.acl');
    writeFileSync(aclfile, 'user default on nopass ~* &* +@all\nuser engine on >one ~* &* +@all\n');
    server = await startRedis({ config: { aclfile } });
    admin = server.connect();
    relay = await Relay.to(server.port);
    engine = await start({ url: `redis://engine:one@127.0.0.1:${relay.port}` });
    flow = new Flow(admin, [ONE], EVENT);
  });
  afterEach(() => flow.stop());
  afterAll(async () => {
    await engine.stop();
    relay.close();
    await server.stop();
    rmSync(users, { recursive: true });
  });

  test('no answer: nothing passes, and no connection ends', async () => {
    await takeThrough(engine, flow, {
      prefix: 'no answer',
      ready: 'any',
      async begin() {
        await flow.sendWith(50, []);
        relay.silent = true;
      },
      async end() {
        relay.silent = false;
        // A connection that lost bytes never goes on after them.
        relay.cut();
      },
    });
  });

  test('connect ECONNREFUSED: nobody listens for a while', async () => {
    const { port } = relay;
    await takeThrough(engine, flow, {
      prefix: 'ECONNREFUSED',
      ready: 'off',
      async begin() {
        await flow.sendWith(50, []);
        relay.close();
      },
      end: async () => {
        relay = await Relay.to(server.port, port);
      },
    });
  });

  test('WRONGPASS: its password is another one', async () => {
    await takeThrough(engine, flow, {
      prefix: 'WRONGPASS',
      ready: 'off',
      async begin() {
        await flow.sendWith(50, [['ACL', 'SETUSER', 'engine', 'resetpass', '>two']]);
        relay.cut();
      },
      end: () => admin.call('ACL', 'SETUSER', 'engine', 'resetpass', '>one'),
    });
  });
});

describe('a cluster', () => {
  const streams = ['{0}', '{1}'].map((tag) => ({
    name: `events:${tag}`,
    group: 'subito',
    predictions: `predictions:${tag}`,
    deadletters: `deadletters:${tag}`,
  }));
  const key = 'events:{1}';
  const slot = slotOf(key);
  let cluster: TestCluster;
  let client: Cluster;
  let engine: Engine;
  let flow: Flow;

  beforeAll(async () => {
    cluster = await startCluster();
    client = cluster.connect();
    engine = await start({ cluster: cluster.urls }, [{ name: 'events', partitions: 2 }]);
    flow = new Flow(client, streams, EVENT);
  });
  afterEach(() => flow.stop());
  afterAll(async () => {
    await engine.stop();
    await cluster.stop();
  });

  /** Of the slot: the node that has it, and another. */
  const nodes = async () => {
    const here = await cluster.masterOf(key);
    return { here, there: cluster.nodes.find(({ id }) => id !== here.id) as TestNode };
  };

  test('CLUSTERDOWN: a slot is nobody’s', async () => {
    const { here } = await nodes();
    await takeThrough(engine, flow, {
      prefix: 'CLUSTERDOWN',
      ready: 'names it',
      begin: () => flow.sendWith(50, []).then(() => here.client.cluster('DELSLOTS', slot)),
      end: () => here.client.cluster('ADDSLOTS', slot),
    });
  });

  test('TRYAGAIN: a slot is on its way, and of two keys one is not there', async () => {
    const { here, there } = await nodes();
    await takeThrough(engine, flow, {
      prefix: 'TRYAGAIN',
      ready: 'names it',
      async begin() {
        await flow.stop();
        await flow.settled();
        flow.forget();
        await here.client.del('predictions:{1}');
        await there.client.cluster('SETSLOT', slot, 'IMPORTING', here.id);
        await here.client.cluster('SETSLOT', slot, 'MIGRATING', there.id);
        await flow.sendWith(50, []);
        flow.start();
      },
      async end() {
        await here.client.cluster('SETSLOT', slot, 'STABLE');
        await there.client.cluster('SETSLOT', slot, 'STABLE');
      },
    });
  });

  test('ASK, then MOVED: a slot goes to another node', async () => {
    const { there } = await nodes();
    const asked = Promise.withResolvers<void>();
    let moved: Promise<void> = Promise.resolve();
    await takeThrough(engine, flow, {
      prefix: 'ASK',
      ready: 'names it',
      async begin() {
        await flow.sendWith(50, []);
        moved = cluster.move(key, there, () => asked.promise);
      },
      async end() {
        asked.resolve();
        await moved;
        await until('a notice names MOVED', () =>
          notices.all.some(({ message }) => message.includes('MOVED')),
        );
      },
    });
  });
});
