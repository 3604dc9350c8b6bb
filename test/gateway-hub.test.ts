/**
 * The hub and the append window under random schedules. A failure prints its seed; set SUBITO_TEST_SEED to
 * run only that one.
 */
import { unpack } from 'msgpackr';
import { expect, test } from 'vitest';
import type { AppendOutcome } from '../src/gateway/appends.ts';
import { Appends } from '../src/gateway/appends.ts';
import type { StreamEvent } from '../src/gateway/backend.ts';
import type { CloseKind } from '../src/gateway/codes.ts';
import type { Outlet } from '../src/gateway/hub.ts';
import { Hub } from '../src/gateway/hub.ts';
import type { PushReport } from '../src/observe/channels.ts';
import { channels } from '../src/observe/channels.ts';
import { prediction } from './support/gateway.ts';
import { Random, seeds } from './support/random.ts';

/** Whole numbers below what is asked for. */
function random(seed: number): (below: number) => number {
  const numbers = new Random(seed);
  return (below) => numbers.int(0, below - 1);
}

interface Sent {
  readonly seq: number;
  readonly conf: number;
  readonly model: string;
  readonly d: { readonly n: number };
  readonly ch: string;
}

class TestOutlet implements Outlet {
  readonly json: boolean;
  readonly sent: Sent[] = [];
  readonly raw: Uint8Array[] = [];
  closed: CloseKind | null = null;
  readonly hub: () => Hub;

  constructor(json: boolean, hub: () => Hub) {
    this.json = json;
    this.hub = hub;
  }

  push(frame: Uint8Array): boolean {
    if (this.closed !== null) return false;
    this.raw.push(frame);
    this.sent.push(this.json ? JSON.parse(Buffer.from(frame).toString()) : unpack(frame));
    return true;
  }

  end(close: CloseKind): void {
    this.closed = close;
    this.hub().remove(this);
  }
}

const HELD_BYTES_MAX = 4000;

function newHub(wanted: boolean[] = []): Hub {
  return new Hub({ heldBytesMax: HELD_BYTES_MAX, now: () => 0, wanted: (w) => wanted.push(w) });
}

/** What a client would compute from the frames of one channel, and what the schedule offered it. */
class Follower {
  readonly outlet: TestOutlet;
  readonly mode: 'latest' | 'all';
  credit: number;
  offered: { n: number; model: string }[] = [];

  constructor(outlet: TestOutlet, mode: 'latest' | 'all', credit: number) {
    this.outlet = outlet;
    this.mode = mode;
    this.credit = credit;
  }
}

function runSchedule(seed: number): void {
  const below = random(seed);
  const hub = newHub();
  const followers = Array.from({ length: 1 + below(3) }, () => {
    const mode = below(2) === 0 ? 'latest' : 'all';
    const credit = below(4);
    const outlet = new TestOutlet(below(2) === 0, () => hub);
    const target = { kind: 'key', name: 'u42' } as const;
    hub.subscribe(outlet, { channel: 'key:u42', target, mode, models: null, credit });
    return new Follower(outlet, mode, credit);
  });
  const models = ['genre@3', 'genre@4', 'mood@1', 'skip@2'].slice(0, 1 + below(4));
  const steps = 20 + below(100);
  let last = 0;
  for (let n = 1; n <= steps; n++) {
    if (below(10) < 6) {
      // One in eight is a tail that starts over: an id that was offered before.
      const again = last > 0 && below(8) === 0;
      const id = again ? 1 + below(last) : ++last;
      const model = models[below(models.length)]!;
      hub.offer(prediction(id, { model, outputs: Buffer.from(JSON.stringify({ n: id })) }));
      if (!again) for (const one of followers) one.offered.push({ n: id, model });
    } else {
      const one = followers[below(followers.length)]!;
      const credit = 1 + below(5);
      if (one.outlet.closed === null) one.credit += credit;
      hub.credit(one.outlet, 'key:u42', credit);
    }
    for (const one of followers) checkFollower(hub, one, seed);
  }
  for (const one of followers) checkEnd(hub, one, seed);
}

