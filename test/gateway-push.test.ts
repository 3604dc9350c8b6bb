/** Subscriptions, credit and appends over real sockets. */
import { pack } from 'msgpackr';
import { afterEach, expect, test } from 'vitest';
import { SubitoError } from '../src/errors.ts';
import type { Player } from './support/gateway.ts';
import { player, prediction, start, stopGateways, until } from './support/gateway.ts';

afterEach(stopGateways);

test('a subscription is told apart, counted and ended', async () => {
  const { ws, gateway, backend } = await start({ subscriptionsMax: 2, eventsPerSecondMax: 100 });
  const one = await player(ws);
  const subd = await one.ask({ t: 'sub', id: 2, ch: 'key:u42', since: { e: 'old', sid: '1-1', seq: 118 } });
  expect(subd).toMatchObject({ t: 'subd', ch: 'key:u42', seq: 0, recovered: false, replayed: 0 });
  expect(await one.ask({ t: 'sub', id: 3, ch: 'key:u42' })).toMatchObject({ code: 105 });
  expect(await one.ask({ t: 'sub', id: 4, ch: 'model:genre' })).toMatchObject({ t: 'subd' });
  expect(await one.ask({ t: 'sub', id: 5, ch: 'key:u43' })).toMatchObject({ code: 106 });
  expect(backend.wanted).toEqual([true]);
  one.send({ t: 'unsub', id: 6, ch: 'key:u42' });
  expect(await one.ask({ t: 'sub', id: 7, ch: 'key:u43' })).toMatchObject({ t: 'subd' });
  one.socket.close();
  await until(() => gateway.hub.subscriptions === 0);
  expect(backend.wanted).toEqual([true, false]);
});

test.each(['subito.v1.json', 'subito.v1.msgpack'])('predictions reach subscribers (%s)', async (name) => {
  const { ws, gateway } = await start();
  const one = await player(ws, name);
  await one.ask({ t: 'sub', id: 2, ch: 'key:u42', models: ['genre'] });
  expect(gateway.hub.interested('u42', 'genre@3')).toBe(true);
  expect(gateway.hub.interested('u43', 'genre@3')).toBe(false);
  gateway.publish(prediction(1, { key: 'u43' }));
  gateway.publish(prediction(2, { model: 'mood@1' }));
  gateway.publish(prediction(3, { outputs: pack({ n: 3, f: 0.5 }), event: 'e3' }));
  gateway.publish(prediction(4));
  expect(await one.take((frame) => frame['t'] === 'pred')).toEqual({
    t: 'pred',
    ch: 'key:u42',
    seq: 1,
    conf: 0,
    sid: '1760000000003-0',
    re: 'e3',
    src: '1750000000003-0',
    key: 'u42',
    model: 'genre@3',
    st: 'ok',
    ms: { q: 0.4, i: 0.2 },
    d: { n: 3, f: 0.5 },
  });
  expect(await one.take((frame) => frame['t'] === 'pred')).toMatchObject({ seq: 2, conf: 0, d: { n: 4 } });
});

test.each(['subito.v1.json', 'subito.v1.msgpack'])(
  'a degraded prediction names its rung (%s)',
  async (name) => {
    const { ws, gateway } = await start();
    const one = await player(ws, name);
    await one.ask({ t: 'sub', id: 2, ch: 'key:u42' });
    gateway.publish(prediction(1, { status: 'degraded', rung: 'previous' }));
    gateway.publish(prediction(2));
    const pushed = () => one.take((frame) => frame['t'] === 'pred');
    expect(await pushed()).toMatchObject({ st: 'degraded', rung: 'previous', d: { n: 1 } });
    expect(await pushed()).not.toHaveProperty('rung');
  },
);

test('mode latest conflates while credit is out, and says how many', async () => {
  const { ws, gateway } = await start();
  const one = await player(ws);
  await one.ask({ t: 'sub', id: 2, ch: 'key:u42', mode: 'latest', credit: 1 });
  for (let n = 1; n <= 5; n++) gateway.publish(prediction(n));
  expect(await one.take((frame) => frame['t'] === 'pred')).toMatchObject({ seq: 1, conf: 0, d: { n: 1 } });
  one.send({ t: 'flow', ch: 'key:u42', seq: 1, credit: 1 });
  expect(await one.take((frame) => frame['t'] === 'pred')).toMatchObject({ seq: 5, conf: 3, d: { n: 5 } });
  expect(one.frames).toEqual([]);
});

