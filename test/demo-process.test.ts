// The commands as processes of their own, from the first line they print to what they leave behind.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterEach, expect, test } from 'vitest';
import type { DemoFigures } from '../src/demo/crowd.ts';
import type { ListenerView } from '../src/demo/listener.ts';
import type { Stats } from '../src/observe/figures.ts';
import { startEmbedded } from '../src/redis/embedded.ts';
import { isAlive } from './support/process.ts';

const FIXTURES = resolve('test/fixtures/models');
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function tempDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'subito-demo-'));
  cleanups.push(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** The directory of an embedded Redis that outlives its engine where a test fails. */
function redisDir(dir: string): string {
  cleanups.push(async () => (await startEmbedded({ port: 0, dir })).stop());
  return dir;
}

function client(url: string): Redis {
  const redis = new Redis(url);
  redis.on('error', () => undefined);
  cleanups.push(() => redis.disconnect());
  return redis;
}

interface Command {
  readonly process: ChildProcess;
  readonly said: () => string;
  /** Resolves with all it has said once that matches. */
  until(pattern: RegExp): Promise<string>;
  /** Resolves with the exit code. */
  ended(): Promise<number | null>;
}

function subito(args: readonly string[], cwd = process.cwd()): Command {
  const child = spawn(process.execPath, [resolve('src/main.ts'), ...args], {
    cwd,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const exit = once(child, 'exit');
  cleanups.push(async () => {
    child.kill('SIGKILL');
    await exit;
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (said += chunk));
  return {
    process: child,
    said: () => said,
    ended: async () => ((await exit) as [number | null])[0],
    async until(pattern) {
      const giveUpAt = performance.now() + 30_000;
      while (!pattern.test(said)) {
        if (child.exitCode !== null || performance.now() > giveUpAt)
          throw new Error(`never ${pattern}: ${said}`);
        await sleep(20);
      }
      return said;
    },
  };
}

const get = async <T>(url: string): Promise<T> => (await (await fetch(url)).json()) as T;

/** Asks until the crowd has judged songs on both ways. */
async function untilJudged(url: string): Promise<{ demo: DemoFigures; listeners: ListenerView[] }> {
  for (const giveUpAt = performance.now() + 40_000; ; await sleep(200)) {
    const { sections } = await get<Stats>(`${url}/stats`);
    const demo = sections['demo'] as DemoFigures;
    const listeners = await get<ListenerView[]>(`${url}/demo/listeners`);
    const ways = (['redis', 'websocket'] as const).map((via) =>
      listeners.some((l) => l.via === via && l.predictions.some(({ came }) => came !== null)),
    );
    if (demo.guesses > 5 && demo.asked > 50 && ways.every(Boolean)) return { demo, listeners };
    if (performance.now() > giveUpAt) throw new Error(`nothing judged: ${JSON.stringify(demo)}`);
  }
}

function checkListener({ key, via, show, set, songs, predictions }: ListenerView): void {
  expect(key).toMatch(/^listener-\d\d$/);
  expect(['redis', 'websocket']).toContain(via);
  expect(show).toBeGreaterThan(0);
  expect([1, 2, 3]).toContain(set);
  for (const { after, top, came, rank } of predictions) {
    expect(top).toHaveLength(10);
    for (const [title, probability] of top) {
      expect(title).not.toBe('');
      expect(probability).toBeGreaterThanOrEqual(0);
      expect(probability).toBeLessThanOrEqual(1);
    }
    // The prediction after n songs was about song n, counted from 0; the last one may still be open.
    expect(came).toBe(songs[after] ?? null);
    const at = top.findIndex(([title]) => title === came);
    expect(rank).toBe(at === -1 ? null : at + 1);
  }
}

test('the demo plays, judges, shows its listeners, and leaves nothing behind', {
  timeout: 120_000,
}, async () => {
  const data = tempDir();
  const dir = redisDir(join(data, 'demo'));
  const demo = subito(['demo', '--port', '0', '--listeners', '20', '--data', data]);
  const said = await demo.until(/^ +Listener: .*$[\s\S]*card\.md/m);
  const url = /Engine: +(http:\/\/127\.0\.0\.1:\d+)\//.exec(said)?.[1];
  const port = /redis-cli -p (\d+) XADD/.exec(said)?.[1] ?? '6379';
  expect(url, said).toBeDefined();
  const redis = client(`redis://127.0.0.1:${port}`);
  const pid = Number(/process_id:(\d+)/.exec(await redis.info('server'))?.[1]);
  expect(isAlive(pid)).toBe(true);

  const { demo: figures, listeners } = await untilJudged(url!).catch((cause: unknown) => {
    throw new Error(`the demo said: ${demo.said()}`, { cause });
  });
  expect(figures.listeners).toBe(20);
  expect(figures).toMatchObject({ failed: 0, lost: 0, failure: '' });
  expect(figures.answered + figures.waiting).toBe(figures.asked);
  expect(figures.hitAt10).toBeGreaterThanOrEqual(figures.hitAt1!);
  expect(figures.recent.length).toBeGreaterThan(0);
  expect(listeners).toHaveLength(20);
  expect(new Set(listeners.map(({ key }) => key)).size).toBe(20);
  for (const listener of listeners) checkListener(listener);

  redis.disconnect();
  demo.process.kill('SIGINT');
  expect(await demo.ended(), demo.said()).toBe(0);
  expect(isAlive(pid)).toBe(false);

  // What is on disk: every event of the stream acknowledged, and one prediction for each.
  const left = await startEmbedded({ port: 0, dir });
  cleanups.push(() => left.stop());
  const after = client(left.url);
  const [pending] = (await after.xpending('events', 'subito')) as [number];
  expect(pending).toBe(0);
  const ids = (await after.xrange('events', '-', '+')).map(([id]) => id);
  const predictions = await after.xrange('predictions', '-', '+');
  const sources = predictions.map(([, fields]) => fields[fields.indexOf('source') + 1]);
  expect(ids.length).toBeGreaterThan(20);
  expect(sources.sort()).toEqual(ids.sort());
  expect(await after.exists('deadletters')).toBe(0);
});

test('serve says where everything is and ends with SIGTERM', { timeout: 60_000 }, async () => {
  const cwd = tempDir();
  redisDir(join(cwd, 'data/redis'));
  const serve = subito(['serve', '--redis', 'embedded', '--port', '0', '--models', FIXTURES], cwd);
  const said = await serve.until(/^subito serves .*\n/m);
  expect(said).toMatch(/gather@1 \(cpu\).* at http:\/\/127\.0\.0\.1:\d+, events from events at redis:\/\//);
  expect(await serve.until(/the model free_dim@?1? is not served/)).toMatch(/model\.yaml/);
  serve.process.kill('SIGTERM');
  expect(await serve.ended()).toBe(0);
});

test('serve without a model exits with the reason', { timeout: 60_000 }, async () => {
  const cwd = tempDir();
  redisDir(join(cwd, 'data/redis'));
  const serve = subito(['serve', '--redis', 'embedded', '--port', '0', '--models', cwd], cwd);
  expect(await serve.ended()).toBe(1);
  expect(serve.said()).toContain('ENGINE_NO_MODEL');
});

test('models lists what loads and what does not', { timeout: 60_000 }, async () => {
  const table = subito(['models', '--models', FIXTURES]);
  const json = subito(['models', '--models', FIXTURES, '--json']);
  // One of them cannot be served.
  expect(await table.ended()).toBe(1);
  expect(await json.ended()).toBe(1);
  expect(table.said()).toMatch(/^gather@1 +ok +cpu +\d+ /m);
  expect(table.said()).toMatch(/^free_dim@1 +problem /m);
  const reports = JSON.parse(json.said()) as { name: string; status: string; problem: string }[];
  const free = reports.find(({ name }) => name === 'free_dim');
  expect(free).toMatchObject({ status: 'problem', version: 1 });
  expect(free!.problem).toContain('model.yaml');
  expect(reports.find(({ name }) => name === 'gather')).toMatchObject({ status: 'ok', problem: '' });
});
