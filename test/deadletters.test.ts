// `subito deadletters` on a real server: what is read, what is moved, and that nothing is moved twice.
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import type { Redis } from 'ioredis';
import { pack } from 'msgpackr';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type LetterAction, runDeadletters } from '../src/commands/deadletters.ts';
import { SubitoError } from '../src/errors.ts';
import { receiptsKey } from '../src/redis/keys.ts';
import { until } from './support/core.ts';
import { MLP, modelsDir, startTestEngine } from './support/engine.ts';
import { startRedis, type TestRedis } from './support/redis.ts';
import { entries, type Fields } from './support/settle.ts';

const RECEIPTS = receiptsKey('deadletters');
const DAY_MS = 86_400_000;

let server: TestRedis;
let redis: Redis;
const dir = mkdtempSync(join(tmpdir(), 'subito-deadletters-'));
const partitioned = join(dir, 'partitioned.yaml');

beforeAll(async () => {
  server = await startRedis();
  redis = server.connect();
  writeFileSync(
    partitioned,
    `redis: { url: "${server.url}" }
streams:
  - { name: plays, partitions: 2, predictions: played, deadletters: unplayed, model: skip@2 }
  - { name: events, model: mlp }
`,
  );
});
afterAll(async () => {
  await server.stop();
  rmSync(dir, { recursive: true });
});
beforeEach(async () => {
  await redis.flushall();
});

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  readonly error: SubitoError | null;
}

/** The command in this process; `answer` is what a terminal types, null where there is no terminal. */
async function run(
  action: LetterAction,
  ids: readonly string[] = [],
  given: Record<string, unknown> = {},
  answer: string | null = null,
): Promise<Ran> {
  const [out, err, input] = [new PassThrough(), new PassThrough(), new PassThrough()];
  const texts = ['', ''];
  for (const [i, stream] of [out, err].entries()) {
    stream.on('data', (chunk) => {
      texts[i] += String(chunk);
    });
  }
  const isTTY = answer !== null;
  if (isTTY) input.end(answer);
  const io = {
    out,
    err: Object.assign(err, { isTTY }),
    input: Object.assign(input, { isTTY }),
    nowMs: Date.now,
  };
  const place = given['config'] === undefined ? { redis: server.url } : {};
  let code = -1;
  let error: SubitoError | null = null;
  try {
    code = await runDeadletters(action, ids, { ...place, ...given }, io);
  } catch (thrown) {
    if (!(thrown instanceof SubitoError)) throw thrown;
    error = thrown;
    code = thrown.exitCode;
  }
  return { code, out: texts[0]!, err: texts[1]!, error };
}

const json = <T>({ out }: Ran): T => JSON.parse(out) as T;

type Value = string | Buffer;
interface Death {
  readonly source?: string;
  readonly reason?: string;
  readonly detail?: string;
  readonly id?: string;
  readonly stream?: string;
}

/** Writes a letter as the settlement does; resolves with its id. */
async function bury(fields: readonly Value[], death: Death = {}): Promise<string> {
  const { source = '5-5', reason = 'invalid', detail = 'no', id = '*', stream = 'deadletters' } = death;
  const ours = ['source', source, 'reason', reason, 'detail', detail, 'deliveries', '2'];
  return String(await redis.xadd(stream, id, ...fields, ...ours));
}

async function buryMany(count: number): Promise<void> {
  for (let first = 0; first < count; first += 1000) {
    const pipeline = redis.pipeline();
    for (let i = first; i < Math.min(first + 1000, count); i += 1) {
      const ours = ['source', `1-${i}`, 'reason', i % 2 ? 'failed' : 'invalid', 'detail', 'no'];
      pipeline.xadd('deadletters', '*', 'key', `k${i}`, 'data', `{"n":${i}}`, ...ours, 'deliveries', '1');
    }
    await pipeline.exec();
  }
}

/** The real command line. */
function subito(...args: readonly string[]): ChildProcess {
  const command = ['src/main.ts', 'deadletters', ...args, '--redis', server.url];
  return spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] });
}

interface Listed {
  readonly letters: readonly (Fields & { readonly age_ms: number; readonly deliveries: number })[];
  readonly counts: Record<string, number>;
  readonly total: number;
}

