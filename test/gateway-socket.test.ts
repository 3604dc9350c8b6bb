/** The push protocol over real sockets: what a client sees for everything it can do wrong, and right. */
import type { IncomingMessage } from 'node:http';
import { createConnection } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { SubitoError } from '../src/errors.ts';
import { startGateway } from '../src/gateway/server.ts';
import { limitsDefault } from '../src/limits.ts';
import {
  OK,
  Player,
  player,
  prediction,
  start,
  stopGateways,
  TestBackend,
  until,
} from './support/gateway.ts';

afterEach(stopGateways);

test('hello is answered with the limits a client must know', async () => {
  const { ws } = await start();
  const one = await new Player(ws).opened();
  const welcome = await one.ask({ t: 'hello', id: 1, token: 'ignored while auth is off', sdk: 'js/1.0' });
  expect(welcome).toMatchObject({ t: 'welcome', id: 1, conn: 'c1', ping: 25_000, max: 16_384, events: 100 });
  expect(one.socket.protocol).toBe('subito.v1.json');
});

test('the first subprotocol that is spoken is chosen', async () => {
  const { ws } = await start();
  const one = await new Player(ws, ['graphql-ws', 'subito.v1.msgpack', 'subito.v1.json'] as never).opened();
  expect(one.socket.protocol).toBe('subito.v1.msgpack');
});

test.each(['subito.v2.json', undefined])('subprotocol %s is closed with 4506', async (name) => {
  const { ws, gateway } = await start();
  const one = new Player(ws, (name ?? []) as string);
  expect(await one.closed).toEqual({ code: 4506, reason: 'subprotocol' });
  expect(gateway.connections).toBe(0);
});

test.each(['subito.v1.json', 'subito.v1.msgpack'])('a direct event is answered (%s)', async (name) => {
  const { ws, backend } = await start();
  const one = await player(ws, name);
  const event = {
    t: 'event',
    id: 3,
    key: 'u42',
    model: 'genre',
    eid: 'e1',
    d: { energy: 0.5 },
    deadline: 50,
  };
  expect(await one.ask({ ...event, via: 'direct' })).toEqual({
    t: 'pred',
    id: 3,
    re: 'e1',
    key: 'u42',
    model: 'genre@3',
    st: 'ok',
    ms: { q: 0.4, i: 0.2 },
    d: { score: 0.5, probabilities: [0.25, 0.75] },
  });
  expect(backend.direct[0]).toMatchObject({
    data: { energy: 0.5 },
    event: { model: 'genre', key: 'u42', event: 'e1', deadlineMs: 50, json: name.endsWith('json') },
  });
});

test('outputs that cannot be read are an internal error; a prediction like that is skipped', async () => {
  const { ws, backend, gateway } = await start();
  const nonsense = Buffer.from([0x82, 0xa1]);
  backend.answer = () => ({ ...OK, outputs: nonsense });
  const one = await player(ws);
  expect(await one.ask({ t: 'event', id: 3, d: {} })).toMatchObject({ code: 100 });
  await one.ask({ t: 'sub', id: 4, ch: 'key:u42' });
  gateway.publish(prediction(1, { outputs: nonsense }));
  gateway.publish(prediction(2));
  expect(await one.take((frame) => frame['t'] === 'pred')).toMatchObject({ seq: 2, conf: 1, d: { n: 2 } });
});

test('an append that throws is an internal error, and the id is free again', async () => {
  const { ws, backend } = await start();
  const { append } = backend;
  backend.append = () => {
    throw new Error('a bug');
  };
  const one = await player(ws);
  const event = { t: 'event', key: 'u42', eid: 'e1', via: 'stream', d: {} };
  expect(await one.ask({ ...event, id: 4 })).toMatchObject({ code: 100 });
  backend.append = append;
  expect(await one.ask({ ...event, id: 5 })).toMatchObject({ t: 'ack', dup: false });
});

test('model and key may be left out', async () => {
  const { ws, backend } = await start();
  const one = await player(ws);
  expect(await one.ask({ t: 'event', id: 3, d: { energy: 1 } })).toMatchObject({ t: 'pred', st: 'ok' });
  expect(backend.direct[0]?.event).toMatchObject({ model: '', key: '', deadlineMs: 0 });
});

