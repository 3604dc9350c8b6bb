// The circuit breaker on a clock of the test's own: what opens it, how it tries again, what it does not
// listen to; and thousands of seeded schedules in which it must keep its promises.
import assert from 'node:assert/strict';
import { expect, test, vi } from 'vitest';
import {
  BREAKER_DEFAULTS,
  Breaker,
  type BreakerOptions,
  type BreakerState,
  type Permit,
} from '../src/schedule/breaker.ts';
import { forSeeds, type Random } from './support/random.ts';

const GOOD = { failed: false, slow: false };
const FAILED = { failed: true, slow: false };
const SLOW = { failed: false, slow: true };
const PROBE_MS_MAX = 1000;

interface Bench {
  nowMs: number;
  readonly breaker: Breaker;
  readonly changes: { readonly atMs: number; readonly state: BreakerState; readonly why: string }[];
}

function bench(settings: Partial<BreakerOptions['settings']> = {}, random = () => 0.5, startMs = 1e6): Bench {
  const changes: Bench['changes'] = [];
  const self: { nowMs: number } = { nowMs: startMs };
  const breaker = new Breaker({
    settings: { ...BREAKER_DEFAULTS, ...settings },
    probeMsMax: PROBE_MS_MAX,
    now: () => self.nowMs,
    random,
    onChange: (state, why) => changes.push({ atMs: self.nowMs, state, why }),
  });
  return Object.assign(self, { breaker, changes });
}

const permit = ({ breaker }: Bench): Permit => {
  const given = breaker.request();
  expect(given).not.toBeNull();
  return given as Permit;
};

const send = (one: Bench, outcomes: readonly (typeof GOOD)[]) => {
  for (const outcome of outcomes) permit(one).done(outcome);
};

const times = (count: number, outcome: typeof GOOD) => Array.from({ length: count }, () => outcome);

function open(one: Bench): void {
  send(one, times(5, FAILED));
  expect(one.breaker.state).toBe('open');
}

/** Until the next probe. */
function wait(one: Bench): void {
  one.nowMs += one.breaker.openForMs;
}

test('batches that fail in a row open it, however far apart; what comes in between does not', () => {
  const one = bench();
  for (let round = 0; round < 20; round += 1) {
    send(one, [...times(4, FAILED), GOOD]);
    one.nowMs += 3000;
  }
  expect(one.breaker.state).toBe('closed');
  for (let i = 0; i < 5; i += 1) {
    expect(one.breaker.state).toBe('closed');
    expect(one.breaker.isInDoubt).toBe(i > 1);
    send(one, [FAILED]);
    one.nowMs += 60_000;
  }
  expect(one.changes).toMatchObject([{ state: 'open', why: '5 batches in a row failed or were slow' }]);
});

test('a share of failures opens it, of at least so many batches', () => {
  const settings = { consecutive: 1000, volume: 10, failureRate: 0.5 };
  const few = bench(settings);
  send(few, times(9, FAILED));
  expect(few.breaker.state).toBe('closed');
  send(few, [FAILED]);
  expect(few.changes).toMatchObject([{ why: 'of 10 batches within 5000 ms 10 failed and 0 were slow' }]);
  const half = bench(settings);
  for (let i = 0; i < 100; i += 1) send(half, [GOOD, FAILED]);
  expect(half.breaker.state).toBe('closed');
  send(half, [FAILED]);
  expect(half.breaker.state).toBe('open');
});

test('what is older than the window no longer counts', () => {
  const one = bench({ consecutive: 1000, windowMs: 1000, volume: 10 });
  send(one, times(9, FAILED));
  one.nowMs += 1100;
  send(one, [...times(8, GOOD), ...times(2, FAILED)]);
  expect(one.breaker.state).toBe('closed');
  // A day without a batch costs no more than a window.
  one.nowMs += 86_400_000;
  send(one, times(9, FAILED));
  expect(one.breaker.state).toBe('closed');
});

