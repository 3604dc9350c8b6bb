// `subito deadletters` moves dead letters on a real server: each once or not at all, whatever happens.
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Redis } from 'ioredis';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { partitionStreams, type StreamPartition } from '../src/engine/streams.ts';
import { select, summaries } from '../src/ledger/deadletters.ts';
import { moveLetters } from '../src/ledger/deadletters-move.ts';
import { idRange } from '../src/ledger/deadletters-range.ts';
import { connectControl } from '../src/redis/control.ts';
import { startEmbedded } from '../src/redis/embedded.ts';
import { receiptsKey } from '../src/redis/keys.ts';
import { startCluster } from './support/cluster.ts';
import { endpointOf, until } from './support/core.ts';
import { Graveyard, json, type Listed, letterValues, runCommand } from './support/deadletters.ts';
import { MLP, modelsDir, startTestEngine } from './support/engine.ts';
import { entries, type Fields } from './support/settle.ts';

const RECEIPTS = receiptsKey('deadletters');

let yard: Graveyard;
let redis: Redis;

beforeAll(async () => {
  yard = await Graveyard.start();
  redis = yard.redis;
});
afterAll(async () => {
  await yard.stop();
});
beforeEach(async () => {
  await redis.flushall();
});

test('requeue: the fields as they came, in one step with the removal and a receipt', async () => {
  const values = [
    'source',
    'mine',
    'b',
    Buffer.from([0, 255, 13, 10]),
    'data',
    '{}',
    'b',
    '',
    'reason',
    'why not',
  ];
  const id = await yard.bury(values, { source: '77-1' });
  const stays = await yard.bury(['data', '{}'], { reason: 'failed' });
  const ran = await yard.run('requeue', [id, id]);
  const [[to, came]] = (await redis.xrangeBuffer('events', '-', '+')) as unknown as [[Buffer, Buffer[]]];
  expect(ran).toMatchObject({ code: 0, out: `${id} -> ${to} in events\n1 requeued\n`, err: '' });
  expect(came).toEqual(values.map((value) => Buffer.from(value as string)));
  expect(await entries(redis, RECEIPTS)).toEqual([{ source: '77-1', deadletter: id, to: String(to) }]);
  expect((await redis.xrange('deadletters', '-', '+')).map(([each]) => each)).toEqual([stays]);
  // Again: it is known that it is gone, and nothing happens.
  const again = await yard.run('requeue', [id, stays]);
  expect(again.error).toMatchObject({ code: 'DEADLETTER_UNKNOWN', exitCode: 1 });
  expect(again.out).toMatch(/1 requeued\n$/);
  expect(await redis.xlen('events')).toBe(2);
});

test('requeue: what cannot be put back as it came is refused, and the rest goes on', async () => {
  const wide = (pairs: number) => Array.from({ length: pairs }, (_, i) => [`f${i}`, `v${i}`]).flat();
  const none = await yard.bury([], { detail: 'the entry was deleted' });
  const noPayload = await yard.bury(['key', 'me']);
  const cut = await yard.bury(['data', '{}', ...wide(3499)]);
  const foreign = String(await redis.xadd('deadletters', '*', 'data', '{}'));
  const widest = await yard.bury(['data', '{}', ...wide(3498)]);
  const ran = await yard.run('requeue', [], { all: true, yes: true, json: true });
  expect(ran.error?.describe()).toContain('DEADLETTER_REFUSED: 4 of 5 dead letters were refused');
  expect(ran.code).toBe(1);
  const { refusals, moved } = json<{ refusals: { id: string; why: string }[]; moved: number }>(ran);
  expect(refusals.map(({ id }) => id)).toEqual([none, noPayload, cut, foreign]);
  expect(refusals.map(({ why }) => why.slice(0, 26))).toEqual([
    'it holds neither data nor ',
    'it holds neither data nor ',
    'it had more fields than a ',
    'Subito did not write it: i',
  ]);
  expect(moved).toBe(1);
  expect(Object.keys((await entries(redis, 'events'))[0]!)).toHaveLength(3499);
  expect((await entries(redis, RECEIPTS)).map(({ deadletter }) => deadletter)).toEqual([widest]);
  // They can be dropped.
  expect((await yard.run('drop', [], { all: true, yes: true })).out).toBe('4 dropped\n');
  const receipts = (await entries(redis, RECEIPTS)).slice(1);
  expect(receipts.map(({ source, to }) => [source, to])).toEqual([
    ['5-5', ''],
    ['5-5', ''],
    ['5-5', ''],
    ['', ''],
  ]);
});

