// `subito deadletters` looks at dead letters on a real server: list, show, export, and questions that are
// none.
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { PassThrough, Writable } from 'node:stream';
import type { Redis } from 'ioredis';
import { pack } from 'msgpackr';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { runDeadletters } from '../src/commands/deadletters.ts';
import { Graveyard, json, type Listed, type Value } from './support/deadletters.ts';
import type { Fields } from './support/settle.ts';

const DAY_MS = 86_400_000;

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

test('list: newest first, as many as asked, counted by reason, keys only when asked', async () => {
  const nowMs = Date.now();
  const old = await yard.bury(['key', 'me', 'data', '{}'], {
    id: `${nowMs - 3 * DAY_MS}-7`,
    reason: 'failed',
  });
  const other = String(await redis.xadd('deadletters', `${nowMs - 2 * DAY_MS}-0`, 'data', 'by hand'));
  const news = await yard.bury(['model', 'skip@3', 'key', 'you', 'data', '{}'], {
    detail: 'heard: \x1b[2Jis no',
  });
  const listed = json<Listed>(await yard.run('list', [], { json: true }));
  expect(listed.letters.map(({ id }) => id)).toEqual([news, other, old]);
  expect(listed.counts).toEqual({ invalid: 1, failed: 1, other: 1 });
  expect(listed.letters[0]).toMatchObject({
    model: 'skip@3',
    deliveries: 2,
    source: '5-5',
    reason: 'invalid',
  });
  expect(listed.letters[0]).not.toHaveProperty('key');

  const text = (await yard.run('list', [], { limit: '2' })).out;
  const [head, first, second, more, counts] = text.trimEnd().split('\n');
  expect(head).toMatch(/^ID +AGE +REASON +MODEL +DELIVERIES +DETAIL$/);
  // What would clear the operator's screen is spelled out.
  expect(first).toMatch(/ \d+ (?:ms|s|min) +invalid +skip@3 +2 +heard: \\u\{1b\}\[2Jis no$/);
  expect(second).toContain(' 2 d ');
  expect([more, counts]).toEqual([
    '... 1 older; --limit shows more',
    '3 dead letters: 1 invalid, 1 failed, 1 other',
  ]);
  expect((await yard.run('list', [], { keys: true })).out).toMatch(/KEY .*\n.* you /);

  const count = async (given: object) =>
    json<Listed>(await yard.run('list', [], { json: true, ...given })).total;
  expect(await count({ reason: 'failed' })).toBe(1);
  expect(await count({ model: 'skip' })).toBe(1);
  expect(await count({ model: 'skip@2' })).toBe(0);
  expect(await count({ since: other })).toBe(2);
  expect(await count({ until: other.slice(0, -2) })).toBe(2);
  expect(await count({ since: new Date(nowMs - DAY_MS).toISOString() })).toBe(1);
  expect((await yard.run('list', [], { config: yard.partitioned, stream: 'plays' })).out).toBe(
    '0 dead letters\n',
  );
});

test('list: pages of a long stream, and of large letters, miss and repeat none', {
  timeout: 60_000,
}, async () => {
  await yard.buryMany(2500);
  for (let i = 0; i < 20; i += 1) await yard.bury(['data', Buffer.alloc(300_000, 'x')], { reason: 'failed' });
  const all = json<Listed>(await yard.run('list', [], { json: true, limit: '5000' }));
  expect(new Set(all.letters.map(({ id }) => id)).size).toBe(2520);
  expect(all.counts).toEqual({ invalid: 1250, failed: 1270 });
  const lines = (await yard.run('export', [], { reason: 'failed' })).out.trimEnd().split('\n');
  expect(new Set(lines.map((line) => (JSON.parse(line) as Fields)['id'])).size).toBe(1270);
});

test('the largest id there is ends a page as any other', async () => {
  const ms = '18446744073709551615';
  // As many as the script reads at once.
  for (let i = 0; i < 16; i += 1)
    await yard.bury(['data', '{}'], { id: `${ms}-184467440737095516${String(i).padStart(2, '0')}` });
  const listed = json<Listed>(await yard.run('list', [], { json: true }));
  expect(listed.letters.map(({ id }) => id)[0]).toBe(`${ms}-${ms}`);
  expect((await yard.run('requeue', [], { all: true, yes: true })).out).toBe('16 requeued\n');
});

test('show: fields in their order, payloads decoded, whatever they are', async () => {
  const features = Buffer.from([0, 1, 254, 255]);
  const jsonId = await yard.bury(['key', 'me', 'data', '{"songs":["Bertha"]}', 'reason', 'mine'], {
    detail: 'x: no',
  });
  const packed = await yard.bury([
    'features',
    features,
    'data',
    pack({ at: 2n ** 60n, raw: Buffer.from([1]) }),
  ]);
  const broken = await yard.bury(['data', '{"songs":']);
  const empty = await yard.bury([], { detail: 'the entry was deleted' });
  const text = (await yard.run('show', [jsonId, packed, broken, empty])).out;
  expect(text).toContain(`dead letter ${jsonId} of events (in deadletters)\n`);
  expect(text).toMatch(/ {2}detail +x: no\n/);
  expect(text).toContain('    {\n      "songs": [\n        "Bertha"\n      ]\n    }\n  reason      mine\n');
  expect(text).toContain('features    4 bytes\n    0001feff\n');
  expect(text).toMatch(/data +9 bytes: .*JSON.*\n {4}\{"songs":\n/);
  expect(text).toContain('the event: nothing of it was kept\n');

  const [first, second] = (await yard.run('show', [jsonId, packed], { json: true })).out.trim().split('\n');
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
  for (const input of inputs) ids.push(await yard.bury(input, { reason: 'failed', detail: 'näh' }));
  const ran = await yard.run('export');
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
  for (let i = 0; i < 40; i += 1) await yard.bury(['data', Buffer.alloc(100_000, 'x')]);
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
  expect(await runDeadletters('export', [], { redis: yard.server.url }, io)).toBe(0);
  out.end();
  await once(out, 'finish');
  expect(lines).toBe(40);
  // One line, and not forty.
  expect(most).toBeLessThan(200_000);
});

test('a reader that has seen enough ends the export quietly', { timeout: 60_000 }, async () => {
  await yard.buryMany(20_000);
  const child = yard.spawn('export');
  let err = '';
  child.stderr?.on('data', (chunk) => {
    err += String(chunk);
  });
  await once(child.stdout!, 'data');
  child.stdout?.destroy();
  const [code] = (await once(child, 'exit')) as [number];
  expect({ code, err }).toEqual({ code: 0, err: '' });
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
    const { error } = await yard.run(action, ids, { ...nowhere, ...given });
    expect(error?.code, JSON.stringify([action, ids, given])).toBe('USAGE');
  }
  const unknown = await yard.run('show', ['1-1']);
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