const answers = [
  ['invalid', { status: 'invalid', detail: 'energy: must be a number' }, { code: 107, path: 'energy' }],
  ['failed', { status: 'failed', detail: '' }, { code: 100, retry: true }],
  ['overloaded', { status: 'overloaded', retryMs: 40 }, { code: 113, retry: true, after: 40 }],
  ['expired', { status: 'expired' }, { code: 114, retry: true }],
  ['unavailable', { status: 'unavailable', retryMs: 2000 }, { code: 115, retry: true, after: 2000 }],
  ['unknown_model', { status: 'unknown_model' }, { code: 116, retry: false }],
] as const;
test.each(answers)('an event that is %s gets its error', async (_name, answer, error) => {
  const { ws, backend } = await start();
  backend.answer = () => ({ ...OK, outputs: new Uint8Array(0), ...answer });
  const one = await player(ws);
  expect(await one.ask({ t: 'event', id: 3, eid: 'e1', d: {} })).toMatchObject({
    t: 'error',
    id: 3,
    re: 'e1',
    ...error,
  });
});

test('an engine that throws is an internal error, and the connection goes on', async () => {
  const { ws, backend } = await start();
  backend.answer = () => {
    throw new Error('a bug');
  };
  const one = await player(ws);
  const error = await one.ask({ t: 'event', id: 3, d: {} });
  expect(error).toMatchObject({ code: 100 });
  expect(JSON.stringify(error)).not.toContain('a bug');
  backend.answer = () => OK;
  expect(await one.ask({ t: 'event', id: 4, d: {} })).toMatchObject({ t: 'pred' });
});

const wrong = [
  ['an unknown type', { t: 'subscribe' }, { code: 104 }],
  ['no type', {}, { code: 104 }],
  ['auth, which is not spoken', { t: 'auth', token: 'x' }, { code: 104 }],
  ['a second hello', { t: 'hello' }, { code: 103 }],
  ['an unknown model', { t: 'event', model: 'nope', d: {} }, { code: 116 }],
  ['an unknown firehose', { t: 'sub', ch: 'model:nope' }, { code: 116 }],
  ['a channel of no kind', { t: 'sub', ch: 'u42' }, { code: 107, path: 'ch' }],
  ['a channel with a long key', { t: 'sub', ch: `key:${'x'.repeat(129)}` }, { code: 107, path: 'ch' }],
  ['a mode of no kind', { t: 'sub', ch: 'key:a', mode: 'some' }, { code: 107, path: 'mode' }],
  ['negative credit', { t: 'sub', ch: 'key:a', credit: -1 }, { code: 107, path: 'credit' }],
  ['models that are no list', { t: 'sub', ch: 'key:a', models: 'genre' }, { code: 107, path: 'models' }],
  ['a model that is no text', { t: 'sub', ch: 'key:a', models: [7] }, { code: 107, path: 'models[0]' }],
  ['no data', { t: 'event', key: 'a' }, { code: 107, path: 'd' }],
  ['data that is a list', { t: 'event', d: [1] }, { code: 107, path: 'd' }],
  ['a key that is a number', { t: 'event', key: 42, d: {} }, { code: 107, path: 'key' }],
  ['a long event id', { t: 'event', eid: 'x'.repeat(65), d: {} }, { code: 107, path: 'eid' }],
  ['a deadline of zero', { t: 'event', deadline: 0, d: {} }, { code: 107, path: 'deadline' }],
  ['another way', { t: 'event', via: 'pigeon', d: {} }, { code: 107, path: 'via' }],
] as const;
test.each(wrong)('%s is an error and the connection stays', async (_name, frame, error) => {
  const { ws, backend } = await start();
  for (const name of ['subito.v1.json', 'subito.v1.msgpack']) {
    const one = await player(ws, name);
    expect(await one.ask({ ...frame, id: 9 })).toMatchObject({ t: 'error', id: 9, retry: false, ...error });
    expect(await one.ask({ t: 'ping', id: 10 })).toEqual({ t: 'pong', id: 10 });
  }
  expect(backend.direct).toEqual([]);
});

test('before hello nothing is taken, and without one the connection is closed with 4008', async () => {
  const { ws } = await start({ helloMsMax: 150 });
  const one = await new Player(ws).opened();
  expect(await one.ask({ t: 'sub', id: 2, ch: 'key:u42' })).toMatchObject({ code: 101 });
  expect(await one.closed).toEqual({ code: 4008, reason: 'no_hello' });
});

