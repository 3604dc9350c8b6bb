// Redis that is killed, loses what it had confirmed, is replaced by its replica, or refuses to write.
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect } from 'vitest';
import { until } from '../support/core.ts';
import { Random } from '../support/random.ts';
import { startRedis } from '../support/redis.ts';
import { pick } from './harness/forms.ts';
import { FaultProxy } from './harness/proxy.ts';
import { scenario } from './harness/scenario.ts';
import { measuredPromise, printTimings } from './harness/timings.ts';
import type { World } from './harness/world.ts';

afterAll(printTimings);

const RATE = pick(400, 2000);
const FLOW_MS = 1000;
/** There is always something in hand. */
const slow = {
  model: 'trouble',
  data: () => ({ do: 'wait', ms: 5 }),
  limits: { batch_rows_max: 16 },
} as const;

function refuseEngines(world: World): void {
  for (const { proxy } of world.engines) proxy.refuse();
}

/** Load goes on and the engines are let in; how long until something is settled again. */
async function recover(world: World, what: string): Promise<void> {
  world.producer.start(RATE);
  for (const { proxy } of world.engines) proxy.accept();
  measuredPromise(`${what}: Redis back until events are settled again`, await world.flows(), FLOW_MS);
}

/** What was refused is settled once Redis is well, and not only when somebody claims it. */
async function settledOnce(world: World, what: string, heal: () => Promise<unknown>): Promise<void> {
  const ids = await world.pending();
  world.note(`${what}; ${ids.length} in hand`);
  await heal();
  const beginMs = performance.now();
  await world.settledIds(ids, 60_000);
  measuredPromise(`${what}, until what was refused is settled`, performance.now() - beginMs, 500);
}

/** Kills Redis under load and starts it again. Returns how many confirmed events are lost. */
async function crash(world: World, damage: () => void = () => {}): Promise<number> {
  world.note('SIGKILL of Redis');
  await world.redis.kill();
  refuseEngines(world);
  damage();
  await world.redis.restart();
  return world.recordSurvivors();
}

for (const appendfsync of ['always', 'everysec']) {
  const what = `SIGKILL of Redis, appendfsync ${appendfsync}`;
  scenario(what, { redis: { appendonly: true, config: { appendfsync } }, engines: 2 }, async (world) => {
    world.producer.start(RATE);
    for (let round = 0; round < pick(2, 6); round += 1) {
      await world.flows();
      await sleep(pick(400, 2500));
      const lost = await crash(world);
      if (appendfsync === 'always') expect(lost).toBe(0);
      await recover(world, what);
    }
    await sleep(300);
  });
}

scenario(
  'the end of the append-only file is missing after a crash',
  { redis: { appendonly: true } },
  async (world) => {
    const random = new Random(7);
    world.producer.start(RATE);
    let lost = 0;
    for (let round = 0; round < pick(3, 10); round += 1) {
      await world.flows();
      await sleep(pick(300, 800));
      lost += await crash(world, () => {
        const dir = join(world.redis.dir, 'appendonlydir');
        const file = join(dir, readdirSync(dir).find((name) => name.endsWith('.incr.aof')) as string);
        const bytes = random.int(1, 60_000);
        world.note(`${bytes} bytes cut off`);
        truncateSync(file, Math.max(0, statSync(file).size - bytes));
      });
      // Where the end was cut off within a transaction, Redis forgets the beginning of that transaction but
      // leaves it in the file (seen with 7.0.15): the next start would carry it out together with what came
      // since. A new file is what an operator needs too.
      await world.client.bgrewriteaof();
      await until('the file is written anew', async () => {
        const info = await world.client.info('persistence');
        return info.includes('aof_rewrite_in_progress:0') && info.includes('aof_rewrite_scheduled:0');
      });
      await recover(world, 'truncated append-only file');
    }
    expect(lost).toBeGreaterThan(0);
    await sleep(300);
  },
);

scenario('a replica that lags behind is promoted', { engines: 2 }, async (world) => {
  const replica = await startRedis();
  world.onClose(() => replica.stop());
  const link = await FaultProxy.to(world.redis.port);
  world.onClose(() => link.close());
  const reader = replica.connect();
  await reader.call('REPLICAOF', '127.0.0.1', String(link.port));
  await until('the replica follows', async () =>
    (await reader.info('replication')).includes('master_link_status:up'),
  );
  world.producer.start(RATE);
  await world.flows();
  await sleep(500);
  world.note('the replica stops receiving');
  link.silence('down');
  await sleep(pick(300, 1000));
  await world.redis.kill();
  refuseEngines(world);
  await reader.call('REPLICAOF', 'NO', 'ONE');
  world.moveTo(replica);
  expect(await world.recordSurvivors()).toBeGreaterThan(0);
  await recover(world, 'promotion of a lagging replica');
  await sleep(300);
});

