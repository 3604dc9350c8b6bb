// The hot connection against real servers: greeting, secrets, TLS, holding back, reconnects.

import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { parseEndpoint, type RedisEndpoint } from '../src/redis/endpoint.ts';
import { encodeCommand, lineEnd } from '../src/redis/resp.ts';
import { RedisSocket } from '../src/redis/socket.ts';
import { endpointOf, Relay, until } from './support/core.ts';
import { startRedis, type TestRedis } from './support/redis.ts';

const sockets: RedisSocket[] = [];
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.close();
});

/** An owner that reads lines: a reply of the commands used here is one, or a bulk string: two. */
class Lines {
  readonly lines: string[] = [];
  readonly reasons: string[] = [];
  opens = 0;
  /** Lines that may still be taken; then it holds. */
  room = Number.POSITIVE_INFINITY;
  due = false;
  bufferMax = 0;
  waitingMax = 0;
  readonly socket: RedisSocket;

  constructor(endpoint: RedisEndpoint, greeting: string[][] = [], bufferBytes = 65_536) {
    this.socket = new RedisSocket({
      endpoint,
      name: 'subito:test',
      greeting,
      bufferBytes,
      onOpen: () => {
        this.opens += 1;
      },
      onBytes: (buffer, start, end) => this.#take(buffer, start, end),
      onClose: (reason) => this.reasons.push(reason),
      answerDue: () => this.due,
      answerMsMax: 300,
    });
    sockets.push(this.socket);
    this.socket.open();
  }

  #take(buffer: Buffer, start: number, end: number): number {
    this.bufferMax = Math.max(this.bufferMax, buffer.length);
    this.waitingMax = Math.max(this.waitingMax, end - start);
    let at = start;
    for (let cr = lineEnd(buffer, at, end); cr >= 0; cr = lineEnd(buffer, at, end)) {
      if (this.room === 0) {
        this.socket.hold();
        return at;
      }
      this.room -= 1;
      this.lines.push(buffer.toString('latin1', at, cr));
      at = cr + 2;
    }
    return at;
  }

  send(...args: string[]): void {
    this.socket.write(encodeCommand(args));
  }

  async opened(times = 1): Promise<this> {
    await until(`open ${times} times: ${this.reasons}`, () => this.opens >= times && this.socket.isOpen);
    return this;
  }
}

