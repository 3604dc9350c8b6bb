// The control connection against real servers.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type Control, connectControl } from '../src/redis/control.ts';
import { parseEndpoint } from '../src/redis/endpoint.ts';
import { collectNotices, endpointOf, Relay, until } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

let server: TestRedis;
const controls: Control[] = [];

beforeAll(async () => {
  server = await startRedis({ requirepass: 'secret' });
});
afterAll(() => server.stop());
afterEach(() => {
  for (const control of controls.splice(0)) control.close();
});

async function connect(to = server): Promise<Control> {
  const control = await connectControl({ endpoint: endpointOf(to), commandMsMax: 1000 });
  controls.push(control);
  return control;
}

describe('what it says', () => {
  test('the last id, of an empty stream too', async () => {
    const control = await connect();
    expect(await control.lastId('b')).toBe('0');
    const id = await control.append('b', ['x', 'y']);
    expect(await control.lastId('b')).toBe(id);
  });

  test('backlog: unread and pending; nothing without a stream', async () => {
    const control = await connect();
    expect(await control.backlog('c', 'g')).toMatchObject({ stream: 'c', unread: 0, pending: 0 });
    await server.connect().xgroup('CREATE', 'c', 'g', '0', 'MKSTREAM');
    for (let i = 0; i < 5; i += 1) await control.append('c', ['x', 'y']);
    await server.connect().xreadgroup('GROUP', 'g', 'me', 'COUNT', 2, 'STREAMS', 'c', '>');
    expect(await control.backlog('c', 'g')).toMatchObject({ stream: 'c', unread: 3, pending: 2 });
  });

  test('an append that Redis refuses has a code', async () => {
    const control = await connect();
    await server.connect().set('d', 'in the way');
    await expect(control.append('d', ['x', 'y'])).rejects.toMatchObject({
      code: 'APPEND_FAILED',
      retryable: true,
    });
  });
});

describe('who may not', () => {
  test('a wrong password', async () => {
    const endpoint = { ...endpointOf(server), password: 'nope-nope' };
    const error = await connectControl({ endpoint, commandMsMax: 1000 }).catch((e: unknown) => e as Error);
    expect(error).toMatchObject({ code: 'REDIS_UNREACHABLE' });
    expect(String((error as Error).message)).toContain('WRONGPASS');
    expect(String((error as Error).message)).not.toContain('nope-nope');
  });

  test('a database that does not exist', async () => {
    const endpoint = { ...endpointOf(server), db: 99 };
    await expect(connectControl({ endpoint, commandMsMax: 1000 })).rejects.toMatchObject({
      code: 'REDIS_UNREACHABLE',
      message: expect.stringMatching(/database 99: .*out of range/),
    });
  });

  test('a port that does not speak TLS', async () => {
    const endpoint = { ...parseEndpoint(server.url.replace('redis:', 'rediss:')), password: '' };
    const started = performance.now();
    await expect(connectControl({ endpoint, commandMsMax: 1000 })).rejects.toMatchObject({
      code: 'REDIS_UNREACHABLE',
      message: expect.stringContaining('it may not speak TLS'),
    });
    expect(performance.now() - started).toBeLessThan(7000);
  }, 10_000);

  test('nobody listens', async () => {
    const endpoint = parseEndpoint('redis://127.0.0.1:1');
    await expect(connectControl({ endpoint, commandMsMax: 1000 })).rejects.toMatchObject({
      code: 'REDIS_UNREACHABLE',
    });
  });

  test('TLS with the certificate, and without', async () => {
    const tls = await startRedis({ tls: true });
    const control = await connect(tls);
    expect(await control.lastId('x')).toBe('0');
    const endpoint = parseEndpoint(tls.url);
    await expect(connectControl({ endpoint, commandMsMax: 1000 })).rejects.toMatchObject({
      code: 'REDIS_UNREACHABLE',
      // It does speak TLS: what is wrong is the certificate.
      message: expect.stringMatching(/self.signed certificate$/),
    });
    await tls.stop();
  });
});

test('a reconnect that may not select its database writes to no other one', async () => {
  const own = await startRedis();
  const control = await connectControl({ endpoint: { ...endpointOf(own), db: 3 }, commandMsMax: 300 });
  controls.push(control);
  const redis = own.connect();
  await redis.acl('SETUSER', 'default', '-select');
  await redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
  const outcomes: unknown[] = [];
  for (let i = 0; i < 30; i += 1) {
    outcomes.push(await control.append('a', ['x', 'y']).catch((error: { code: string }) => error.code));
    await sleep(10);
  }
  expect(new Set(outcomes)).toEqual(new Set(['APPEND_FAILED']));
  expect(await redis.dbsize()).toBe(0);
  await redis.acl('SETUSER', 'default', '+select');
  await until('works again', () => control.append('a', ['x', 'y']).catch(() => ''));
  expect(await redis.dbsize()).toBe(0);
  control.close();
  await own.stop();
});

test('a server that became a replica is asked for anew, where its name leads by then', async () => {
  const [old, next] = [await startRedis(), await startRedis()];
  const relay = await Relay.to(old.port);
  const control = await connectControl({ endpoint: endpointOf(old, relay.port), commandMsMax: 1000 });
  controls.push(control);
  await control.append('a', ['x', '1']);
  await old.connect().replicaof('127.0.0.1', next.port);
  const before = relay.connections;
  await expect(control.append('a', ['x', '2'])).rejects.toMatchObject({ code: 'APPEND_FAILED' });
  await until('asks again', () => relay.connections > before);
  control.close();
  relay.close();
  await Promise.all([old.stop(), next.stop()]);
});

test('an outage: commands fail with a code, not later than their limit, and work again after', async () => {
  const own = await startRedis({ appendonly: true });
  const notices = collectNotices();
  const control = await connect(own);
  await control.append('a', ['x', '1']);
  await own.kill();
  const started = performance.now();
  await expect(control.append('a', ['x', '2'])).rejects.toMatchObject({ code: 'APPEND_FAILED' });
  expect(performance.now() - started).toBeLessThan(1500);
  expect(await control.backlog('a', 'g')).toMatchObject({ unread: null, pending: null });
  await own.restart();
  await until('works again', () => control.append('a', ['x', '3']).catch(() => ''));
  expect(await own.connect().xlen('a')).toBe(2);
  notices.stop();
  expect(notices.codes()).toContain('CONTROL_DISCONNECTED');
  control.close();
  await own.stop();
});
