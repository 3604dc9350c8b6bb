/**
 * A stand-in for the engine behind the pages: the files of src/console, and figures that are the same in
 * every run. The figures come from the real totals on a simulated clock, so that their shape is the real one.
 */
import { readFile } from 'node:fs/promises';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';
import { type WebSocket, WebSocketServer } from 'ws';
import { channels } from '../../src/observe/channels.ts';
import type { Stats } from '../../src/observe/figures.ts';
import type { EngineState, Sources } from '../../src/observe/sources.ts';
import { createStats } from '../../src/observe/stats.ts';
import { noOutcomes, Totals } from '../../src/observe/totals.ts';

const ROOT = join(import.meta.dirname, '../..');
const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
};
export const SONGS = [
  'Bertha',
  'Me and My Uncle',
  'Sugaree',
  'Jack Straw',
  'Loser',
  'Cassidy',
  'Deal',
  'Scarlet Begonias',
  'Fire on the Mountain',
  'Estimated Prophet',
  'Eyes of the World',
  'Terrapin Station',
];

/** One simulated second: 40 batches of up to 64 rows, 3 to 8 ms in all. */
function oneSecond(second: number, endMs: number): void {
  for (let batch = 0; batch < 40; batch++) {
    const rows = 1 + ((second * 7 + batch * 13) % 64);
    const spanMs = 3 + ((second * 5 + batch * batch) % 9) / 2 + (batch === 39 ? 3 : 0);
    const startMs = endMs - 900 + batch;
    channels.read.publish({ stream: 'events', rows, bytes: rows * 200 });
    channels.infer.publish({
      model: 'next-track@3',
      rows,
      roundTripUs: 900,
      inferUs: 20_000,
      runUs: rows * 9,
    });
    channels.settle.publish({
      model: 'next-track@3',
      stream: 'events',
      ...noOutcomes(),
      ok: rows - (batch === 0 ? 1 : 0),
      invalid: batch === 0 ? 1 : 0,
      rows,
      arrivedMs: new Float64Array(rows).fill(startMs),
      readMs: new Float64Array(rows).fill(startMs + 1),
      dispatchedMs: startMs + spanMs / 2,
      inferredMs: startMs + spanMs / 2 + 1,
      settledMs: startMs + spanMs,
    });
    channels.push.publish({ sent: 4, held: 0, dropped: 0, pushMs: 0.4 });
  }
}

/** The figures of an engine that has run for 100 seconds. */
export function cannedStats(): Stats {
  const sources: Sources = {
    state: () => ({ state: 'running', reasons: [] }),
    backlog: () => [
      { stream: 'events', unread: 120, pending: 64, oldestUnreadMs: null, oldestPendingMs: null },
    ],
    inflightRows: () => 96,
    connections: () => 7,
    workers: () => 2,
    models: () => [
      {
        name: 'next-track',
        version: 3,
        description: 'The next song of a concert, from the songs before.',
        provider: 'cpu',
        rowsMax: 64,
        batchRows: 32,
        runMsMax: 3.5,
        profileProvider: 'cpu',
        profile: [
          { rows: 1, runs: 200, p50Ms: 0.41, p99Ms: 0.8 },
          { rows: 32, runs: 24, p50Ms: 1.6, p99Ms: 2.9 },
          { rows: 64, runs: 12, p50Ms: 3.1, p99Ms: 4.4 },
        ],
      },
    ],
    sessions: () => [{ model: 'next-track', provider: 'cpu', count: 2 }],
    fallbacks: () => [],
  };
  const totals = new Totals();
  let nowMs = Date.UTC(2026, 0, 1);
  let tick = () => {};
  const every = (_: number, fn: () => void) => {
    tick = fn;
    return () => {};
  };
  const feed = createStats({ totals, sources, targetMs: 10, now: () => nowMs, every });
  feed.addSection('demo', () => ({
    listeners: 50,
    guesses: 4321,
    hitAt10: 0.412,
    baselineHitAt10: 0.214,
    setOpeners: { guesses: 310, hitAt1: 0.09, hitAt10: 0.27, baselineHitAt10: 0.12 },
    shows: 'Shows are simulated from real set lists.',
  }));
  channels.notice.publish({ level: 'warn', code: 'CLAIMED', message: 'took over 3 entries' });
  for (let second = 0; second < 100; second++) {
    oneSecond(second, nowMs);
    nowMs += 1000;
    tick();
  }
  totals.stop();
  return feed.snapshot();
}

