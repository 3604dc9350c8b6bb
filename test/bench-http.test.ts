// The HTTP suite without Python: what it makes of its figures, its two kinds of load and its watch over a
// server's processes, on small servers of Node.
import { mkdtempSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { RequestListener } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { bodiesOf, questions, scoresOf, verify, wrongScores } from '../bench/http/bodies.ts';
import { httpContestants } from '../bench/http/contestants.ts';
import type { Figures, Point } from '../bench/http/figures.ts';
import { commonRatePerS, figuresOf, pairsOf, ratiosOf } from '../bench/http/figures.ts';
import type { Measured } from '../bench/http/load.ts';
import { load } from '../bench/http/load.ts';
import { Server } from '../bench/http/server.ts';
import { sectionsOf } from '../bench/http/text.ts';
import { missing } from '../bench/peers/python.ts';
import { freePort } from '../src/ports.ts';

const POINT: Point = { name: '32 connections', connections: 32, rows: 1 };
const round = (changes: Partial<Measured> = {}): Measured => ({
  answered: 100,
  perS: 100,
  p50: 1,
  p99: 2,
  max: 3,
  errors: 0,
  generatorShare: 0.5,
  cpuUs: 10,
  ...changes,
});
const figures = (contestant: string, changes: Partial<Figures> = {}): Figures => ({
  ...round(),
  contestant,
  isPython: contestant !== 'subito',
  point: POINT,
  ...changes,
});

describe('figures', () => {
  test('are medians over the rounds, and all the errors', () => {
    const rounds = [
      round({ perS: 10, errors: 1 }),
      round({ perS: 30, p99: 9 }),
      round({ perS: 20, errors: 2 }),
    ];
    const { perS, p99, errors } = figuresOf({ contestant: 'ray', isPython: true, point: POINT, rounds });
    expect({ perS, p99, errors }).toEqual({ perS: 20, p99: 2, errors: 3 });
  });

  test('the best Python server is the one with the most requests a second at that point', () => {
    const other = { ...POINT, name: '1 connection' };
    const all = [
      figures('subito', { perS: 300, p99: 4, cpuUs: 50 }),
      figures('slow', { perS: 20, p99: 1 }),
      figures('quick', { perS: 60, p99: 12, cpuUs: 100 }),
      figures('elsewhere', { perS: 1000, point: other }),
      figures('silent', { perS: 2000, answered: 0 }),
      figures('of Node', { perS: 500, isPython: false }),
    ];
    expect(pairsOf(all).map(({ own, best }) => [own.contestant, best.contestant])).toEqual([
      ['subito', 'quick'],
    ]);
    expect(ratiosOf(all)).toEqual({
      'requests/s against the best Python server, 32 connections': 5,
      'p99 of the best Python server against ours, 32 connections': 3,
      'CPU per request of the best Python server against ours, 32 connections': 2,
    });
    expect(commonRatePerS(all, POINT.name)).toBe(10);
  });

  test('without Python, or without Subito, there is nothing to compare', () => {
    expect(ratiosOf([figures('subito')])).toEqual({});
    expect(ratiosOf([figures('ray')])).toEqual({});
    expect(commonRatePerS([], POINT.name)).toBe(null);
  });

  test('the results name who is not there, and why', () => {
    const [first, ...others] = sectionsOf({
      field: httpContestants,
      absent: new Map([['ray', 'not installed: run this\nand that']]),
      points: [POINT],
      closed: [figures('subito', { perS: 300 }), figures('fastapi')],
      open: [],
      openRatePerS: 0,
    });
    expect(first?.text).toContain('- **ray** is not measured: not installed: run this');
    expect(first?.table?.rows.map((row) => row.slice(0, 5))).toEqual([
      ['32 connections', '300', '100', 'fastapi', '3.0x'],
    ]);
    expect(others.map(({ table }) => table?.rows.map(([name]) => name))).toEqual([['subito', 'fastapi']]);
  });
});

describe('contestants', () => {
  test('whose virtual environment is not there are missing, and are told how to come', () => {
    const [one] = httpContestants;
    expect(missing(one!)).toBe(null);
    expect(missing({ ...one!, venv: 'no-such-server' })).toMatch(/setup\.sh no-such-server/);
  });
});

describe('answers', () => {
  test('are read in each form', () => {
    expect(scoresOf({ outputs: [{ data: [[0.5], [0.25]] }] })).toEqual([0.5, 0.25]);
    expect(scoresOf({ scores: [1] })).toEqual([1]);
    expect(scoresOf([0.5])).toEqual([0.5]);
    for (const none of [{}, { scores: [] }, { scores: ['x'] }, { outputs: [] }, []]) {
      expect(() => scoresOf(none)).toThrow(/without scores/);
    }
  });

  test('are right within a hundred thousandth', () => {
    expect(wrongScores([0.5, 0.25], [0.500009, 0.25])).toBe(null);
    expect(wrongScores([0.5, 0.25], [0.5, 0.25002])).toMatch(/^row 1 /);
    expect(wrongScores([0.5], [Number.NaN])).toMatch(/^row 0 /);
    expect(wrongScores([0.5], [0.5, 0.5])).toMatch(/2 scores for 1 rows/);
  });
});

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

async function listen(answer: RequestListener): Promise<string> {
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(async () => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/predict`;
}

/** Answers with what it was sent. */
const ECHO = `
  const { createServer } = require('node:http');
  const { spawn } = require('node:child_process');
  // A grandchild that has left its parent and forgets its environment: found by whose child it was.
  const wait = ['-e', 'setInterval(() => {}, 1000)'];
  if (process.argv[2] === 'spawn') spawn(process.execPath, wait, { detached: true });
  createServer((req, res) => {
    if (req.method === 'POST') req.pipe(res);
    else res.end(JSON.stringify({ pid: process.pid }));
  }).listen(Number(process.argv[1]), '127.0.0.1');
`;

async function startEcho(...args: string[]): Promise<Server> {
  const cwd = mkdtempSync(join(tmpdir(), 'subito-bench-http-'));
  closers.push(async () => rmSync(cwd, { recursive: true, force: true }));
  const port = await freePort();
  const argv = [process.execPath, '-e', ECHO, `${port}`, ...args] as const;
  const server = await Server.start({ argv, env: {}, cwd, url: `http://127.0.0.1:${port}/` }, async (url) => {
    await fetch(url);
  });
  closers.push(() => server.stop());
  return server;
}

