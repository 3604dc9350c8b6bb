import { afterEach, expect, test } from 'vitest';
import { connect } from '../src/client/client.ts';
import { channels, type NoticeReport } from '../src/observe/channels.ts';
import { hashedKey, type LogOptions, redact, startLog } from '../src/observe/log.ts';
import { until } from './support/core.ts';
import { FIXTURE_MODELS, modelsDir, startTestEngine } from './support/engine.ts';

/** A log on a clock that the test moves. */
function simulate(text = false, colour = text, level: NonNullable<LogOptions['level']> = 'debug') {
  const lines: string[] = [];
  const timers: { at: number; fn: () => void }[] = [];
  let nowMs = Date.UTC(2026, 0, 1);
  const after = (ms: number, fn: () => void) => {
    const timer = { at: nowMs + ms, fn };
    timers.push(timer);
    return () => {
      timers.splice(timers.indexOf(timer), 1);
    };
  };
  const advance = (ms: number) => {
    nowMs += ms;
    for (const timer of timers.filter(({ at }) => at <= nowMs)) {
      timers.splice(timers.indexOf(timer), 1);
      timer.fn();
    }
  };
  const stop = startLog({ write: (line) => lines.push(line), text, colour, level, now: () => nowMs, after });
  return { lines, advance, stop, pending: () => timers.length };
}

const say = (code: string, message: string, level: NoticeReport['level'] = 'warn') =>
  channels.notice.publish({ level, code, message });

let log: ReturnType<typeof simulate> | undefined;
afterEach(() => log?.stop());

test('the first of a code at once, repeats as one line with their number every ten seconds', () => {
  log = simulate();
  for (let i = 1; i <= 5; i++) say('A', `message ${i}`);
  say('B', 'another');
  expect(log.lines.map((line) => JSON.parse(line))).toEqual([
    { time: '2026-01-01T00:00:00.000Z', level: 'warn', code: 'A', message: 'message 1' },
    { time: '2026-01-01T00:00:00.000Z', level: 'warn', code: 'B', message: 'another' },
  ]);
  log.advance(10_000);
  expect(JSON.parse(log.lines[2]!)).toMatchObject({ code: 'A', message: 'message 5', repeats: 3 });
  say('A', 'message 6');
  expect(log.lines).toHaveLength(3);
  log.advance(10_000);
  expect(JSON.parse(log.lines[3]!)).toEqual({
    time: '2026-01-01T00:00:20.000Z',
    level: 'warn',
    code: 'A',
    message: 'message 6',
  });
});

test('after a quiet period the next one is written at once', () => {
  log = simulate();
  say('A', 'one');
  log.advance(10_000);
  expect(log.pending()).toBe(0);
  say('A', 'two');
  expect(log.lines).toHaveLength(2);
});

test('stopping writes what was counted', () => {
  log = simulate();
  for (let i = 1; i <= 3; i++) say('A', `message ${i}`);
  log.stop();
  expect(log.lines.map((line) => JSON.parse(line)).at(-1)).toMatchObject({
    message: 'message 3',
    repeats: 1,
  });
  say('A', 'too late');
  expect(log.lines).toHaveLength(2);
});

test('codes without number do not fill the memory', () => {
  log = simulate();
  for (let i = 0; i < 1000; i++) say(`C${i}`, 'x');
  expect(log.lines).toHaveLength(1000);
  expect(log.pending()).toBe(200);
});

test('text for a terminal is one line, whatever the message holds', () => {
  log = simulate(true);
  say('A', 'two\nlines \x1b[2J', 'error');
  expect(log.lines).toEqual(['00:00:00.000 \x1b[31merror\x1b[0m A two lines  [2J\n']);
});

test('nothing but text goes to what is no terminal; less than the level is not written', () => {
  log = simulate(true, false, 'warn');
  say('A', 'one', 'info');
  say('B', 'two', 'warn');
  expect(log.lines).toEqual(['00:00:00.000 warn  B two\n']);
});

test('a storm of several codes costs each of them seven lines a minute, and says what was left out', () => {
  log = simulate();
  const said = { A: 0, B: 0 };
  for (let ms = 0; ms < 60_000; ms += 5) {
    for (const code of ['A', 'B'] as const) {
      say(code, `message ${said[code]}`);
      said[code] += 1;
    }
    log.advance(5);
  }
  log.stop();
  const lines = log.lines.map((line) => JSON.parse(line) as { code: string; repeats?: number });
  for (const code of ['A', 'B'] as const) {
    const own = lines.filter((line) => line.code === code);
    expect(own).toHaveLength(7);
    expect(own.reduce((sum, { repeats = 0 }) => sum + 1 + repeats, 0)).toBe(said[code]);
  }
});

test('an engine in trouble logs no key', async () => {
  const lines: string[] = [];
  const key = 'listener-4711';
  const stop = startLog({ write: (line) => lines.push(line), text: false, now: Date.now });
  const running = await startTestEngine(modelsDir({ same: { from: `${FIXTURE_MODELS}same_float32` } }));
  try {
    const { client, engine } = running;
    await client.set('predictions', 'no stream');
    await client.xadd('events', '*', 'key', key, 'data', '{"x":[1,2,3]}');
    await client.xadd('events', '*', 'key', key, 'data', `{"x":"${key}"}`);
    await client.xadd('events', '*', 'key', key, 'model', key, 'data', '{}');
    const body = JSON.stringify({ key, data: { x: 1, [key]: key } });
    const options = { method: 'POST', headers: { 'content-type': 'application/json' }, body };
    expect((await fetch(`${engine.url}/v2/models/same/infer`, options)).status).toBe(400);
    const socket = connect(engine.url.replace('http', 'ws'), { onError: () => {} });
    socket.subscribe(`key:${key}`, {}, () => {});
    await expect(socket.infer({ key, data: { nothing: key } })).rejects.toThrow();
    await until('trouble is logged', () => lines.some((line) => line.includes('COMMIT_REFUSED')));
    socket.close();
    await client.del('predictions');
  } finally {
    await running.stop();
    stop();
  }
  for (const line of lines) expect(line).not.toContain(key);
});

test.each([
  ['redis://user:hunter2@host:6379 refused', 'redis://***@host:6379 refused'],
  ['rediss://:p%40ss@host', 'rediss://***@host'],
  ['token=abc123 and "password": "x y"', 'token=*** and "password": ***'],
  ['Authorization: Bearer abc.def', 'Authorization: Bearer ***'],
  ['bad token eyJhbGciOi.eyJzdWIi.c2ln', 'bad token ***'],
  ['http://host/path?x=1 is fine', 'http://host/path?x=1 is fine'],
  ['api_key=abc123', 'api_key=***'],
  ['no room for key:ada', `no room for key:${hashedKey('ada')}`],
  ['{"key":"ada l.","data":1}', `{"key":${hashedKey('ada l.')},"data":1}`],
  ["event of key = 'ada'; again", `event of key = ${hashedKey('ada')}; again`],
  ['key: 129 bytes; at most 128 are taken', 'key: 129 bytes; at most 128 are taken'],
  ['WRONGTYPE Operation against a key holding', 'WRONGTYPE Operation against a key holding'],
])('redact %s', (message, expected) => {
  expect(redact(message)).toBe(expected);
});