test('a ping without a pong closes with 4003, with one it does not', async () => {
  const { ws } = await start({ pingMs: 300, helloMsMax: 300 });
  const silent = await player(ws);
  const polite = await player(ws);
  polite.socket.on('message', (data: Buffer) => {
    if (data.toString().includes('"ping"')) polite.send({ t: 'pong' });
  });
  expect(await silent.closed).toEqual({ code: 4003, reason: 'no_pong' });
  expect(polite.socket.readyState).toBe(polite.socket.OPEN);
});

const malformed: readonly (readonly [string, string, string | Buffer])[] = [
  ['half an object', 'subito.v1.json', '{"t":"ping"'],
  ['a list', 'subito.v1.json', '[1]'],
  ['nothing', 'subito.v1.json', ''],
  ['nesting', 'subito.v1.json', `{"t":"event","d":${'['.repeat(40)}${']'.repeat(40)}}`],
  ['a binary frame', 'subito.v1.json', Buffer.from('{"t":"ping"}')],
  ['a text frame', 'subito.v1.msgpack', '{"t":"ping"}'],
  ['half a map', 'subito.v1.msgpack', Buffer.from([0x82, 0xa1, 0x74, 0xa4])],
  ['a false count', 'subito.v1.msgpack', Buffer.from([0xdf, 0x7f, 0xff, 0xff, 0xff, 0xa1, 0x74])],
  ['an extension type', 'subito.v1.msgpack', Buffer.from([0x81, 0xa1, 0x74, 0xd4, 0x72, 0x00])],
  ['more than a map', 'subito.v1.msgpack', Buffer.from([0x80, 0x80])],
  [
    'deep nesting',
    'subito.v1.msgpack',
    Buffer.from([0x81, 0xa1, 0x64, ...Array<number>(9000).fill(0x91), 0xc0]),
  ],
  ['a map with numbers for keys', 'subito.v1.msgpack', Buffer.from([0x81, 0x01, 0x01])],
];
test.each(malformed)('%s in %s is closed with 4500', async (_name, subprotocol, bytes) => {
  const { ws } = await start();
  const one = await player(ws, subprotocol);
  one.socket.send(bytes);
  const { code, reason } = await one.closed;
  expect(code).toBe(4500);
  expect(reason).toMatch(/^malformed: ./);
});

test('a message over the limit is closed with 4513, one at it is taken, in fragments too', async () => {
  const { ws } = await start();
  const frame = JSON.stringify({ t: 'ping', id: 5, pad: '' });
  const exact = JSON.stringify({ t: 'ping', id: 5, pad: 'x'.repeat(16_384 - frame.length) });
  const one = await player(ws);
  for (let at = 0; at < exact.length; at += 5000) {
    one.socket.send(exact.slice(at, at + 5000), { fin: at + 5000 >= exact.length });
  }
  expect(await one.answer(5)).toEqual({ t: 'pong', id: 5 });
  one.socket.send(`${exact} `);
  expect(await one.closed).toEqual({ code: 4513, reason: 'too_large' });
  // Far beyond it the message is not even read to its end.
  const two = await player(ws);
  two.socket.send('x'.repeat(200_000));
  expect((await two.closed).code).toBe(1006);
});

test('past the rate events get 111 with after; whoever goes on and on is closed with 4006', async () => {
  const { ws, backend } = await start({ eventsPerSecondMax: 10 });
  const one = await player(ws);
  for (let id = 100; id < 115; id++) one.send({ t: 'event', id, d: {} });
  const refused = await one.answer(112);
  expect(refused).toMatchObject({ t: 'error', code: 111, retry: true });
  expect(refused['after']).toBeGreaterThan(0);
  expect(refused['after']).toBeLessThanOrEqual(1000);
  expect(backend.direct.length).toBeGreaterThanOrEqual(10);
  expect(backend.direct.length).toBeLessThan(15);
  for (let id = 200; id < 400; id++) one.send({ t: 'event', id, d: {} });
  expect(await one.closed).toEqual({ code: 4006, reason: 'flooding' });
});