/** Gone, or dead and not yet collected by its parent; waits a second for it. */
async function isGone(pid: number): Promise<boolean> {
  for (let i = 0; i < 100; i++) {
    const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => ' ) Z');
    if (/\) [ZX]/.test(stat)) return true;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return false;
}

describe('load', () => {
  test('in a closed loop counts good answers and bad ones', async () => {
    const server = await startEcho();
    let asked = 0;
    const url = await listen((_request, response) => {
      asked += 1;
      response.writeHead(asked % 10 === 0 ? 503 : 200).end('{}');
    });
    const common = { kind: 'closed', url, bodies: bodiesOf('rows', 1), connections: 4 } as const;
    const { answered, errors, perS, p50, p99 } = await load(
      { ...common, warmupS: 0.2, seconds: 0.5 },
      server,
    );
    expect(answered).toBeGreaterThan(20);
    expect(perS).toBeCloseTo(answered / 0.5);
    expect(errors / (answered + errors)).toBeCloseTo(0.1, 1);
    expect(p99).toBeGreaterThanOrEqual(p50);
    expect(p50).toBeGreaterThan(0);
  }, 30_000);

  test('in an open loop waits for the slow, and counts from when a request was due', async () => {
    const server = await startEcho();
    // One connection and 50 ms for an answer: at 40 a second half of them wait for others.
    const url = await listen((_request, response) => {
      setTimeout(() => response.end('{}'), 50);
    });
    const plan = { kind: 'open', url, bodies: ['{}'], connections: 1, ratePerS: 40, seed: 1 } as const;
    const { answered, errors, p50 } = await load({ ...plan, warmupS: 0, seconds: 1 }, server);
    expect(errors).toBe(0);
    expect(answered).toBeGreaterThan(20);
    expect(p50).toBeGreaterThan(100);
  }, 30_000);

  test('in an open loop answers that are none are errors', async () => {
    const server = await startEcho();
    const url = await listen((request, response) => {
      if (Math.random() < 0.5) response.writeHead(500, { 'content-length': 2 }).end('no');
      else request.socket.destroy();
    });
    const plan = { kind: 'open', url, bodies: ['{}'], connections: 4, ratePerS: 50, seed: 1 } as const;
    const { answered, errors } = await load({ ...plan, warmupS: 0, seconds: 0.5 }, server);
    expect(answered).toBe(0);
    expect(errors).toBeGreaterThan(3);
  }, 60_000);

  test('on nobody fails', async () => {
    const server = await startEcho();
    const plan = { kind: 'open', bodies: ['{}'], connections: 1, ratePerS: 10, seed: 1 } as const;
    const url = 'http://127.0.0.1:1/';
    await expect(load({ ...plan, url, warmupS: 0, seconds: 0.2 }, server)).rejects.toThrow(/ECONNREFUSED/);
  }, 30_000);
});

describe('a server', () => {
  test('is stopped with all that it started, and its processor time is theirs too', async () => {
    const server = await startEcho('spawn');
    const before = server.cpuUs();
    expect(before).toBeGreaterThan(0);
    const pids = server.pids;
    expect(pids).toHaveLength(2);
    await server.stop();
    expect(await Promise.all(pids.map(isGone))).toEqual([true, true]);
    // What they used is not forgotten.
    expect(server.cpuUs()).toBeGreaterThanOrEqual(before);
  });

  test('that ends at once, or cannot be started, says so', async () => {
    const url = 'http://127.0.0.1:1/';
    const start = (...argv: [string, ...string[]]) =>
      Server.start({ argv, env: {}, cwd: tmpdir(), url }, async () => {
        throw new Error('nobody there');
      });
    await expect(start(process.execPath, '-e', 'throw new Error("a bug")')).rejects.toThrow(
      /nobody there.*a bug/s,
    );
    await expect(start('/no/such/program')).rejects.toThrow(/ENOENT/);
  });

  test('is asked before and after whether its answers are right', async () => {
    const asked = await questions();
    expect(asked.map(({ scores }) => scores.length)).toEqual([1, 1, 16]);
    const answers = new Map(asked.map(({ body, scores }) => [body.rows, scores]));
    let error = 0;
    const url = await listen((request, response) => {
      let body = '';
      request.on('data', (part: Buffer) => {
        body += part.toString();
      });
      request.on('end', () => {
        const scores = answers.get(body)?.map((score) => score + error);
        response.writeHead(scores === undefined ? 400 : 200).end(JSON.stringify({ scores }));
      });
    });
    await verify(url, 'rows', asked);
    await expect(verify(url, 'v2', asked)).rejects.toThrow(/HTTP 400/);
    error = 2e-5;
    await expect(verify(url, 'rows', asked)).rejects.toThrow(/row 0 has the score/);
  });
});