test('slow batches open it by their share, and in a row', () => {
  const one = bench({ consecutive: 1000, slowRate: 0.5 });
  send(one, [...times(10, GOOD), ...times(10, SLOW)]);
  expect(one.breaker.state).toBe('closed');
  send(one, [SLOW]);
  expect(one.changes).toMatchObject([{ why: 'of 21 batches within 5000 ms 0 failed and 11 were slow' }]);
  const row = bench();
  send(row, [FAILED, SLOW, SLOW, FAILED, SLOW]);
  expect(row.breaker.state).toBe('open');
});

test('batches that say nothing count as none', () => {
  const one = bench();
  for (let i = 0; i < 100; i += 1) permit(one).forget();
  send(one, times(4, FAILED));
  permit(one).forget();
  expect(one.breaker.state).toBe('closed');
  send(one, [FAILED]);
  expect(one.breaker.state).toBe('open');
  expect(() => permit(bench()).done(GOOD)).not.toThrow();
  const twice = permit(bench());
  twice.done(GOOD);
  expect(() => twice.forget()).toThrow('a permit is settled once');
});

test('while it is open nothing passes; then probes, one at first; enough good ones close it', () => {
  const one = bench({ probes: 3 });
  open(one);
  const { openForMs } = one.breaker;
  one.nowMs += openForMs - 0.5;
  expect(one.breaker.request()).toBeNull();
  wait(one);
  const first = permit(one);
  expect(one.breaker.state).toBe('half_open');
  expect(one.breaker.request()).toBeNull();
  first.done(GOOD);
  const [second, third] = [permit(one), permit(one)];
  expect(one.breaker.request()).toBeNull();
  second.forget();
  const fourth = permit(one);
  third.done(GOOD);
  expect(one.breaker.state).toBe('half_open');
  fourth.done(GOOD);
  expect(one.breaker.state).toBe('closed');
  // What it failed of before it opened is forgotten.
  send(one, times(4, FAILED));
  expect(one.breaker.state).toBe('closed');
});

test.each([
  ['fails', FAILED],
  ['is slow', SLOW],
])('a probe that %s opens it again, and what came of the others is ignored', (_, outcome) => {
  const one = bench();
  open(one);
  wait(one);
  permit(one).done(GOOD);
  const [bad, late] = [permit(one), permit(one)];
  bad.done(outcome);
  expect(one.breaker.state).toBe('open');
  late.done(GOOD);
  expect(one.breaker.state).toBe('open');
  wait(one);
  permit(one);
  expect(one.breaker.state).toBe('half_open');
});

test('a probe that does not come back has failed, and its late answer closes nothing', () => {
  const one = bench();
  open(one);
  wait(one);
  const lost = permit(one);
  one.nowMs += PROBE_MS_MAX;
  expect(one.breaker.request()).toBeNull();
  expect(one.breaker.state).toBe('half_open');
  one.nowMs += 1;
  expect(one.breaker.request()).toBeNull();
  expect(one.breaker.state).toBe('open');
  lost.done(GOOD);
  expect(one.breaker.state).toBe('open');
});

test('results from before it opened change nothing later', () => {
  const one = bench({ probes: 1 });
  const early = [permit(one), permit(one), permit(one)];
  open(one);
  early[0]?.done(GOOD);
  expect(one.breaker.state).toBe('open');
  wait(one);
  const probe = permit(one);
  early[1]?.done(GOOD);
  expect(one.breaker.state).toBe('half_open');
  probe.done(GOOD);
  expect(one.breaker.state).toBe('closed');
  send(one, times(4, FAILED));
  early[2]?.done(FAILED);
  expect(one.breaker.state).toBe('closed');
});