scenario('Redis is out of memory for a while', { engines: 2, ...slow }, async (world) => {
  world.producer.start(150);
  for (let round = 0; round < pick(2, 5); round += 1) {
    await world.flows();
    await sleep(300);
    world.note('maxmemory 1');
    await world.client.config('SET', 'maxmemory', '1');
    await sleep(pick(1000, 4000));
    const heal = () => world.client.config('SET', 'maxmemory', '0');
    await settledOnce(world, 'memory is given back', heal);
  }
  expect(world.producer.refusals).toBeGreaterThan(0);
});

scenario('Redis refuses to write because it cannot save', slow, async (world) => {
  const { client, redis } = world;
  const saved = (status: string) => async () => {
    const info = await client.info('persistence');
    return info.includes(`rdb_last_bgsave_status:${status}`) && info.includes('rdb_bgsave_in_progress:0');
  };
  // A directory where the file should be: as good as a full disk, and root is not spared.
  const inTheWay = join(redis.dir, 'dump.rdb');
  mkdirSync(inTheWay);
  await client.config('SET', 'save', '3600 1');
  world.producer.start(150);
  await world.flows();
  await sleep(300);
  world.note('BGSAVE fails');
  await client.bgsave();
  await until('the save fails', saved('err'));
  await sleep(pick(1000, 4000));
  expect(world.producer.refusals).toBeGreaterThan(0);
  rmdirSync(inTheWay);
  await settledOnce(world, 'Redis can save again', async () => {
    await client.bgsave();
    await until('the save succeeds', saved('ok'));
  });
  await sleep(300);
});

const gates = mkdtempSync(join(tmpdir(), 'subito-gates-'));
afterAll(() => rmSync(gates, { recursive: true }));
const gate = (n: number) => join(gates, String(n));
/** The engine stands still at each of these until its gate is there, with as much in hand as it can have. */
const HELD: readonly [number, number] = [pick(300, 600), pick(600, 1200)];

scenario(
  'the backlog is right after a restart from the append-only file, which forgets it',
  {
    redis: { appendonly: true },
    model: 'trouble',
    data: (n) => (HELD.includes(n) ? { do: 'hold', path: gate(n) } : { do: 'wait', ms: 2 }),
    // However long it is held, nobody is to think that it hangs.
    limits: { batch_rows_max: 8, infer_ms_max: 120_000, stop_ms_max: 120_000, claim_idle_ms: 240_000 },
  },
  async (world) => {
    const { client, redis } = world;
    const count = pick(1000, 2000);
    const unread = async () => {
      const [group] = (await client.xinfo('GROUPS', 'events')) as unknown[][];
      const value = (name: string) => group![group!.indexOf(name) + 1];
      const rest = await client.xrange('events', `(${value('last-delivered-id')}`, '+');
      world.note(`lag ${value('lag')}, truth ${rest.length}`);
      return rest.length;
    };
    /** What the gauge says, null when nothing; and whether it is true, before and after. */
    const look = async () => {
      const before = await unread();
      const gauge = (await world.engine(0).process.metric('subito_backlog_events')) ?? null;
      const after = await unread();
      world.note(`gauge ${gauge}`);
      return { gauge, after, isRight: gauge === before && gauge === after };
    };
    /** Nothing is added any more: whenever the gauge was right, there are no more now than it says. */
    const check = async () => {
      const found = await look();
      if (found.gauge !== null) expect(found.gauge).toBeGreaterThanOrEqual(found.after);
      return found;
    };
    const staysRight = async () => {
      await until('the gauge is right', async () => (await check()).isRight, 30_000);
      // Over several of the engine's looks, of which there is one a second.
      const beginMs = performance.now();
      while (performance.now() - beginMs < pick(2500, 5000)) {
        await sleep(100);
        await until('the gauge is right again', async () => (await check()).isRight, 30_000);
      }
    };
    await world.producer.send(count);
    // Many have been read since Redis last knew how many.
    await until('many have been read', async () => (await unread()) < count - HELD[0], 30_000);
    await until('the gauge is right before that', async () => (await look()).isRight, 30_000);
    await redis.kill();
    await redis.restart();
    await staysRight();
    writeFileSync(gate(HELD[0]), '');
    await until('more have been read', async () => (await check()).after < count - HELD[1], 30_000);
    await staysRight();
    expect(await unread()).toBeGreaterThan(0);
    writeFileSync(gate(HELD[1]), '');
  },
);