describe('against a plain server', () => {
  let redis: TestRedis;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.stop());

  test('says its name, chooses the database, runs its greeting, knows its number', async () => {
    const endpoint = { ...endpointOf(redis), db: 3 };
    const owner = await new Lines(endpoint, [['SET', 'greeted', 'yes']]).opened();
    const control = redis.connect();
    await control.select(3);
    expect(await control.get('greeted')).toBe('yes');
    const list = String(await control.client('LIST'));
    const mine = list.split('\n').find((line) => line.includes('name=subito:test ')) ?? '';
    expect(mine).toContain(`id=${owner.socket.clientId} `);
    expect(mine).toContain('db=3');
  });

  test('a greeting that is refused is tried again with growing pauses', async () => {
    const owner = new Lines(endpointOf(redis), [['NOSUCHCOMMAND']]);
    await sleep(500);
    expect(owner.opens).toBe(0);
    expect(owner.reasons[0]).toContain('unknown command');
    // 10, 20, 40, 80, 160, 320 ms at the least.
    expect(owner.reasons.length).toBeGreaterThan(1);
    expect(owner.reasons.length).toBeLessThan(8);
  });

  test('comes back after CLIENT KILL, with a new number', async () => {
    const owner = await new Lines(endpointOf(redis)).opened();
    const before = owner.socket.clientId;
    await redis.connect().client('KILL', 'ID', before);
    await owner.opened(2);
    expect(owner.socket.clientId).not.toBe(before);
    owner.send('ECHO', 'still there');
    await until('echo', () => owner.lines.includes('still there'));
  });

  test('hold and release lose no byte and repeat none, wherever the owner stops', async () => {
    const owner = await new Lines(endpointOf(redis), [], 4096).opened();
    const expected: string[] = [];
    for (let round = 0; round < 60; round += 1) {
      owner.room = [0, 1, 7, 50][round % 4] as number;
      for (let i = 0; i < 40; i += 1) {
        const text = `${round}-${i}-${'x'.repeat((round * 7 + i * 13) % 90)}`;
        expected.push(`$${text.length}`, text);
        owner.send('ECHO', text);
      }
      // What came is consumed in one go here, and the next bytes come later: they must not be mixed up.
      await sleep(round % 3);
      owner.room = Number.POSITIVE_INFINITY;
      owner.socket.release();
      await until(`round ${round}: ${owner.reasons}`, () => owner.lines.length >= expected.length);
    }
    expect(owner.lines).toEqual(expected);
    expect(owner.reasons).toEqual([]);
  });

  test('the receive buffer stays within twice its size, however much waits behind a hold', async () => {
    const owner = await new Lines(endpointOf(redis), [], 65_536).opened();
    const text = 'y'.repeat(1000);
    for (let round = 0; round < 20; round += 1) {
      owner.room = 0;
      for (let i = 0; i < 2000; i += 1) owner.send('ECHO', text);
      await sleep(20);
      owner.room = Number.POSITIVE_INFINITY;
      owner.socket.release();
      await until(`round ${round}`, () => owner.lines.length === (round + 1) * 4000);
    }
    expect(owner.bufferMax).toBeLessThanOrEqual(131_072);
  });

  test('one element larger than the buffer makes it grow', async () => {
    const owner = await new Lines(endpointOf(redis), [], 1024).opened();
    const text = 'z'.repeat(1_000_000);
    owner.send('ECHO', text);
    await until('echo', () => owner.lines.length === 2);
    expect(owner.lines[1] === text).toBe(true);
  });

  test('an owner that cannot make sense of the bytes gets a new connection', async () => {
    const owner = await new Lines(endpointOf(redis)).opened();
    owner.socket.fail('nonsense');
    await owner.opened(2);
    expect(owner.reasons).toEqual(['nonsense']);
  });

  test('after close nothing is opened again', async () => {
    const owner = await new Lines(endpointOf(redis)).opened();
    owner.socket.fail('on purpose');
    owner.socket.close();
    await sleep(100);
    expect(owner.opens).toBe(1);
    expect(owner.socket.isOpen).toBe(false);
  });

  test('a connection reset in the middle of traffic is replaced', async () => {
    const relay = await Relay.to(redis.port);
    const owner = await new Lines(endpointOf(redis, relay.port)).opened();
    for (let i = 2; i < 6; i += 1) {
      for (let n = 0; n < 100; n += 1) owner.send('ECHO', 'q'.repeat(1000));
      relay.cut();
      await owner.opened(i);
    }
    relay.close();
  });
});

test('a server that falls silent is given up when an answer is due, and not before', async () => {
  const redis = await startRedis();
  const relay = await Relay.to(redis.port);
  const owner = await new Lines(endpointOf(redis, relay.port)).opened();
  await sleep(700);
  expect(owner.reasons, 'nothing was asked').toEqual([]);
  owner.due = true;
  for (let i = 0; i < 4; i += 1) {
    owner.send('PING');
    await sleep(200);
  }
  expect(owner.reasons, 'answers came').toEqual([]);
  // The owner's own pause is not the server's.
  owner.room = 0;
  owner.send('PING');
  await sleep(700);
  expect(owner.reasons, 'held').toEqual([]);
  relay.silent = true;
  owner.room = 100;
  owner.socket.release();
  await until('given up', () => owner.reasons.length === 1, 1000);
  expect(owner.reasons).toEqual(['no answer']);
  relay.silent = false;
  owner.due = false;
  await owner.opened(2);
  relay.close();
  await redis.stop();
});

