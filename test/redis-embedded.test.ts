import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterEach, describe, expect, test } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { startEngine } from '../src/engine.ts';
import { freePort } from '../src/ports.ts';
import { type EmbeddedRedis, startEmbedded } from '../src/redis/embedded.ts';
import { collectNotices, until } from './support/core.ts';
import { MLP, modelsDir, predictionOf } from './support/engine.ts';
import { isAlive } from './support/process.ts';
import { startRedis } from './support/redis.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'subito-embedded-'));
  cleanups.push(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

async function start(dir: string, port = 0): Promise<EmbeddedRedis> {
  const server = await startEmbedded({ port, dir });
  cleanups.push(() => server.stop());
  return server;
}

function client(url: string): Redis {
  const redis = new Redis(url);
  redis.on('error', () => undefined);
  cleanups.push(() => redis.disconnect());
  return redis;
}

/** An engine in a process of its own, so that it can be killed; says the server's pid and port. */
async function startElsewhere(dir: string): Promise<{ engine: ChildProcess; pid: number; port: number }> {
  const source = `
    const { startEmbedded } = await import(${JSON.stringify(join(process.cwd(), 'src/redis/embedded.ts'))});
    const { pid, port } = await startEmbedded({ port: 0, dir: ${JSON.stringify(dir)} });
    process.stdout.write(JSON.stringify({ pid, port }));
    setInterval(() => {}, 1000);`;
  const engine = spawn(process.execPath, ['--input-type=module', '-e', source], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [said] = (await once(engine.stdout, 'data')) as [Buffer];
  const { pid, port } = JSON.parse(String(said)) as { pid: number; port: number };
  cleanups.push(() => isAlive(pid) && process.kill(pid, 'SIGKILL'));
  cleanups.push(() => engine.kill('SIGKILL'));
  return { engine, pid, port };
}

test('what was written is there after a stop and a start', async () => {
  const dir = tempDir();
  const first = await start(dir);
  await client(first.url).xadd('events', '1-1', 'key', 'u1');
  await first.stop();
  expect(isAlive(first.pid)).toBe(false);
  const second = await start(dir);
  expect(second.adopted).toBe(false);
  expect(await client(second.url).xlen('events')).toBe(1);
});

test('a server whose engine was killed is adopted, with its data', async () => {
  const dir = tempDir();
  const { engine, pid, port } = await startElsewhere(dir);
  await client(`redis://127.0.0.1:${port}`).set('k', 'v');
  engine.kill('SIGKILL');
  await once(engine, 'exit');
  expect(isAlive(pid)).toBe(true);

  const adopted = await start(dir);
  expect(adopted).toMatchObject({ adopted: true, pid, port });
  expect(await client(adopted.url).get('k')).toBe('v');
  await adopted.stop();
  expect(isAlive(pid)).toBe(false);
});

test('a server whose engine lives is not taken from it', async () => {
  const dir = tempDir();
  const { engine, pid } = await startElsewhere(dir);
  await expect(startEmbedded({ port: 0, dir })).rejects.toMatchObject({
    code: 'REDIS_DIR_IN_USE',
    message: expect.stringContaining(`process ${engine.pid}`),
  });
  expect(isAlive(pid)).toBe(true);
});

test('an orphan on another port than the one asked for is moved there, with its data', async () => {
  const dir = tempDir();
  const orphan = await startElsewhere(dir);
  await client(`redis://127.0.0.1:${orphan.port}`).set('k', 'v');
  orphan.engine.kill('SIGKILL');
  await once(orphan.engine, 'exit');
  const port = await freePort();
  const moved = await start(dir, port);
  expect(moved).toMatchObject({ adopted: false, port });
  expect(isAlive(orphan.pid)).toBe(false);
  expect(await client(moved.url).get('k')).toBe('v');
});

test('a stale port file that names somebody else’s Redis is not believed', async () => {
  const other = await startRedis();
  cleanups.push(() => other.stop());
  const dir = tempDir();
  writeFileSync(join(dir, 'subito-redis.port'), `${other.port}\n`);
  const server = await start(dir);
  expect(server.adopted).toBe(false);
  expect(server.port).not.toBe(other.port);
  await server.stop();
  expect(isAlive(other.pid)).toBe(true);
});

test('an orphan that hangs is not doubled: two servers would write the same files', async () => {
  const dir = tempDir();
  const { engine, pid } = await startElsewhere(dir);
  engine.kill('SIGKILL');
  await once(engine, 'exit');
  process.kill(pid, 'SIGSTOP');
  await expect(startEmbedded({ port: 0, dir })).rejects.toMatchObject({
    code: 'REDIS_START_FAILED',
    fix: expect.stringContaining('end the process'),
  });
});

test('a taken port is an error with a code, and nothing is left running', async () => {
  const blocker = createServer().listen(0, '127.0.0.1');
  await once(blocker, 'listening');
  cleanups.push(() => blocker.close());
  const { port } = blocker.address() as { port: number };
  const dir = tempDir();
  await expect(startEmbedded({ port, dir })).rejects.toMatchObject({
    code: 'REDIS_PORT_BUSY',
    message: expect.stringContaining(String(port)),
  });
});

test('a missing redis-server is an error that says how to install it', async () => {
  await expect(startEmbedded({ port: 0, dir: tempDir(), binary: 'no-such-redis' })).rejects.toMatchObject({
    code: 'REDIS_MISSING',
    fix: expect.stringContaining('apt-get install redis-server'),
  });
});

test('data that cannot be read fails the start with what Redis said', async () => {
  const dir = tempDir();
  const first = await start(dir);
  await client(first.url).set('k', 'v');
  await first.stop();
  // The manifest of the append-only file, broken: Redis refuses it.
  const manifest = join(dir, 'appendonlydir', 'appendonly.aof.manifest');
  expect(existsSync(manifest)).toBe(true);
  writeFileSync(manifest, 'garbage\n');
  await expect(startEmbedded({ port: 0, dir })).rejects.toMatchObject({
    code: 'REDIS_START_FAILED',
    message: expect.stringMatching(/it said: .*manifest/i),
  });
});

test('a server that hangs is killed at the deadline', async () => {
  const server = await startEmbedded({ port: 0, dir: tempDir(), stopMsMax: 300 });
  process.kill(server.pid, 'SIGSTOP');
  const begin = performance.now();
  await server.stop();
  expect(performance.now() - begin).toBeLessThan(5000);
  await expect.poll(() => isAlive(server.pid)).toBe(false);
});

describe('a server that ends before its engine', () => {
  function notices(): ReturnType<typeof collectNotices> {
    const collected = collectNotices();
    cleanups.push(collected.stop);
    return collected;
  }

  test('is started again on its port, with its data, as often as it ends', async () => {
    const { all } = notices();
    const server = await start(tempDir());
    const { port } = server;
    const redis = client(server.url);
    await redis.set('k', 'v');
    await sleep(1200);
    for (const [signal, said] of [
      ['SIGKILL', 'ended with SIGKILL'],
      ['SIGTERM', 'ended with exit code 0'],
    ] as const) {
      const { pid } = server;
      process.kill(pid, signal);
      await until('another one', () => server.pid !== pid);
      expect(server.port).toBe(port);
      expect(isAlive(server.pid)).toBe(true);
      expect(await client(server.url).get('k')).toBe('v');
      const last = all.filter(({ code }) => code === 'EMBEDDED_REDIS_DIED').at(-1);
      expect(last).toMatchObject({ level: 'warn', message: expect.stringContaining(said) });
      expect(last?.message).toContain('it is being restarted');
    }
    await server.stop();
    expect(isAlive(server.pid)).toBe(false);
  });

  test('likewise when it was adopted', async () => {
    const dir = tempDir();
    const { engine, pid } = await startElsewhere(dir);
    engine.kill('SIGKILL');
    await once(engine, 'exit');
    const server = await start(dir);
    expect(server).toMatchObject({ adopted: true, pid });
    process.kill(pid, 'SIGKILL');
    await until('another one', () => server.pid !== pid);
    expect(await client(server.url).ping()).toBe('PONG');
  });

  test('is not started again when only its owner’s connection ended, but still ended by stop', async () => {
    const { codes } = notices();
    const server = await start(tempDir());
    const { pid } = server;
    const redis = client(server.url);
    const owners = async () => /id=(\d+) .*name=subito-owner/.exec(String(await redis.client('LIST')))?.[1];
    const first = await owners();
    await redis.call('CLIENT', 'KILL', 'ID', String(first));
    await until('owned again', async () => ![undefined, first].includes(await owners()));
    expect(server.pid).toBe(pid);
    expect(codes()).not.toContain('EMBEDDED_REDIS_DIED');
    const begin = performance.now();
    await server.stop();
    expect(performance.now() - begin).toBeLessThan(2000);
    expect(isAlive(pid)).toBe(false);
  });

  test('stays down when it is being stopped meanwhile', async () => {
    for (const waitMs of [0, 30, 220, 240, 300]) {
      const dir = tempDir();
      const server = await start(dir);
      process.kill(server.pid, 'SIGKILL');
      await sleep(waitMs);
      await server.stop();
      await sleep(300);
      expect(isAlive(server.pid)).toBe(false);
      await expect(once(createConnection(server.port, '127.0.0.1'), 'connect')).rejects.toThrow('REFUSED');
    }
  });

  test('is given up when it ends again and again, and that is an error', async () => {
    const { all } = notices();
    const dir = tempDir();
    const binary = join(tempDir(), 'redis');
    writeFileSync(binary, '#!/bin/sh\nexec redis-server "$@"\n');
    chmodSync(binary, 0o755);
    const server = await startEmbedded({ port: 0, dir, binary });
    cleanups.push(() => server.stop());
    writeFileSync(binary, '#!/bin/sh\nexit 7\n');
    process.kill(server.pid, 'SIGKILL');
    await until('given up', () => all.some(({ level }) => level === 'error'), 15_000);
    const died = all.filter(({ code }) => code === 'EMBEDDED_REDIS_DIED');
    expect(died.map(({ level }) => level)).toEqual([...Array(5).fill('warn'), 'error']);
    expect(died.at(-1)?.message).toMatch(/ended with exit code 7.*given up/);
  }, 20_000);

  test('is found again by the engine, which serves on', async () => {
    const config = loadConfig({
      env: {},
      overrides: {
        redis: { embedded: { dir: tempDir() } },
        models: { path: modelsDir({ mlp: { from: MLP } }) },
        gateway: { port: 0 },
        workers: { max: 1 },
      },
    });
    const { all } = notices();
    const engine = await startEngine(config);
    cleanups.push(() => engine.stop());
    const redis = client(engine.redisUrl);
    const send = () => redis.xadd('events', '*', 'key', 'u', 'features', Buffer.alloc(256));
    const first = (await send()) as string;
    await predictionOf(redis, first);
    await sleep(1200);
    process.kill(Number(/process_id:(\d+)/.exec(await redis.info('server'))?.[1]), 'SIGKILL');
    const ready = async () => (await fetch(`${engine.url}/v2/health/ready`)).status;
    await until('notices it', async () => (await ready()) === 503);
    await until('is ready again', async () => (await ready()) === 200);
    await predictionOf(redis, (await send()) as string);
    await predictionOf(redis, first);
    expect(all.map(({ code }) => code)).toContain('EMBEDDED_REDIS_DIED');
  });
});

test('the server does not stop with the engine’s process group, as on Ctrl-C', async () => {
  const server = await start(tempDir());
  const group = (pid: number | 'self'): string | undefined =>
    // pid (name) state ppid pgrp
    /\) \S \d+ (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1];
  expect(group(server.pid)).not.toBe(group('self'));
});

test('test servers: password and TLS are real, and a kill loses nothing that was synced', async () => {
  const secure = await startRedis({ requirepass: 'pw', tls: true, appendonly: true });
  cleanups.push(() => secure.stop());
  const redis = secure.connect();
  await redis.set('k', 'v');
  const stranger = new Redis({ port: secure.port, retryStrategy: () => null, maxRetriesPerRequest: 0 });
  stranger.on('error', () => undefined);
  await expect(stranger.ping()).rejects.toThrow();
  stranger.disconnect();
  const { pid } = secure;
  await secure.kill();
  await secure.restart();
  expect(secure.pid).not.toBe(pid);
  expect(await secure.connect().get('k')).toBe('v');
});