test('by choice: a dry run changes nothing, a terminal is asked, nothing else is touched', async () => {
  await yard.buryMany(10);
  const left = async () => [await redis.xlen('deadletters'), await redis.xlen('events')];
  for (const action of ['requeue', 'drop'] as const) {
    const dry = await yard.run(action, [], { reason: 'failed', dryRun: true });
    expect(dry).toMatchObject({
      code: 0,
      out: `5 would be ${action}${action === 'drop' ? 'p' : ''}${action === 'drop' ? 'ed' : 'd'}\n`,
    });
    expect((await yard.run(action, [], { reason: 'failed' })).error).toMatchObject({
      code: 'USAGE',
      message: expect.stringContaining('--yes') as string,
    });
    const no = await yard.run(action, [], { reason: 'failed' }, 'n\n');
    expect(no).toMatchObject({ code: 1, out: '' });
    expect(no.err).toBe(`${action} 5 dead letters: 5 failed? [y/N] nothing was changed\n`);
    expect((await yard.run(action, [], { all: true }, '')).code).toBe(1);
    for (const given of [{}, { all: true, ids: true }])
      expect((await yard.run(action, 'ids' in given ? ['1-1'] : [], given)).error?.code).toBe('USAGE');
  }
  expect(await left()).toEqual([10, 0]);
  expect(await yard.run('requeue', [], { reason: 'failed' }, 'y\n')).toMatchObject({
    code: 0,
    out: '5 requeued\n',
  });
  expect(await left()).toEqual([5, 5]);
  expect(await yard.run('drop', [], { all: true }, 'yes\n')).toMatchObject({ code: 0, out: '5 dropped\n' });
  expect(await left()).toEqual([0, 5]);
  expect((await entries(redis, RECEIPTS)).filter(({ to }) => to === '')).toHaveLength(5);
});

test('partitions: each letter goes back to its own; an id that is in two needs --stream', async () => {
  const id = '9-9';
  for (const stream of ['unplayed:{0}', 'unplayed:{1}'])
    await yard.bury(['data', `"${stream}"`], { id, stream });
  const listed = json<Listed>(
    await yard.run('list', [], { config: yard.partitioned, json: true, model: 'skip' }),
  );
  expect(listed.letters.map(({ stream }) => stream).sort()).toEqual(['plays:{0}', 'plays:{1}']);
  const twice = await yard.run('requeue', [id], { config: yard.partitioned });
  expect(twice.error?.message).toBe('9-9 names dead letters of plays:{0} and plays:{1}');
  expect((await yard.run('requeue', [id], { config: yard.partitioned, stream: 'plays:{1}' })).code).toBe(0);
  expect((await entries(redis, 'plays:{1}')).map(({ data }) => data)).toEqual(['"unplayed:{1}"']);
  expect(await redis.xlen(receiptsKey('unplayed:{1}'))).toBe(1);
  expect(
    await yard.run('requeue', [], { config: yard.partitioned, stream: 'plays', all: true, yes: true }),
  ).toMatchObject({
    code: 0,
    out: '1 requeued\n',
  });
  expect(await redis.xlen('plays:{0}')).toBe(1);
  const wrong = await yard.run('list', [], { config: yard.partitioned, stream: 'play' });
  expect(wrong.error?.message).toBe('--stream "play" is not configured; did you mean plays?');
});