test('a Unix socket, with a database', async () => {
  const redis = await startRedis();
  const own = await startRedis({ config: { unixsocket: `${redis.dir}/redis.sock` } });
  const owner = await new Lines(parseEndpoint(`unix://${redis.dir}/redis.sock?db=2`)).opened();
  owner.send('SET', 'here', 'yes');
  await until('answer', () => owner.lines.includes('+OK'));
  const control = own.connect();
  await control.select(2);
  expect(await control.get('here')).toBe('yes');
  await own.stop();
  await redis.stop();
});

test('a server that is restarted is found again', async () => {
  const redis = await startRedis();
  const owner = await new Lines(endpointOf(redis)).opened();
  await redis.kill();
  await until('closed', () => owner.reasons.length > 0);
  await sleep(150);
  expect(owner.reasons.length).toBeLessThan(10);
  await redis.restart();
  await owner.opened(2);
  await redis.stop();
});

describe('secrets', () => {
  let redis: TestRedis;
  beforeAll(async () => {
    redis = await startRedis({ requirepass: 's3cret p@ss' });
  });
  afterAll(() => redis.stop());

  test('the password opens', async () => {
    const owner = await new Lines(endpointOf(redis)).opened();
    expect(owner.reasons).toEqual([]);
  });

  test('a wrong password is refused, said without the password, and not hammered', async () => {
    const owner = new Lines({ ...endpointOf(redis), password: 'wrong-one' });
    await sleep(400);
    expect(owner.opens).toBe(0);
    expect(owner.reasons[0]).toContain('WRONGPASS');
    expect(owner.reasons.join()).not.toContain('wrong-one');
    expect(owner.reasons.length).toBeLessThan(8);
  });

  test('no password where one is needed', async () => {
    const owner = new Lines({ ...endpointOf(redis), password: '' });
    await until('refused', () => owner.reasons.length > 0);
    expect(owner.reasons[0]).toContain('NOAUTH');
  });

  test('a user of the access list', async () => {
    await redis.connect().acl('SETUSER', 'reader', 'on', '>reader pass', '~*', '+@all');
    const url = `redis://reader:${encodeURIComponent('reader pass')}@127.0.0.1:${redis.port}/1`;
    const owner = await new Lines(parseEndpoint(url)).opened();
    owner.send('ACL', 'WHOAMI');
    await until('answer', () => owner.lines.includes('reader'));
  });
});

describe('TLS', () => {
  let redis: TestRedis;
  beforeAll(async () => {
    redis = await startRedis({ tls: true });
  });
  afterAll(() => redis.stop());

  test('opens with the certificate; large replies, hold and release', async () => {
    const owner = await new Lines(endpointOf(redis), [], 4096).opened();
    const expected: string[] = [];
    for (let round = 0; round < 20; round += 1) {
      owner.room = round % 3;
      for (let i = 0; i < 40; i += 1) {
        const text = `${round}-${i}-${'x'.repeat((i * 997) % 5000)}`;
        expected.push(`$${text.length}`, text);
        owner.send('ECHO', text);
      }
      await sleep(round % 5);
      owner.room = Number.POSITIVE_INFINITY;
      owner.socket.release();
      await until(`round ${round}`, () => owner.lines.length >= expected.length);
    }
    expect(owner.lines).toEqual(expected);
    expect(owner.reasons).toEqual([]);
  });

  test('a certificate that nobody vouches for is refused', async () => {
    const owner = new Lines(parseEndpoint(redis.url));
    await until('refused', () => owner.reasons.length > 0);
    expect(owner.reasons[0]).toContain('self-signed certificate');
    expect(owner.opens).toBe(0);
  });

  test('plain text to a TLS port is refused, not waited for', async () => {
    const owner = new Lines(parseEndpoint(redis.url.replace('rediss:', 'redis:')));
    await until('refused', () => owner.reasons.length > 0);
    expect(owner.opens).toBe(0);
  });
});