/** Ten guesses after `heard` songs; the next song is third, the likeliest of all probable by `lead`. */
export function guessesAfter(heard: number): [string, number][] {
  return Array.from({ length: 10 }, (_, at) => {
    const title = SONGS[(heard + at + SONGS.length - 2) % SONGS.length]!;
    return [title, Math.round(0.31 * 0.72 ** at * 1000) / 1000];
  });
}

/** As the model's handler encodes them. */
function outputsOf(guesses: readonly [string, number][]) {
  const ten = guesses.slice(0, 10);
  return { songs: ten.map(([title]) => title), probabilities: ten.map(([, chance]) => chance) };
}

function listener(key: string, via: 'redis' | 'websocket', heard: number) {
  const made = Array.from({ length: heard + 1 }, (_, after) => ({
    after,
    top: guessesAfter(after),
    came: after < heard ? SONGS[after] : null,
    rank: after === heard ? null : after === 4 ? null : after === 2 ? 1 : 3,
  }));
  return { key, via, show: 2417, set: 1, songs: SONGS.slice(0, heard), predictions: made };
}

function speak(socket: WebSocket, frame: Record<string, unknown>): void {
  const send = (answer: unknown) => socket.send(JSON.stringify(answer));
  const { t, id } = frame;
  if (t === 'hello') send({ t: 'welcome', id, conn: 'c1', now: 0, exp: 0, ping: 25_000, max: 16_384 });
  if (t === 'sub') {
    send({ t: 'subd', id, ch: frame['ch'], e: 'k', seq: 0, recovered: false, replayed: 0 });
    const d = outputsOf([['Live from the socket', 0.5], ...guessesAfter(6)]);
    send({ t: 'pred', ch: frame['ch'], sid: '1-0', seq: 1, conf: 0, model: 'next-track@3', st: 'ok', d });
  }
  if (t === 'event') {
    const { songs } = frame['d'] as { songs: string[] };
    if (songs.includes('refuse me')) {
      send({ t: 'error', id, code: 107, msg: 'invalid_event', path: 'songs' });
      return;
    }
    const d = outputsOf(guessesAfter(songs.length));
    send({ t: 'pred', id, re: frame['eid'], model: 'next-track@3', st: 'ok', ms: { q: 0.2, i: 0.4 }, d });
  }
}

async function file(path: string, response: ServerResponse): Promise<void> {
  const vendor = path.startsWith('/vendor/uplot/');
  const at = vendor
    ? join(ROOT, 'node_modules/uplot/dist', path.slice('/vendor/uplot/'.length))
    : join(ROOT, 'src/console', path === '/' ? 'index.html' : path);
  const body = await readFile(at).catch(() => null);
  if (body === null) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, {
    'content-type': TYPES[extname(at)] ?? 'application/octet-stream',
    'content-security-policy': "default-src 'self'",
  });
  response.end(body);
}

export interface Fixture {
  readonly url: string;
  /** What the next answers of /stats say. */
  state: EngineState;
  reasons: string[];
  /** Frames that pages have sent. */
  readonly frames: Record<string, unknown>[];
  close(): Promise<void>;
}

export async function startFixture(port = 0): Promise<Fixture> {
  const stats = cannedStats();
  const listeners = [
    listener('u17', 'websocket', 6),
    listener('u4', 'redis', 9),
    listener('u23', 'redis', 0),
  ];
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? '/', 'http://localhost').pathname;
    const json = (value: unknown) =>
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    if (path === '/stats') json({ ...stats, state: fixture.state, reasons: fixture.reasons });
    else if (path === '/demo/listeners') json(listeners);
    else void file(path, response);
  });
  const sockets = new WebSocketServer({ server, path: '/ws' });
  sockets.on('connection', (socket) => {
    socket.on('message', (data) => {
      const frame = JSON.parse(String(data)) as Record<string, unknown>;
      fixture.frames.push(frame);
      speak(socket, frame);
    });
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const fixture: Fixture = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    state: 'running',
    reasons: [],
    frames: [],
    close: async () => {
      for (const socket of sockets.clients) socket.terminate();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return fixture;
}