test('events without an answer are bounded', async () => {
  const { ws, backend } = await start({ eventsPerSecondMax: 5 });
  backend.answer = () => null;
  const one = await player(ws);
  let now = 0;
  // Five a second: after two seconds' worth is stuck in the engine, the next is overload.
  for (let id = 100; id < 111; id++) {
    if (id % 5 === 0 && id > 100) await new Promise((resolve) => setTimeout(resolve, 1010));
    one.send({ t: 'event', id, d: {} });
    now = id;
  }
  expect(await one.answer(now)).toMatchObject({ code: 113, retry: true, after: 1000 });
  expect(backend.held.length).toBe(10);
});

test('connections past the limit are closed with 4509', async () => {
  const { ws, gateway } = await start({ connectionsMax: 2 });
  await player(ws);
  const second = await player(ws);
  expect(await new Player(ws).closed).toEqual({ code: 4509, reason: 'too_many_connections' });
  expect(gateway.connections).toBe(2);
  second.socket.close();
  await until(() => gateway.connections === 1);
  await player(ws);
});

test('an address that connects too often gets 429', async () => {
  const { ws } = await start({ connectionsPerIpPerSecondMax: 3 });
  for (let i = 0; i < 3; i++) await player(ws);
  const refused = new Player(ws);
  const response = await new Promise<IncomingMessage>((resolve) => {
    refused.socket.on('unexpected-response', (_request, answer) => resolve(answer));
  });
  expect([response.statusCode, response.headers['retry-after']]).toEqual([429, '1']);
  const body = JSON.parse((await response.toArray()).join('')) as Record<string, unknown>;
  expect(body).toMatchObject({ code: 'rate_limited', error: expect.stringContaining('too many') });
  expect(body['retry_ms']).toBeGreaterThan(0);
  expect(body['retry_ms']).toBeLessThanOrEqual(334);
});

test('pages of other origins are refused, the own and the listed ones are not', async () => {
  const { ws, gateway } = await start({}, { origins: ['https://player.example.com'] });
  const statusOf = async (origin: string): Promise<unknown> => {
    const one = new Player(ws, 'subito.v1.json', { origin });
    return new Promise((resolve) => {
      one.socket.on('unexpected-response', (_request, response) => resolve(response.statusCode));
      one.socket.on('open', () => resolve('open'));
    });
  };
  expect(await statusOf('https://evil.example')).toBe(403);
  expect(await statusOf('null')).toBe(403);
  expect(await statusOf(`http://127.0.0.1:${gateway.port + 1}`)).toBe(403);
  expect(await statusOf('https://player.example.com')).toBe('open');
  expect(await statusOf(gateway.url)).toBe('open');
});

test('draining closes with 4000 and stops listening; answers that come late harm nobody', async () => {
  const { ws, gateway, backend } = await start();
  backend.answer = () => null;
  const one = await player(ws);
  one.send({ t: 'event', id: 3, d: {} });
  await until(() => backend.held.length === 1);
  const drained = gateway.drain();
  expect(await one.closed).toEqual({ code: 4000, reason: 'draining' });
  backend.held[0]?.(OK);
  await drained;
  expect(gateway.connections).toBe(0);
  const refused = await new Promise((resolve) => {
    createConnection(gateway.port, '127.0.0.1').on('error', (error: NodeJS.ErrnoException) =>
      resolve(error.code),
    );
  });
  expect(refused).toBe('ECONNREFUSED');
});

test('a client that goes away mid-request leaves nothing behind', async () => {
  const { ws, gateway, backend } = await start();
  backend.answer = () => null;
  for (let i = 0; i < 20; i++) {
    const one = await player(ws);
    await one.ask({ t: 'sub', id: 2, ch: 'key:u42' });
    one.send({ t: 'event', id: 3, d: {} });
    await until(() => backend.held.length === i + 1);
    one.socket.terminate();
  }
  await until(() => gateway.connections === 0);
  for (const answer of backend.held) answer(OK);
  gateway.publish(prediction(1));
  expect(gateway.hub.subscriptions).toBe(0);
});

test('a taken port is an error that says what to do', async () => {
  const { gateway } = await start();
  const again = startGateway({
    host: '127.0.0.1',
    port: gateway.port,
    backend: new TestBackend(),
    staticDir: null,
    origins: [],
    limits: limitsDefault,
  });
  const error: unknown = await again.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(SubitoError);
  expect((error as SubitoError).describe()).toMatch(/in use.*gateway\.port/);
});
