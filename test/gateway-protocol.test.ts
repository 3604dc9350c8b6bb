/** The state machine on a clock of its own, the codecs, and the document they must agree with. */
import { readFile } from 'node:fs/promises';
import { pack, unpack } from 'msgpackr';
import { expect, test } from 'vitest';
import { CODECS, JSON_CODEC, MSGPACK_CODEC, recode } from '../src/gateway/codec.ts';
import { CLOSES, ERRORS } from '../src/gateway/codes.ts';
import { mapEntries, withEntry } from '../src/gateway/msgpack.ts';
import type { Action } from '../src/gateway/protocol.ts';
import { Protocol } from '../src/gateway/protocol.ts';
import { AddressRates, TokenBucket } from '../src/gateway/rates.ts';
import { limitsDefault } from '../src/limits.ts';
import type { Answer } from '../src/schedule/direct.ts';
import { OK } from './support/gateway.ts';

function newProtocol(): Protocol {
  return new Protocol({
    limits: limitsDefault,
    connection: 'c1',
    epoch: 'e',
    json: true,
    modelKnown: (name) => name === 'genre',
    openedMs: 0,
  });
}

const EVENT = { t: 'event', d: {} };

function receive(protocol: Protocol, fields: Record<string, unknown>, nowMs: number): Action[] {
  return protocol.receive({ fields, data: fields['d'] === undefined ? null : Buffer.from('{}') }, nowMs);
}

function opened(): Protocol {
  const protocol = newProtocol();
  receive(protocol, { t: 'hello' }, 0);
  return protocol;
}

const codes = (actions: Action[]): unknown[] => {
  return actions.map((action) => {
    if (action.do === 'close') return action.close.code;
    return action.do === 'send' ? (action.frame['code'] ?? action.frame['t']) : action.do;
  });
};

test('silent: hello opens, time closes', () => {
  const protocol = newProtocol();
  expect(protocol.state).toBe('silent');
  expect(protocol.tick(9999)).toEqual([]);
  expect(codes(receive(protocol, { t: 'pong' }, 9999))).toEqual([101]);
  expect(codes(receive(protocol, { t: 'hello' }, 9999))).toEqual(['welcome']);
  expect(protocol.state).toBe('open');
  expect(protocol.tick(10_001)).toEqual([]);
  const late = newProtocol();
  expect(codes(late.tick(10_000))).toEqual([4008]);
  expect(late.state).toBe('closed');
});

test('open: pings in time, closed when one is unanswered two intervals later', () => {
  const protocol = opened();
  const seen: [number, unknown][] = [];
  for (let ms = 0; ms < 100_000; ms += 1000) {
    for (const code of codes(protocol.tick(ms))) seen.push([ms, code]);
    if (ms === 30_000) receive(protocol, { t: 'pong' }, ms);
  }
  expect(seen).toEqual([
    [25_000, 'ping'],
    [50_000, 'ping'],
    [75_000, 'ping'],
  ]);
  expect(codes(protocol.tick(100_000))).toEqual([4003]);
});

test('closed: nothing comes out any more, whatever goes in', () => {
  const protocol = opened();
  const [infer] = receive(protocol, EVENT, 0);
  expect(codes(protocol.end(CLOSES.draining))).toEqual([4000]);
  expect(protocol.end(CLOSES.draining)).toEqual([]);
  expect(receive(protocol, EVENT, 1)).toEqual([]);
  expect(protocol.tick(1_000_000)).toEqual([]);
  if (infer?.do !== 'infer') throw new Error('not an infer');
  expect(protocol.answered(undefined, infer.event, OK)).toEqual([]);
  expect(protocol.appended(1, '1-0', false)).toEqual([]);
  expect(protocol.appendFailed(1, true, '')).toEqual([]);
});