test('list: newest first, as many as asked, counted by reason, keys only when asked', async () => {
  const nowMs = Date.now();
  const old = await bury(['key', 'me', 'data', '{}'], { id: `${nowMs - 3 * DAY_MS}-7`, reason: 'failed' });
  const other = String(await redis.xadd('deadletters', `${nowMs - 2 * DAY_MS}-0`, 'data', 'by hand'));
  const news = await bury(['model', 'skip@3', 'key', 'you', 'data', '{}'], { detail: 'heard: \x1b[2Jis no' });
  const listed = json<Listed>(await run('list', [], { json: true }));
  expect(listed.letters.map(({ id }) => id)).toEqual([news, other, old]);
  expect(listed.counts).toEqual({ invalid: 1, failed: 1, other: 1 });
  expect(listed.letters[0]).toMatchObject({
    model: 'skip@3',
    deliveries: 2,
    source: '5-5',
    reason: 'invalid',
  });
  expect(listed.letters[0]).not.toHaveProperty('key');

  const text = (await run('list', [], { limit: '2' })).out;
  const [head, first, second, more, counts] = text.trimEnd().split('\n');
  expect(head).toMatch(/^ID +AGE +REASON +MODEL +DELIVERIES +DETAIL$/);
  // What would clear the operator's screen is spelled out.
  expect(first).toMatch(/ \d+ (?:ms|s|min) +invalid +skip@3 +2 +heard: \\u\{1b\}\[2Jis no$/);
  expect(second).toContain(' 2 d ');
  expect([more, counts]).toEqual([
    '... 1 older; --limit shows more',
    '3 dead letters: 1 invalid, 1 failed, 1 other',
  ]);
  expect((await run('list', [], { keys: true })).out).toMatch(/KEY .*\n.* you /);

  const count = async (given: object) => json<Listed>(await run('list', [], { json: true, ...given })).total;
  expect(await count({ reason: 'failed' })).toBe(1);
  expect(await count({ model: 'skip' })).toBe(1);
  expect(await count({ model: 'skip@2' })).toBe(0);
  expect(await count({ since: other })).toBe(2);
  expect(await count({ until: other.slice(0, -2) })).toBe(2);
  expect(await count({ since: new Date(nowMs - DAY_MS).toISOString() })).toBe(1);
  expect((await run('list', [], { config: partitioned, stream: 'plays' })).out).toBe('0 dead letters\n');
});

test('list: pages of a long stream, and of large letters, miss and repeat none', {
  timeout: 60_000,
}, async () => {
  await buryMany(2500);
  for (let i = 0; i < 20; i += 1) await bury(['data', Buffer.alloc(300_000, 'x')], { reason: 'failed' });
  const all = json<Listed>(await run('list', [], { json: true, limit: '5000' }));
  expect(new Set(all.letters.map(({ id }) => id)).size).toBe(2520);
  expect(all.counts).toEqual({ invalid: 1250, failed: 1270 });
  const lines = (await run('export', [], { reason: 'failed' })).out.trimEnd().split('\n');
  expect(new Set(lines.map((line) => (JSON.parse(line) as Fields)['id'])).size).toBe(1270);
});

test('the largest id there is ends a page as any other', async () => {
  const id = '18446744073709551615-18446744073709551615';
  await bury(['data', '{}'], { id: '18446744073709551615-18446744073709551614' });
  await bury(['data', '{}'], { id });
  expect(json<Listed>(await run('list', [], { json: true })).letters.map((each) => each['id'])[0]).toBe(id);
  expect((await run('requeue', [], { all: true, yes: true })).out).toBe('2 requeued\n');
});

test('show: fields in their order, payloads decoded, whatever they are', async () => {
  const features = Buffer.from([0, 1, 254, 255]);
  const jsonId = await bury(['key', 'me', 'data', '{"songs":["Bertha"]}', 'reason', 'mine'], {
    detail: 'x: no',
  });
  const packed = await bury(['features', features, 'data', pack({ at: 2n ** 60n, raw: Buffer.from([1]) })]);
  const broken = await bury(['data', '{"songs":']);
  const empty = await bury([], { detail: 'the entry was deleted' });
  const text = (await run('show', [jsonId, packed, broken, empty])).out;
  expect(text).toContain(`dead letter ${jsonId} of events (in deadletters)\n`);
  expect(text).toMatch(/ {2}detail +x: no\n/);
  expect(text).toContain('    {\n      "songs": [\n        "Bertha"\n      ]\n    }\n  reason      mine\n');
  expect(text).toContain('features    4 bytes\n    0001feff\n');
  expect(text).toMatch(/data +9 bytes: .*JSON.*\n {4}\{"songs":\n/);
  expect(text).toContain('the event: nothing of it was kept\n');

  const [first, second] = (await run('show', [jsonId, packed], { json: true })).out.trim().split('\n');
  expect(JSON.parse(first!)).toMatchObject({
    stream: 'events',
    id: jsonId,
    reason: 'invalid',
    detail: 'x: no',
    deliveries: 2,
    key: 'me',
    data: { songs: ['Bertha'] },
    fields: [{ name: 'key' }, { name: 'data' }, { name: 'reason', text: 'mine' }],
  });
  expect(JSON.parse(second!)).toMatchObject({
    features_hex: '0001feff',
    features_bytes: 4,
    data: { at: '1152921504606846976', raw: [1] },
  });
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
  const id = await bury(values, { source: '77-1' });
  const stays = await bury(['data', '{}'], { reason: 'failed' });
  const ran = await run('requeue', [id, id]);
  const [[to, came]] = (await redis.xrangeBuffer('events', '-', '+')) as unknown as [[Buffer, Buffer[]]];
  expect(ran).toMatchObject({ code: 0, out: `${id} -> ${to} in events\n1 requeued\n`, err: '' });
  expect(came).toEqual(values.map((value) => Buffer.from(value as string)));
  expect(await entries(redis, RECEIPTS)).toEqual([{ source: '77-1', deadletter: id, to: String(to) }]);
  expect((await redis.xrange('deadletters', '-', '+')).map(([each]) => each)).toEqual([stays]);
  // Again: it is known that it is gone, and nothing happens.
  const again = await run('requeue', [id, stays]);
  expect(again.error).toMatchObject({ code: 'DEADLETTER_UNKNOWN', exitCode: 1 });
  expect(again.out).toMatch(/1 requeued\n$/);
  expect(await redis.xlen('events')).toBe(2);
});

test('requeue: what cannot be put back as it came is refused, and the rest goes on', async () => {
  const wide = (pairs: number) => Array.from({ length: pairs }, (_, i) => [`f${i}`, `v${i}`]).flat();
  const none = await bury([], { detail: 'the entry was deleted' });
  const noPayload = await bury(['key', 'me']);
  const cut = await bury(['data', '{}', ...wide(3499)]);
  const foreign = String(await redis.xadd('deadletters', '*', 'data', '{}'));
  const widest = await bury(['data', '{}', ...wide(3498)]);
  const ran = await run('requeue', [], { all: true, yes: true, json: true });
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
  expect((await run('drop', [], { all: true, yes: true })).out).toBe('4 dropped\n');
  const receipts = (await entries(redis, RECEIPTS)).slice(1);
  expect(receipts.map(({ source, to }) => [source, to])).toEqual([
    ['5-5', ''],
    ['5-5', ''],
    ['5-5', ''],
    ['', ''],
  ]);
});

test('by choice: a dry run changes nothing, a terminal is asked, nothing else is touched', async () => {
  await buryMany(10);
  const left = async () => [await redis.xlen('deadletters'), await redis.xlen('events')];
  for (const action of ['requeue', 'drop'] as const) {
    const dry = await run(action, [], { reason: 'failed', dryRun: true });
    expect(dry).toMatchObject({
      code: 0,
      out: `5 would be ${action}${action === 'drop' ? 'p' : ''}${action === 'drop' ? 'ed' : 'd'}\n`,
    });
    expect((await run(action, [], { reason: 'failed' })).error).toMatchObject({
      code: 'USAGE',
      message: expect.stringContaining('--yes') as string,
    });
    const no = await run(action, [], { reason: 'failed' }, 'n\n');
    expect(no).toMatchObject({ code: 1, out: '' });
    expect(no.err).toBe(`${action} 5 dead letters: 5 failed? [y/N] nothing was changed\n`);
    expect((await run(action, [], { all: true }, '')).code).toBe(1);
    for (const given of [{}, { all: true, ids: true }])
      expect((await run(action, 'ids' in given ? ['1-1'] : [], given)).error?.code).toBe('USAGE');
  }
  expect(await left()).toEqual([10, 0]);
  expect(await run('requeue', [], { reason: 'failed' }, 'y\n')).toMatchObject({
    code: 0,
    out: '5 requeued\n',
  });
  expect(await left()).toEqual([5, 5]);
  expect(await run('drop', [], { all: true }, 'yes\n')).toMatchObject({ code: 0, out: '5 dropped\n' });
  expect(await left()).toEqual([0, 5]);
  expect((await entries(redis, RECEIPTS)).filter(({ to }) => to === '')).toHaveLength(5);
});

test('partitions: each letter goes back to its own; an id that is in two needs --stream', async () => {
  const id = '9-9';
  for (const stream of ['unplayed:{0}', 'unplayed:{1}']) await bury(['data', `"${stream}"`], { id, stream });
  const listed = json<Listed>(await run('list', [], { config: partitioned, json: true, model: 'skip' }));
  expect(listed.letters.map(({ stream }) => stream).sort()).toEqual(['plays:{0}', 'plays:{1}']);
  const twice = await run('requeue', [id], { config: partitioned });
  expect(twice.error?.message).toBe('9-9 names dead letters of plays:{0} and plays:{1}');
  expect((await run('requeue', [id], { config: partitioned, stream: 'plays:{1}' })).code).toBe(0);
  expect((await entries(redis, 'plays:{1}')).map(({ data }) => data)).toEqual(['"unplayed:{1}"']);
  expect(await redis.xlen(receiptsKey('unplayed:{1}'))).toBe(1);
  expect(
    await run('requeue', [], { config: partitioned, stream: 'plays', all: true, yes: true }),
  ).toMatchObject({
    code: 0,
    out: '1 requeued\n',
  });
  expect(await redis.xlen('plays:{0}')).toBe(1);
  const wrong = await run('list', [], { config: partitioned, stream: 'play' });
  expect(wrong.error?.message).toBe('--stream "play" is not configured; did you mean plays?');
});

/** The input's fields of a line of the export. */
function fieldsOfLine(line: Record<string, unknown>): Buffer[] {
  const all = line['fields_base64'] as [string, string][] | undefined;
  if (all !== undefined) return all.flat().map((text) => Buffer.from(text, 'base64'));
  const values: Buffer[] = [];
  const input = ['key', 'model', 'event', 'trace', 'deadline_ms', 'priority'];
  let dataDone = false;
  for (const [name, value] of Object.entries(line)) {
    if (name === 'features_base64')
      values.push(Buffer.from('features'), Buffer.from(String(value), 'base64'));
    else if ((name === 'data' || name === 'data_base64') && !dataDone) {
      const base64 = line['data_base64'];
      const bytes = base64 === undefined ? JSON.stringify(value) : Buffer.from(String(base64), 'base64');
      values.push(Buffer.from('data'), Buffer.from(bytes as string));
      dataDone = true;
    } else if (input.includes(name)) values.push(Buffer.from(name), Buffer.from(String(value)));
  }
  return values;
}

test('export: every event can be had back to the byte', async () => {
  const inputs: Value[][] = [
    ['key', 'me', 'data', '{"songs":["Bertha"],"set":1}', 'deadline_ms', '250', 'priority', '1'],
    ['data', '{ "spaced" : 1 }', 'event', 'e-1', 'trace', 't'],
    ['data', '{"twice":1,"twice":2}'],
    ['data', pack({ songs: ['Bertha'] }), 'model', 'skip@1'],
    ['features', Buffer.from([0, 0, 128, 63, 255]), 'key', 'ünï'],
    ['data', 'not a map'],
    ['data', `${'['.repeat(30_000)}${']'.repeat(30_000)}`],
    ['data', `${'{"deep":'.repeat(20_000)}1${'}'.repeat(20_000)}`],
    ['data', Buffer.from([0xff, 0xfe])],
    ['key', Buffer.from([0xff]), 'data', '{}'],
    ['deadline_ms', '1e3', 'priority', '01', 'data', '{}'],
    ['songs', 'Bertha', 'data', '{}'],
    ['data', '{"a":1}', 'data', '{"a":2}', 'source', 'mine', 'fields_base64', 'x'],
    [],
  ];
  const ids: string[] = [];
  for (const input of inputs) ids.push(await bury(input, { reason: 'failed', detail: 'näh' }));
  const ran = await run('export');
  expect(ran).toMatchObject({ code: 0, err: '' });
  const lines = ran.out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines.map((line) => line['id'])).toEqual(ids);
  for (const [i, input] of inputs.entries())
    expect(fieldsOfLine(lines[i]!)).toEqual(input.map((value) => Buffer.from(value as string)));
  expect(lines[0]).toEqual({
    stream: 'events',
    id: ids[0],
    source: '5-5',
    reason: 'failed',
    detail: 'näh',
    deliveries: 2,
    key: 'me',
    data: { songs: ['Bertha'], set: 1 },
    deadline_ms: 250,
    priority: 1,
  });
  expect(lines[3]).toMatchObject({ data: { songs: ['Bertha'] }, data_base64: expect.any(String) as string });
});

test('export waits for a slow reader', async () => {
  for (let i = 0; i < 40; i += 1) await bury(['data', Buffer.alloc(100_000, 'x')]);
  let waiting = 0;
  let most = 0;
  let lines = 0;
  const out = new Writable({
    highWaterMark: 1000,
    write(chunk: Buffer, _encoding, done) {
      waiting = out.writableLength;
      most = Math.max(most, waiting);
      lines += 1;
      expect(chunk.at(-1)).toBe(10);
      setTimeout(done, 2);
    },
  });
  const io = { out, err: new PassThrough(), input: new PassThrough(), nowMs: Date.now };
  expect(await runDeadletters('export', [], { redis: server.url }, io)).toBe(0);
  out.end();
  await once(out, 'finish');
  expect(lines).toBe(40);
  // One line, and not forty.
  expect(most).toBeLessThan(200_000);
});

test('a reader that has seen enough ends the export quietly', { timeout: 60_000 }, async () => {
  await buryMany(20_000);
  const child = subito('export');
  let err = '';
  child.stderr?.on('data', (chunk) => {
    err += String(chunk);
  });
  await once(child.stdout!, 'data');
  child.stdout?.destroy();
  const [code] = (await once(child, 'exit')) as [number];
  expect({ code, err }).toEqual({ code: 0, err: '' });
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
  await buryMany(20_000);
  for (let kill = 0, at = 300; kill < 3; kill += 1, at += 2500) {
    const child = subito('requeue', '--all', '--yes');
    await until(`${at} are requeued`, async () => (await redis.xlen('events')) >= at, 30_000);
    child.kill('SIGKILL');
    await once(child, 'exit');
    const { dead } = await checkMoved(20_000);
    expect(dead).toBeGreaterThan(0);
  }
  const ran = await run('requeue', [], { all: true, yes: true });
  expect(ran.code).toBe(0);
  expect(await checkMoved(20_000)).toEqual({ dead: 0, events: 20_000 });
});

test('two at once make one event of each letter', { timeout: 120_000 }, async () => {
  await buryMany(5000);
  const runs = await Promise.all([1, 2].map(() => run('requeue', [], { all: true, yes: true, json: true })));
  expect(runs.map(({ code }) => code)).toEqual([0, 0]);
  const moved = runs.map((ran) => json<{ moved: number }>(ran).moved);
  expect(moved[0]! + moved[1]!).toBe(5000);
  expect(await checkMoved(5000)).toEqual({ dead: 0, events: 5000 });
  // And of one letter by its id.
  const id = await bury(['key', 'k5000', 'data', '{}'], { source: '1-5000' });
  const same = await Promise.all([1, 2, 3].map(() => run('requeue', [id])));
  expect(same.map(({ code }) => code).sort()).toEqual([0, 1, 1]);
  expect(await checkMoved(5001)).toEqual({ dead: 0, events: 5001 });
});

test('letters that die meanwhile are not touched', async () => {
  await buryMany(700);
  let added = 0;
  // Another dies for each one that comes back.
  const watch = setInterval(() => {
    added += 1;
    void bury(['key', `late${added}`, 'data', '{}']);
  }, 1);
  const ran = await run('requeue', [], { all: true, yes: true, json: true });
  clearInterval(watch);
  expect(json<{ moved: number }>(ran).moved).toBeLessThan(700 + added);
  await until(
    'all have arrived',
    async () => (await redis.xlen('deadletters')) + (await redis.xlen('events')) === 700 + added,
  );
  expect((await entries(redis, 'events')).filter(({ key }) => key?.startsWith('k'))).toHaveLength(700);
});

test('whatever Redis refuses is an error with a code, and changes nothing', async () => {
  const id = await bury(['data', '{}']);
  const move = () => run('requeue', [id]);
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
  const full = await Promise.all([move(), run('drop', [id]), run('list')]);
  await redis.config('SET', 'maxmemory', '0');
  expect(full.map(({ error }) => error?.code)).toEqual(['REDIS_REFUSED', 'REDIS_REFUSED', undefined]);
  await unchanged();

  const url = server.url.replace('redis://', 'redis://reader:pass@');
  await redis.acl('SETUSER', 'reader', 'on', '>pass', '~*', '+@all', '-xadd');
  const may = await run('requeue', [id], { redis: url });
  expect(may.error).toMatchObject({ code: 'STREAM_UNUSABLE' });
  expect(may.error?.message).toMatch(/can't run this command.*lacks a right/);
  await redis.acl('SETUSER', 'reader', '+xadd', 'resetkeys', '~deadletters*', '~events');
  for (const action of ['requeue', 'drop'] as const) {
    const refused = await run(action, [id], { redis: url });
    expect(refused.error).toMatchObject({ code: 'STREAM_UNUSABLE' });
  }
  await unchanged();
  expect((await run('list', [], { redis: url })).code).toBe(0);

  await redis.set('deadletters', 'a string');
  expect((await run('list')).error?.message).toMatch(/^deadletters: WRONGTYPE/);
  expect((await run('export')).error?.code).toBe('STREAM_UNUSABLE');
  const gone = await run('list', [], { redis: 'redis://127.0.0.1:1' });
  expect(gone.error?.code).toBe('REDIS_UNREACHABLE');
});

test('a stream that has run out of ids takes nothing with it', async () => {
  const [first, second] = [await bury(['data', '1']), await bury(['data', '2'])];
  const last = '18446744073709551615-18446744073709551615';
  for (const key of ['events', RECEIPTS]) {
    // One more fits in: the second letter is the one that fails.
    await redis.xadd(key, last.replace(/5$/, '4'), 'x', 'y');
    const ran = await run('requeue', [first, second]);
    expect(ran.error).toMatchObject({ code: 'STREAM_UNUSABLE' });
    expect(ran.err).toMatch(/^before it failed: .*\n1 requeued\n$/s);
    const [dead, events] = [await entries(redis, 'deadletters'), await entries(redis, 'events')];
    expect(dead.map(({ data }) => data)).toEqual(['2']);
    expect(events.filter(({ data }) => data === '1')).toHaveLength(1);
    expect(events.filter(({ data }) => data === '2')).toHaveLength(0);
    await redis.del('events', RECEIPTS, 'deadletters');
    for (const [i, id] of [first, second].entries()) await bury(['data', String(i + 1)], { id });
  }
});

test('wrong questions are told so before anything is asked of Redis', async () => {
  const nowhere = { redis: 'redis://127.0.0.1:1' };
  for (const [action, ids, given] of [
    ['show', ['5'], {}],
    ['show', ['18446744073709551616-0'], {}],
    ['list', [], { reason: 'bad' }],
    ['list', [], { since: 'yesterday' }],
    ['list', [], { stream: 'nobody' }],
    ['requeue', ['1-1'], { all: true }],
    ['drop', [], {}],
  ] as const) {
    const { error } = await run(action, ids, { ...nowhere, ...given });
    expect(error?.code, JSON.stringify([action, ids, given])).toBe('USAGE');
  }
  const unknown = await run('show', ['1-1']);
  expect(unknown.error?.describe()).toMatch(/^DEADLETTER_UNKNOWN: not in deadletters: 1-1; /);
});

test('each subcommand explains itself', { timeout: 60_000 }, async () => {
  const helps = ['list', 'show', 'requeue', 'drop', 'export'].map(async (name) => {
    const { promise, resolve } = Promise.withResolvers<string>();
    execFile(process.execPath, ['src/main.ts', 'deadletters', name, '--help'], (_error, out) => resolve(out));
    const text = await promise;
    expect(text).toContain(`Usage: subito deadletters ${name}`);
    for (const word of ['--json', '--stream', '--config', 'Example']) expect(text, name).toContain(word);
  });
  await Promise.all(helps);
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
    const [letter] = json<Listed>(await run('list', [], { ...given, json: true })).letters;
    expect(letter).toMatchObject({ source, reason: 'invalid', deliveries: 1 });
    const { id } = letter as Fields;
    expect((await run('show', [id!], given)).out).toContain('"nothing": 1');
    expect((await run('requeue', [id!], given)).code).toBe(0);
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
  } finally {
    await stop();
    rmSync(models, { recursive: true });
  }
});