/** `expect` takes microseconds, and there are millions of these. */
function holds(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

function checkFollower(hub: Hub, follower: Follower, seed: number): void {
  const { outlet } = follower;
  const where = `seed ${seed}`;
  const held = hub.heldBytes(outlet);
  holds(held <= HELD_BYTES_MAX, `${where}: ${held} bytes are held`);
  holds(outlet.sent.length <= follower.credit, `${where}: more was sent than credit allows`);
  holds(outlet.sent.length === follower.credit || held === 0, `${where}: held in spite of credit`);
}

function checkEnd(hub: Hub, follower: Follower, seed: number): void {
  const { outlet, mode, offered } = follower;
  if (outlet.closed === null) hub.credit(outlet, 'key:u42', 10_000);
  const where = `seed ${seed}, ${mode}`;
  let previous = 0;
  let newest = 0;
  for (const { seq, conf, d, model } of outlet.sent) {
    holds(seq === previous + 1 + conf, `${where}: seq ${seq} after ${previous} with conf ${conf}`);
    // The n-th prediction offered has seq n, whatever became of those before it.
    const is = offered[seq - 1];
    holds(is?.n === d.n && is.model === model, `${where}: seq ${seq} is not what was offered`);
    holds(d.n > newest, `${where}: ${d.n} after ${newest}`);
    previous = seq;
    newest = d.n;
  }
  if (outlet.closed !== null) {
    holds(mode === 'all' && outlet.closed.code === 4002, `${where}: closed with ${outlet.closed.code}`);
    return;
  }
  if (mode === 'all') holds(outlet.sent.length === offered.length, `${where}: not all arrived`);
  // Whatever was conflated away, the newest of every model arrived.
  const arrived = new Set(outlet.sent.map(({ d }) => d.n));
  for (const bare of new Set(offered.map(({ model }) => model.split('@')[0]))) {
    const last = offered.findLast(({ model }) => model.startsWith(`${bare}@`));
    holds(arrived.has(last!.n), `${where}: the newest of ${bare} is missing`);
  }
}

test('seq, conf, order, credit and memory hold under 3000 random schedules', () => {
  for (const seed of seeds(3000)) runSchedule(seed);
});

test('what is held is bounded in mode latest too, and the newest survives', () => {
  const hub = newHub();
  const outlet = new TestOutlet(true, () => hub);
  const target = { kind: 'key', name: 'u42' } as const;
  hub.subscribe(outlet, { channel: 'key:u42', target, mode: 'latest', models: null, credit: 0 });
  for (let n = 1; n <= 500; n++) hub.offer(prediction(n, { model: `model${n}@1` }));
  expect(hub.heldBytes(outlet)).toBeLessThanOrEqual(HELD_BYTES_MAX);
  hub.credit(outlet, 'key:u42', 1000);
  expect(outlet.sent.at(-1)).toMatchObject({ seq: 500, d: { n: 500 } });
  expect(outlet.sent[0]?.conf).toBe(500 - outlet.sent.length);
  expect(hub.heldBytes(outlet)).toBe(0);
});

test('channels: a key, a model of any version, one version, and filters', () => {
  const wanted: boolean[] = [];
  const hub = newHub(wanted);
  const outlets = {
    key: new TestOutlet(true, () => hub),
    name: new TestOutlet(true, () => hub),
    version: new TestOutlet(false, () => hub),
    filtered: new TestOutlet(true, () => hub),
  };
  const all = { mode: 'latest', models: null, credit: 100 } as const;
  expect(hub.interested('a', 'genre@3')).toBe(false);
  hub.subscribe(outlets.key, { ...all, channel: 'key:a', target: { kind: 'key', name: 'a' } });
  hub.subscribe(outlets.name, { ...all, channel: 'model:genre', target: { kind: 'model', name: 'genre' } });
  hub.subscribe(outlets.version, {
    ...all,
    channel: 'model:genre@3',
    target: { kind: 'model', name: 'genre@3' },
  });
  hub.subscribe(outlets.filtered, {
    ...all,
    models: ['mood'],
    channel: 'key:a',
    target: { kind: 'key', name: 'a' },
  });
  expect([
    hub.interested('z', 'mood@1'),
    hub.interested('z', 'genre@9'),
    hub.interested('a', 'mood@1'),
  ]).toEqual([false, true, true]);
  hub.offer(prediction(1, { key: 'a', model: 'genre@3' }));
  hub.offer(prediction(2, { key: 'b', model: 'genre@4' }));
  hub.offer(prediction(3, { key: 'a', model: 'mood@1' }));
  hub.offer(prediction(4, { key: 'b', model: 'mood@1' }));
  const got = Object.entries(outlets).map(([name, { sent }]) => [name, sent.map(({ d }) => d.n)]);
  expect(Object.fromEntries(got)).toEqual({ key: [1, 3], name: [1, 2], version: [1], filtered: [3] });
  for (const outlet of Object.values(outlets)) hub.remove(outlet);
  expect(hub.interested('a', 'genre@3')).toBe(false);
  expect(hub.subscriptions).toBe(0);
  expect(wanted).toEqual([true, false]);
});

test('a prediction is encoded once per encoding, and its outputs are not kept', () => {
  const hub = newHub();
  const outlets = [true, true, false, false].map((json) => new TestOutlet(json, () => hub));
  for (const outlet of outlets) {
    const target = { kind: 'key', name: 'u42' } as const;
    hub.subscribe(outlet, { channel: 'key:u42', target, mode: 'all', models: null, credit: 0 });
  }
  const outputs = Buffer.from('{"n":1,"text":"<é\\u0000>"}');
  hub.offer(prediction(1, { outputs }));
  // The caller's memory is used for something else now.
  outputs.fill(0);
  for (const outlet of outlets) hub.credit(outlet, 'key:u42', 1);
  for (const outlet of outlets) expect(outlet.sent[0]?.d).toEqual({ n: 1, text: '<é\u0000>' });
});

test('a prediction without outputs is sent without d', () => {
  const hub = newHub();
  for (const json of [true, false]) {
    const outlet = new TestOutlet(json, () => hub);
    const target = { kind: 'key', name: 'u42' } as const;
    hub.subscribe(outlet, { channel: 'key:u42', target, mode: 'all', models: null, credit: 1 });
    hub.offer(prediction(json ? 1 : 2, { outputs: new Uint8Array(0), status: 'shed' }));
    expect(outlet.sent[0]).toMatchObject({ st: 'shed', seq: 1, conf: 0 });
    expect(outlet.sent[0]).not.toHaveProperty('d');
  }
});

test('one report per prediction that somebody wanted', () => {
  const hub = newHub();
  const reports: PushReport[] = [];
  const listener = (report: unknown): void => void reports.push(report as PushReport);
  channels.push.subscribe(listener);
  const target = { kind: 'key', name: 'u42' } as const;
  for (const credit of [1, 0]) {
    const outlet = new TestOutlet(true, () => hub);
    hub.subscribe(outlet, { channel: 'key:u42', target, mode: 'latest', models: null, credit });
  }
  hub.offer(prediction(1));
  hub.offer(prediction(2));
  hub.offer(prediction(3, { key: 'nobody' }));
  channels.push.unsubscribe(listener);
  expect(reports.map(({ sent, held, dropped }) => ({ sent, held, dropped }))).toEqual([
    { sent: 1, held: 1, dropped: 0 },
    { sent: 0, held: 2, dropped: 1 },
  ]);
});

const EVENT: StreamEvent = {
  model: 'm',
  key: 'k',
  event: 'e1',
  data: new Uint8Array(1),
  priority: 1,
  deadlineMs: 0,
};

test('the append window: each id has one entry at a time, all askers hear of it, 500 schedules', async () => {
  for (const seed of seeds(500)) {
    const below = random(seed);
    const inFlight = new Map<string, { resolve: (sid: string) => void; reject: (error: Error) => void }>();
    let entries = 0;
    const stored = new Map<string, string[]>();
    const appends = new Appends({
      append: (event) => {
        expect(inFlight.has(event.event), `seed ${seed}: two appends at once`).toBe(false);
        return new Promise((resolve, reject) => inFlight.set(event.event, { resolve, reject }));
      },
      windowMs: 1_000_000,
      idsMax: 1000,
    });
    const outcomes: { event: string; outcome: AppendOutcome }[] = [];
    let asked = 0;
    for (let step = 0; step < 60; step++) {
      const event = `e${below(5)}`;
      const flight = inFlight.get(event);
      if (below(3) > 0 || flight === undefined) {
        asked++;
        appends.append({ ...EVENT, event }, step, (outcome) => outcomes.push({ event, outcome }));
        continue;
      }
      inFlight.delete(event);
      if (below(3) === 0) flight.reject(new Error('lost'));
      else {
        const sid = `${++entries}-0`;
        stored.set(event, [...(stored.get(event) ?? []), sid]);
        flight.resolve(sid);
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    for (const flight of inFlight.values()) flight.reject(new Error('the end'));
    await new Promise((resolve) => setImmediate(resolve));
    expect(outcomes.length, `seed ${seed}: everybody hears once`).toBe(asked);
    for (const [event, sids] of stored) {
      expect(sids.length, `seed ${seed}: ${event} appended twice`).toBe(1);
      const good = outcomes.filter((one) => one.event === event && one.outcome.error === undefined);
      expect(new Set(good.map(({ outcome }) => outcome.sid))).toEqual(new Set(sids));
      expect(good.filter(({ outcome }) => !outcome.dup).length, `seed ${seed}: one first`).toBe(1);
    }
  }
});

test('the append window is bounded, and no key can be taken for another', async () => {
  let n = 0;
  const appends = new Appends({ append: async () => `${++n}-0`, windowMs: 1000, idsMax: 100 });
  const ask = (more: Partial<StreamEvent>, nowMs: number): Promise<AppendOutcome> => {
    return new Promise((resolve) => appends.append({ ...EVENT, ...more }, nowMs, resolve));
  };
  expect(await ask({}, 0)).toMatchObject({ sid: '1-0', dup: false });
  expect(await ask({}, 999)).toMatchObject({ sid: '1-0', dup: true });
  expect(await ask({}, 1000)).toMatchObject({ sid: '2-0', dup: false });
  expect(await ask({ event: '' }, 1000)).toMatchObject({ dup: false });
  expect(await ask({ event: '' }, 1000)).toMatchObject({ dup: false });
  expect(await ask({ key: 'km', model: '' }, 1000)).toMatchObject({ dup: false });
  expect(await ask({ key: '', model: 'km' }, 1000)).toMatchObject({ dup: false });
  for (let i = 0; i < 1000; i++) await ask({ event: `x${i}` }, 1001);
  expect(appends.size).toBeLessThanOrEqual(100);
});