/** Every letter of buryMany is either dead or an event, with its receipt, once. */
async function checkMoved(count: number): Promise<{ dead: number; events: number }> {
  const dead = await entries(redis, 'deadletters');
  const events = await entries(redis, 'events');
  const keys = [...dead, ...events].map(({ key }) => key);
  expect([keys.length, new Set(keys).size]).toEqual([count, count]);
  const ids = (await redis.xrange('events', '-', '+')).map(([id]) => id);
  const receipts = await entries(redis, RECEIPTS);
  expect(receipts.map(({ to }) => to)).toEqual(ids);
  // The receipt is about the letter that the event was.
  const source = (event: Fields) => `1-${event['key']?.slice(1)}`;
  expect(receipts.map((receipt) => receipt['source'])).toEqual(events.map(source));
  return { dead: dead.length, events: events.length };
}

test('killed in the middle of 20,000, each letter is dead or an event; the next run does the rest', {
  timeout: 120_000,
}, async () => {
  await yard.buryMany(20_000);
  for (let kill = 0, at = 300; kill < 3; kill += 1, at += 2500) {
    const child = yard.spawn('requeue', '--all', '--yes');
    await until(`${at} are requeued`, async () => (await redis.xlen('events')) >= at, 30_000);
    child.kill('SIGKILL');
    await once(child, 'exit');
    const { dead } = await checkMoved(20_000);
    expect(dead).toBeGreaterThan(0);
  }
  const ran = await yard.run('requeue', [], { all: true, yes: true });
  expect(ran.code).toBe(0);
  expect(await checkMoved(20_000)).toEqual({ dead: 0, events: 20_000 });
});

test('two at once make one event of each letter', { timeout: 120_000 }, async () => {
  await yard.buryMany(5000);
  const runs = await Promise.all(
    [1, 2].map(() => yard.run('requeue', [], { all: true, yes: true, json: true })),
  );
  expect(runs.map(({ code }) => code)).toEqual([0, 0]);
  const moved = runs.map((ran) => json<{ moved: number }>(ran).moved);
  expect(moved[0]! + moved[1]!).toBe(5000);
  expect(await checkMoved(5000)).toEqual({ dead: 0, events: 5000 });
  // And of one letter by its id.
  const id = await yard.bury(['key', 'k5000', 'data', '{}'], { source: '1-5000' });
  const same = await Promise.all([1, 2, 3].map(() => yard.run('requeue', [id])));
  expect(same.map(({ code }) => code).sort()).toEqual([0, 1, 1]);
  expect(await checkMoved(5001)).toEqual({ dead: 0, events: 5001 });
});

test('letters that die meanwhile are not touched', async () => {
  await yard.buryMany(700);
  const [partition] = partitionStreams(loadConfig({ env: {} }).streams) as [StreamPartition];
  const control = await connectControl({ endpoint: endpointOf(yard.server), commandMsMax: 10_000 });
  try {
    const selection = await select(control, partition, idRange(undefined, undefined), {});
    let moved = 0;
    for await (const page of summaries(control, selection!)) {
      for await (const moves of moveLetters(control, 'requeue', page)) {
        moved += moves.length;
        // Nothing was mended: each dies again at once.
        for (const { letter } of moves) await yard.bury(['key', letter.key, 'data', '{}']);
      }
      expect(moved).toBeLessThanOrEqual(700);
    }
    expect([moved, await redis.xlen('deadletters'), await redis.xlen('events')]).toEqual([700, 700, 700]);
  } finally {
    control.close();
  }
});