test('mode all without credit is closed with 4002 when too much waits', async () => {
  const { ws, gateway } = await start({ outboxBytesMax: 20_000 });
  const one = await player(ws);
  await one.ask({ t: 'sub', id: 2, ch: 'key:u42', mode: 'all', credit: 0 });
  for (let n = 1; n <= 100; n++) gateway.publish(prediction(n));
  expect(await one.closed).toEqual({ code: 4002, reason: 'slow_consumer' });
  await until(() => gateway.hub.subscriptions === 0);
});

test('a client that stops reading is closed with 4002, its backlog bounded', async () => {
  const { ws, gateway } = await start({ outboxBytesMax: 100_000 });
  const one = await player(ws);
  await one.ask({ t: 'sub', id: 2, ch: 'key:u42', mode: 'all', credit: 60_000 });
  one.socket.pause();
  const outputs = Buffer.from(JSON.stringify({ text: 'x'.repeat(50_000) }));
  for (let n = 1; n <= 2000 && gateway.connections > 0; n++) {
    gateway.publish(prediction(n, { outputs }));
    if (n % 20 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  expect(gateway.connections).toBe(0);
  expect(gateway.hub.subscriptions).toBe(0);
  one.socket.resume();
  expect(await one.closed).toEqual({ code: 4002, reason: 'slow_consumer' });
});

test('an event sent twice is appended once, also while the first is on its way', async () => {
  const { ws, backend } = await start();
  let arrive: (sid: string) => void = () => undefined;
  let appends = 0;
  backend.append = () => {
    appends++;
    return new Promise((resolve) => {
      arrive = resolve;
    });
  };
  const one = await player(ws);
  const two = await player(ws);
  const event = { t: 'event', key: 'u42', eid: 'e1', via: 'stream', d: { energy: 1 } };
  one.send({ ...event, id: 4 });
  one.send({ ...event, id: 5 });
  await until(() => appends === 1);
  two.send({ ...event, id: 6 });
  expect(await two.ask({ t: 'ping', id: 7 })).toMatchObject({ t: 'pong' });
  arrive('1761-0');
  expect(await one.answer(4)).toEqual({ t: 'ack', id: 4, sid: '1761-0', dup: false });
  expect(await one.answer(5)).toEqual({ t: 'ack', id: 5, sid: '1761-0', dup: true });
  expect(await two.answer(6)).toEqual({ t: 'ack', id: 6, sid: '1761-0', dup: true });
  expect(await two.ask({ ...event, id: 8 })).toEqual({ t: 'ack', id: 8, sid: '1761-0', dup: true });
  expect(appends).toBe(1);
});

test('an append that failed is told, and the next try is a first one', async () => {
  const { ws, backend } = await start();
  const { append } = backend;
  backend.append = () => Promise.reject(new SubitoError('REDIS_UNREACHABLE', 'redis://secret@host is gone'));
  const one = await player(ws);
  const event = { t: 'event', key: 'u42', eid: 'e1', via: 'stream', d: { energy: 1 } };
  const error = await one.ask({ ...event, id: 4 });
  expect(error).toMatchObject({ t: 'error', code: 113, retry: true });
  expect(error['after']).toBeGreaterThan(0);
  expect(JSON.stringify(error)).not.toContain('secret');
  backend.append = () => Promise.reject(new Error('a bug'));
  expect(await one.ask({ ...event, id: 5 })).toMatchObject({ t: 'error', code: 100 });
  backend.append = append;
  expect(await one.ask({ ...event, id: 6 })).toEqual({ t: 'ack', id: 6, sid: '1761-1', dup: false });
  expect(backend.appended[0]).toMatchObject({ key: 'u42', event: 'e1', fields: { energy: 1 } });
});

test('a thousand connections, each with a subscription of its own', async () => {
  const { ws, gateway } = await start();
  const players: Player[] = [];
  for (let i = 0; i < 1000; i += 100) {
    const some = Array.from({ length: 100 }, () => player(ws));
    players.push(...(await Promise.all(some)));
  }
  await Promise.all(players.map((one, i) => one.ask({ t: 'sub', id: 2, ch: `key:u${i}` })));
  expect(gateway.connections).toBe(1000);
  for (let i = 0; i < 1000; i++) gateway.publish(prediction(i, { key: `u${i}` }));
  const got = await Promise.all(players.map((one) => one.take((frame) => frame['t'] === 'pred')));
  expect(got.map((frame) => frame['d'])).toEqual(players.map((_, n) => ({ n })));
  for (const one of players) one.socket.terminate();
  await until(() => gateway.connections === 0);
  expect(gateway.hub.subscriptions).toBe(0);
});