test('the event rate: a burst, then one per interval, with an honest after', () => {
  const protocol = opened();
  for (let i = 0; i < 50; i++) {
    const [action] = receive(protocol, EVENT, 0);
    if (action?.do === 'infer') protocol.answered(1, action.event, OK);
    expect(action?.do).toBe('infer');
  }
  const [refused] = receive(protocol, { ...EVENT, id: 1 }, 0);
  expect(refused).toMatchObject({ frame: { code: 111, retry: true, after: 20 } });
  expect(codes(receive(protocol, EVENT, 19))).toEqual([111]);
  expect(codes(receive(protocol, EVENT, 20))).toEqual(['infer']);
  expect(codes(receive(protocol, EVENT, 20))).toEqual([111]);
});

test('patience: ten seconds of the rate, refilled at the rate, then 4006', () => {
  const spend = (perSecond: number): number => {
    const protocol = opened();
    for (let i = 0; i < 20_000; i++) {
      if (codes(receive(protocol, { t: 'nonsense' }, (i * 1000) / perSecond)).includes(4006)) return i;
    }
    return Number.POSITIVE_INFINITY;
  };
  expect(spend(49)).toBe(Number.POSITIVE_INFINITY);
  expect(spend(1_000_000)).toBe(499);
  const credit = opened();
  receive(credit, { t: 'sub', ch: 'key:a' }, 0);
  for (let i = 0; i < 10_000; i++) {
    expect(codes(receive(credit, { t: 'flow', ch: 'key:a', seq: i, credit: 1 }, 0))).toEqual(['credit']);
  }
});

test('every status of an answer has its frame', () => {
  const event = { model: 'genre', key: 'k', event: 'e', data: new Uint8Array(0), json: true, deadlineMs: 0 };
  const expected: Record<Answer['status'], unknown> = {
    ok: 'pred',
    degraded: 'pred',
    invalid: 107,
    failed: 100,
    overloaded: 113,
    expired: 114,
    superseded: 117,
    cancelled: 100,
    unavailable: 115,
    unknown_model: 116,
  };
  for (const [status, code] of Object.entries(expected)) {
    const answer = { ...OK, status: status as Answer['status'] };
    const actions = opened().answered(7, event, answer);
    expect(codes(actions)).toEqual([code]);
    const [action] = actions;
    const frame = action?.do === 'send' ? action.frame : {};
    expect(frame).toMatchObject({ id: 7, re: 'e' });
    expect(frame['retry'] === true, status).toBe('after' in frame);
  }
});

test('request ids: numbers and short strings are echoed, anything else is dropped', () => {
  for (const [id, echoed] of [
    [7, 7],
    ['a', 'a'],
    [{}, undefined],
    ['x'.repeat(65), undefined],
    [NaN, undefined],
  ]) {
    const [action] = receive(opened(), { t: 'ping', id }, 0);
    expect(action?.do === 'send' ? action.frame['id'] : 'nothing').toBe(echoed);
  }
});

test('the document lists every error and close code, and no others', async () => {
  const text = await readFile(new URL('../src/gateway/PROTOCOL.md', import.meta.url), 'utf8');
  const rows = [...text.matchAll(/^\| (\d{3,4}) +\| (\w+) +\|(?: (yes|no) +\|)?/gm)];
  const listed = rows.map(([, code, name, retry]) => [Number(code), name, retry ?? '']);
  const retryOf = (retry: boolean): string => (retry ? 'yes' : 'no');
  expect(listed).toEqual([
    ...Object.values(ERRORS).map(({ code, name, retry }) => [code, name, retryOf(retry)]),
    ...Object.values(CLOSES).map(({ code, name }) => [code, name, '']),
  ]);
  for (const { code, reconnect } of Object.values(CLOSES)) expect(reconnect).toBe(code < 4500);
  let compared = 0;
  for (const [name, value] of Object.entries(limitsDefault)) {
    const key = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const row = new RegExp(`^\\| \`${key}\`[^|]*\\| ([\\d,]+) [^|]*\\|`, 'm').exec(text);
    if (row === null) continue;
    compared++;
    expect(Number(row[1]?.replaceAll(',', '')), key).toBe(value);
  }
  expect(compared).toBeGreaterThan(10);
});

const FRAME = { t: 'event', id: 3, key: 'é', nested: { a: [1, 2.5, null, true] }, d: { x: 1, y: [[1], []] } };