test('it stays open longer each time, within its bounds, and briefly again once it was well', () => {
  const settings = { openMsMin: 100, openMsMax: 1600 };
  const most: number[] = [];
  for (const share of [0, 0.999_999]) {
    const one = bench(settings, () => share);
    open(one);
    for (let i = 0; i < 6; i += 1) {
      most.push(Math.round(one.breaker.openForMs));
      wait(one);
      permit(one).done(FAILED);
    }
    wait(one);
    for (let i = 0; i < 3; i += 1) permit(one).done(GOOD);
    // Not well for long enough: it goes on where it was.
    open(one);
    most.push(Math.round(one.breaker.openForMs));
    wait(one);
    for (let i = 0; i < 3; i += 1) permit(one).done(GOOD);
    one.nowMs += settings.openMsMax;
    open(one);
    most.push(Math.round(one.breaker.openForMs));
  }
  expect(most).toEqual([...times(8, GOOD).map(() => 100), 200, 400, 800, 1600, 1600, 1600, 1600, 200]);
});

test('it leaves no timer behind, in whatever state', () => {
  vi.useFakeTimers();
  try {
    const one = bench();
    open(one);
    wait(one);
    permit(one).done(FAILED);
    wait(one);
    permit(one);
    expect(vi.getTimerCount()).toBe(0);
  } finally {
    vi.useRealTimers();
  }
});

/** A model that fails, is slow and is well by turns, under batches that come back in any order. */
function simulate({ next: random }: Random): void {
  const between = (least: number, most: number) => least + random() * (most - least);
  const one = bench({}, random, between(0, 1e9));
  const { openMsMin, openMsMax, probes } = BREAKER_DEFAULTS;
  const out: { readonly permit: Permit; readonly backMs: number; readonly outcome: typeof GOOD }[] = [];
  let model = GOOD;
  let turnMs = one.nowMs;
  let passed = 0;
  const step = (gapMs: number) => {
    one.nowMs += gapMs;
    for (const back of out.filter(({ backMs }) => backMs <= one.nowMs)) {
      out.splice(out.indexOf(back), 1);
      if (random() < 0.05) back.permit.forget();
      else back.permit.done(back.outcome);
    }
    const before = one.changes.length;
    const wasOpen = one.breaker.state === 'open';
    const openedMs = one.changes.findLast(({ state }) => state === 'open')?.atMs ?? 0;
    const given = one.breaker.request();
    // Called so often that expect would take most of the time.
    const forMs = one.nowMs - openedMs;
    if (wasOpen && given !== null) assert(forMs >= openMsMin, `it was open for ${forMs} ms only`);
    const stays = wasOpen && given === null && one.changes.length === before;
    if (stays) assert(forMs < openMsMax, `it is still open after ${forMs} ms`);
    if (given === null) return;
    passed += 1;
    out.push({ permit: given, backMs: one.nowMs + between(0.1, 30), outcome: model });
    if (one.breaker.state !== 'half_open') return;
    const { generation } = given;
    const probing = out.filter((each) => each.permit.generation === generation).length;
    assert(probing <= probes, `${probing} probes`);
  };
  const turns = 3 + Math.floor(random() * 5);
  for (let turn = 0; turn < turns; turn += 1) {
    model = [GOOD, FAILED, SLOW, FAILED][Math.floor(random() * 4)] as typeof GOOD;
    turnMs = one.nowMs;
    const endMs = one.nowMs + between(50, 8000);
    const gapMs = between(1, 100);
    while (one.nowMs < endMs) {
      step(between(0.5, 2 * gapMs));
      // A second of a model that is all wrong, at some speed.
      const isLong = model !== GOOD && gapMs < 50 && one.nowMs - turnMs > 1000;
      if (isLong) assert(one.changes.length > 0, 'it stays closed');
    }
  }
  // It heals: within 5 s all batches pass again.
  model = GOOD;
  const healedMs = one.nowMs;
  while (one.nowMs - healedMs < 5000) step(between(1, 100));
  expect(one.breaker.state).toBe('closed');
  const before = passed;
  for (let i = 0; i < 100; i += 1) step(1);
  expect(passed - before).toBe(100);
}

test('2,000 schedules of failing, slowness and healing', () => forSeeds(2000, simulate), 60_000);
