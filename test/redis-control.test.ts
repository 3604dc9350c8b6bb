// The control connection against real servers.
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type Control, connectControl } from '../src/redis/control.ts';
import { parseEndpoint } from '../src/redis/endpoint.ts';
import { collectNotices, endpointOf, until } from './support/core.ts';
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
  test('groups are made once, from the beginning of the stream', async () => {
    const control = await connect();
    const id = await control.append('a', ['data', Buffer.from([0, 255])]);
    await control.createGroup('a', 'g');
    await control.createGroup('a', 'g');
    const redis = server.connect();
    const reply = await redis.xreadgroup('GROUP', 'g', 'me', 'STREAMS', 'a', '>');
    expect(reply?.[0]?.[1][0]?.[0]).toBe(id);
  });

  test('the last id, of an empty stream too', async () => {
    const control = await connect();
    expect(await control.lastId('b')).toBe('0');
    const id = await control.append('b', ['x', 'y']);
    expect(await control.lastId('b')).toBe(id);
  });

  test('backlog: unread and pending; unknown without a group', async () => {
    const control = await connect();
    expect(await control.backlog('c', 'g')).toEqual({ stream: 'c', unread: null, pending: null });
    await control.createGroup('c', 'g');
    for (let i = 0; i < 5; i += 1) await control.append('c', ['x', 'y']);
    await server.connect().xreadgroup('GROUP', 'g', 'me', 'COUNT', 2, 'STREAMS', 'c', '>');
    expect(await control.backlog('c', 'g')).toEqual({ stream: 'c', unread: 3, pending: 2 });
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
    });
    await tls.stop();
  });
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
  expect(await control.backlog('a', 'g')).toEqual({ stream: 'a', unread: null, pending: null });
  await own.restart();
  await until('works again', () => control.append('a', ['x', '3']).catch(() => ''));
  expect(await own.connect().xlen('a')).toBe(2);
  notices.stop();
  expect(notices.codes()).toContain('CONTROL_DISCONNECTED');
  control.close();
  await own.stop();
});