test('codecs: a frame survives both, and d stays the bytes it was', () => {
  for (const codec of CODECS.values()) {
    const bytes = codec.json ? Buffer.from(JSON.stringify(FRAME)) : pack(FRAME);
    const { fields, data } = codec.decode(bytes);
    expect(fields).toMatchObject({ t: 'event', id: 3, key: 'é', nested: { a: [1, 2.5, null, true] } });
    if (data === null) throw new Error('no data');
    expect(codec.json ? JSON.parse(Buffer.from(data).toString()) : unpack(data)).toEqual(FRAME.d);
    const { d, ...rest } = FRAME;
    const out = codec.encode(rest, codec.json ? Buffer.from(JSON.stringify(d)) : pack(d));
    expect(codec.json ? JSON.parse(Buffer.from(out).toString()) : unpack(out)).toEqual(FRAME);
  }
  const proto = MSGPACK_CODEC.decode(pack(new Map([['__proto__', { t: 'event' }]])));
  expect(proto.fields['t']).toBeUndefined();
});

test('a frame of more than fifteen keys can take one more', () => {
  const many = Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`k${i}`, i]));
  expect(unpack(withEntry(pack(many), 'd', pack({ a: 1 })))).toEqual({ ...many, d: { a: 1 } });
});

test('the walk over MessagePack finds every value, and never reads past the end', () => {
  const values = {
    nil: null,
    yes: true,
    byte: 200,
    word: 70_000,
    big: 2 ** 40,
    negative: -70_000,
    half: 0.5,
    text: 'x'.repeat(300),
    long: 'y'.repeat(70_000),
    bytes: Buffer.alloc(300, 1),
    list: Array.from({ length: 70_000 }, (_, i) => i % 100),
    map: Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`k${i}`, [i]])),
  };
  const bytes = pack(values);
  const found = mapEntries(bytes).map(({ key, start, end }) => [key, unpack(bytes.subarray(start, end))]);
  expect(Object.fromEntries(found)).toEqual(values);
  const short = pack({ ...values, long: 'y', list: [1] });
  for (let length = 0; length < short.length; length++) {
    expect(() => mapEntries(short.subarray(0, length)), `cut at ${length}`).toThrow('ends inside');
  }
});

test('outputs keep their bytes where the encodings agree', () => {
  const json = Buffer.from('{"a":1}');
  const msgpack = pack({ a: 1 });
  expect(recode(json, true)).toBe(json);
  expect(recode(msgpack, false)).toBe(msgpack);
  expect(Buffer.from(recode(msgpack, true)).toString()).toBe('{"a":1}');
  expect(unpack(recode(json, false))).toEqual({ a: 1 });
  expect(Buffer.from(recode(pack({ n: 2n ** 40n, f: Number.NaN }), true)).toString()).toBe(
    '{"n":1099511627776,"f":null}',
  );
  // What a JSON number would round is text.
  const wide = pack({ n: [2n ** 53n - 1n, 2n ** 53n + 1n, -(2n ** 53n) - 1n, 2n ** 64n - 1n] });
  expect(Buffer.from(recode(wide, true)).toString()).toBe(
    '{"n":[9007199254740991,"9007199254740993","-9007199254740993","18446744073709551615"]}',
  );
  expect(Buffer.from(JSON_CODEC.encode({ t: 'pred' }, json)).toString()).toBe('{"t":"pred","d":{"a":1}}');
});

test('a clock that is set back neither fills nor starves a bucket', () => {
  const bucket = new TokenBucket(2, 1, 10_000);
  expect([bucket.take(10_000), bucket.take(10_000), bucket.take(10_000)]).toEqual([0, 0, 1000]);
  expect(bucket.take(5000)).toBe(1000);
  expect(bucket.take(6000)).toBe(0);
});

test('addresses are forgotten once they are quiet, and bounded when they are not', () => {
  const rates = new AddressRates(1, 100);
  for (let i = 0; i < 100; i++) expect(rates.take(`a${i}`, 0)).toBe(0);
  expect(rates.take('a0', 0)).toBeGreaterThan(0);
  expect(rates.take('one more', 0)).toBe(0);
  expect(rates.size).toBe(100);
  rates.forget(1000);
  expect(rates.size).toBe(0);
});