test('whatever Redis refuses is an error with a code, and changes nothing', async () => {
  const id = await yard.bury(['data', '{}']);
  const move = () => yard.run('requeue', [id]);
  const unchanged = async () => {
    expect(await redis.xlen('deadletters')).toBe(1);
    expect(await redis.exists('events')).toBe(0);
    expect(await redis.exists(RECEIPTS)).toBe(0);
  };
  for (const key of ['events', RECEIPTS]) {
    await redis.set(key, 'a string');
    const { error } = await move();
    expect(error?.code).toBe('STREAM_UNUSABLE');
    expect(error?.message).toMatch(/WRONGTYPE/);
    expect(error?.message).toContain(key);
    await redis.del(key);
    await unchanged();
  }
  await redis.config('SET', 'maxmemory', '1');
  const full = await Promise.all([move(), yard.run('drop', [id]), yard.run('list')]);
  await redis.config('SET', 'maxmemory', '0');
  expect(full.map(({ error }) => error?.code)).toEqual(['REDIS_REFUSED', 'REDIS_REFUSED', undefined]);
  await unchanged();

  const url = yard.server.url.replace('redis://', 'redis://reader:pass@');
  await redis.acl('SETUSER', 'reader', 'on', '>pass', '~*', '+@all', '-xadd');
  const may = await yard.run('requeue', [id], { redis: url });
  expect(may.error).toMatchObject({ code: 'STREAM_UNUSABLE' });
  expect(may.error?.message).toMatch(/can't run this command.*lacks a right/);
  await redis.acl('SETUSER', 'reader', '+xadd', 'resetkeys', '~deadletters*', '~events');
  for (const action of ['requeue', 'drop'] as const) {
    const refused = await yard.run(action, [id], { redis: url });
    expect(refused.error).toMatchObject({ code: 'STREAM_UNUSABLE' });
  }
  await unchanged();
  expect((await yard.run('list', [], { redis: url })).code).toBe(0);

  await redis.set('deadletters', 'a string');
  expect((await yard.run('list')).error?.message).toMatch(/^deadletters: WRONGTYPE/);
  expect((await yard.run('export')).error?.code).toBe('STREAM_UNUSABLE');
  const gone = await yard.run('list', [], { redis: 'redis://127.0.0.1:1' });
  expect(gone.error?.code).toBe('REDIS_UNREACHABLE');
});

test('a stream that has run out of ids takes nothing with it', async () => {
  const [first, second] = [await yard.bury(['data', '1']), await yard.bury(['data', '2'])];
  const last = '18446744073709551615-18446744073709551615';
  for (const key of ['events', RECEIPTS]) {
    // One more fits in: the second letter is the one that fails.
    await redis.xadd(key, last.replace(/5$/, '4'), 'x', 'y');
    const ran = await yard.run('requeue', [first, second]);
    expect(ran.error).toMatchObject({ code: 'STREAM_UNUSABLE' });
    expect(ran.err).toMatch(/^before it failed: .*\n1 requeued\n$/s);
    const [dead, events] = [await entries(redis, 'deadletters'), await entries(redis, 'events')];
    expect(dead.map(({ data }) => data)).toEqual(['2']);
    expect(events.filter(({ data }) => data === '1')).toHaveLength(1);
    expect(events.filter(({ data }) => data === '2')).toHaveLength(0);
    await redis.del('events', RECEIPTS, 'deadletters');
    for (const [i, id] of [first, second].entries()) await yard.bury(['data', String(i + 1)], { id });
  }
});

test('with an engine: an event that dies, is put back and dies again', { timeout: 60_000 }, async () => {
  const models = modelsDir({ mlp: { from: MLP } });
  const { client, redis: own, stop } = await startTestEngine(models);
  try {
    const given = { redis: own.url };
    const dead = (count: number) =>
      until(`${count} died`, async () => (await client.xlen('deadletters')) === count, 30_000);
    const source = String(await client.xadd('events', '*', 'key', 'me', 'data', '{"nothing":1}'));
    await dead(1);
    const [letter] = json<Listed>(await yard.run('list', [], { ...given, json: true })).letters;
    expect(letter).toMatchObject({ source, reason: 'invalid', deliveries: 1 });
    const { id } = letter as Fields;
    expect((await yard.run('show', [id!], given)).out).toContain('"nothing": 1');
    expect((await yard.run('requeue', [id!], given)).code).toBe(0);
    await until(
      'it died again',
      async () => {
        const [again] = await entries(client, 'deadletters');
        return again !== undefined && again['source'] !== source;
      },
      30_000,
    );
    const [receipt] = await entries(client, RECEIPTS);
    const [again] = await entries(client, 'deadletters');
    expect(receipt).toEqual({ source, deadletter: id, to: again?.['source'] });
    expect(again).toMatchObject({ data: '{"nothing":1}', reason: 'invalid', detail: letter?.['detail'] });
    expect(await client.xlen('deadletters')).toBe(1);
    // The receipts show the audit where letters went: dropped ones too.
    expect((await yard.run('drop', [], { ...given, all: true, yes: true })).code).toBe(0);
    const audit = await promisify(execFile)(process.execPath, [
      ...['src/main.ts', 'audit', '--redis', own.url, '--json'],
    ]);
    expect(JSON.parse(audit.stdout)).toMatchObject({ streams: [{ stream: 'events' }] });
  } finally {
    await stop();
    rmSync(models, { recursive: true });
  }
});

test('a Redis Cluster: each letter goes back to its own partition, on its own node', {
  timeout: 60_000,
}, async () => {
  const cluster = await startCluster();
  const dir = mkdtempSync(join(tmpdir(), 'subito-deadletters-'));
  try {
    const client = cluster.connect();
    const config = join(dir, 'cluster.yaml');
    writeFileSync(
      config,
      `redis: { cluster: ${JSON.stringify(cluster.urls)} }\nstreams: [{ name: events, partitions: 6 }]\n`,
    );
    for (let part = 0; part < 6; part += 1) {
      const values = letterValues(['key', `k${part}`, 'data', '{}'], { source: `1-${part}` });
      await client.xadd(`deadletters:{${part}}`, '*', ...values);
    }
    expect(json<Listed>(await runCommand('list', [], { config, json: true })).total).toBe(6);
    const chosen = { config, all: true, yes: true };
    const ran = await runCommand('requeue', [], chosen);
    expect(ran).toMatchObject({ code: 0, out: '6 requeued\n' });
    for (let part = 0; part < 6; part += 1) {
      const [[to, values]] = (await client.xrange(`events:{${part}}`, '-', '+')) as [[string, string[]]];
      expect(values).toEqual(['key', `k${part}`, 'data', '{}']);
      const receipts = await client.xrange(receiptsKey(`deadletters:{${part}}`), '-', '+');
      expect(receipts[0]![1].slice(-1)).toEqual([to]);
    }
  } finally {
    await cluster.stop();
    rmSync(dir, { recursive: true });
  }
});

test('an embedded server is found while it runs, and not started', { timeout: 60_000 }, async () => {
  const dir = mkdtempSync(join(tmpdir(), 'subito-deadletters-'));
  const config = join(dir, 'subito.yaml');
  writeFileSync(config, `redis: { embedded: { dir: ${JSON.stringify(join(dir, 'redis'))} } }\n`);
  const before = await runCommand('list', [], { config });
  expect(before.error?.message).toContain('no embedded Redis runs in');
  const embedded = await startEmbedded({ port: 0, dir: join(dir, 'redis') });
  try {
    expect(await runCommand('list', [], { config })).toMatchObject({ code: 0, out: '0 dead letters\n' });
  } finally {
    await embedded.stop();
  }
  expect((await runCommand('list', [], { config })).error?.code).toBe('REDIS_UNREACHABLE');
  // Its port has gone to another server, whose dead letters are not meant.
  await yard.bury(['data', '{}']);
  writeFileSync(join(dir, 'redis', 'subito-redis.port'), `${yard.server.port}\n`);
  const other = await runCommand('drop', [], { config, all: true, yes: true });
  expect(other.error?.code).toBe('REDIS_UNREACHABLE');
  expect(await redis.xlen('deadletters')).toBe(1);
  rmSync(dir, { recursive: true });
});
