// Rates from counters, over a window.
import { expect, test } from 'vitest';
import { RateWindow, type Sample, UNKNOWN_RATES } from '../src/autoscale/signals.ts';

const ZERO: Sample = {
  atMs: 0,
  added: 0,
  addedAtMs: 0,
  directRows: 0,
  ranRows: 0,
  settledRows: 0,
  busyUs: 0,
  loopActiveMs: 0,
  workers: 2,
};

/** One sample a second; each value of `more` says how much is added in a second. */
function fed(seconds: number, more: Partial<Sample>, windowMs = 10_000): RateWindow {
  const window = new RateWindow(windowMs);
  for (let s = 0; s <= seconds; s += 1) {
    const grown = Object.fromEntries(Object.entries(more).map(([name, each]) => [name, (each ?? 0) * s]));
    window.add({ ...ZERO, ...grown, workers: 2, atMs: s * 1000, addedAtMs: s * 1000 });
  }
  return window;
}

test('one sample says nothing yet', () => {
  const window = new RateWindow(10_000);
  expect(window.rates()).toEqual(UNKNOWN_RATES);
  window.add(ZERO);
  expect(window.rates()).toEqual(UNKNOWN_RATES);
});

test('what was counted in the window, by its time', () => {
  const more = { added: 500, directRows: 20, settledRows: 510, busyUs: 400_000, loopActiveMs: 300 };
  expect(fed(30, more).rates()).toEqual({
    streamArrivalsPerS: 500,
    directArrivalsPerS: 20,
    settledPerS: 510,
    workerBusyRatio: 0.2,
    loopBusyRatio: 0.3,
    recentBusyRatio: 0.3,
    serviceRatePerS: null,
  });
  // What was before the window does not count.
  const window = fed(30, { added: 500 });
  for (let s = 31; s <= 40; s += 1)
    window.add({ ...ZERO, added: 15_000, atMs: s * 1000, addedAtMs: s * 1000 });
  expect(window.rates().streamArrivalsPerS).toBe(0);
  // A sample out of turn is left out.
  window.add({ ...ZERO, added: 99_000, atMs: 40_000, addedAtMs: 40_000 });
  expect(window.rates().streamArrivalsPerS).toBe(0);
});

test('the service rate is of the part that is busier: the workers, or the main thread', () => {
  expect(fed(10, { ranRows: 1000, busyUs: 1_000_000 }).rates().serviceRatePerS).toBe(2000);
  expect(fed(10, { ranRows: 1000, busyUs: 400_000, loopActiveMs: 800 }).rates().serviceRatePerS).toBe(1250);
});

test('how busy it was just now is of the last three seconds', () => {
  const window = fed(10, { busyUs: 0 });
  for (let s = 1; s <= 3; s += 1) window.add({ ...ZERO, busyUs: s * 1e6, atMs: (10 + s) * 1000 });
  expect(window.rates()).toMatchObject({ recentBusyRatio: 0.5, workerBusyRatio: 0.15 });
});

test('a light load does not replace what a busy window has shown', () => {
  const window = fed(10, { ranRows: 100, busyUs: 100_000 });
  expect(window.rates().serviceRatePerS).toBe(2000);
  const at = (s: number, ranRows: number, busyUs: number) =>
    window.add({ ...ZERO, ranRows, busyUs, atMs: s * 1000, addedAtMs: s * 1000 });
  for (let s = 11; s <= 20; s += 1) at(s, 1000 + (s - 10) * 5000, 1e6 + (s - 10) * 1e6);
  expect(window.rates().serviceRatePerS).toBe(10_000);
  for (let s = 21; s <= 60; s += 1) at(s, 51_000 + (s - 20) * 100, 11e6 + (s - 20) * 1e5);
  // The windows between had some of both.
  const after = window.rates().serviceRatePerS!;
  expect(after).toBeGreaterThan(8500);
  for (let s = 61; s <= 80; s += 1) at(s, 55_000 + (s - 60) * 4000, 15e6 + (s - 60) * 1e6);
  expect(window.rates().serviceRatePerS).toBe(8000);
});

test('too little says nothing, and idleness keeps what was known', () => {
  expect(fed(10, { ranRows: 1, busyUs: 1_000_000 }).rates().serviceRatePerS).toBeNull();
  expect(fed(10, { ranRows: 1000, busyUs: 100 }).rates().serviceRatePerS).toBeNull();
  const window = fed(10, { ranRows: 1000, busyUs: 1_000_000 });
  for (let s = 11; s <= 40; s += 1)
    window.add({ ...ZERO, ranRows: 10_000, busyUs: 1e7, atMs: s * 1000, addedAtMs: s * 1000 });
  expect(window.rates()).toMatchObject({ serviceRatePerS: 2000, workerBusyRatio: 0 });
});

test('a count that is repeated, because Redis is slow, does not make the rate smaller', () => {
  const window = fed(10, { added: 100 });
  window.add({ ...ZERO, added: 1000, addedAtMs: 10_000, atMs: 14_000 });
  expect(window.rates().streamArrivalsPerS).toBe(100);
});

test('a count of Redis that is missing or goes back is not known until there are two again', () => {
  const window = fed(10, { added: 100 });
  window.add({ ...ZERO, added: null, atMs: 11_000, addedAtMs: 11_000 });
  expect(window.rates().streamArrivalsPerS).toBeNull();
  window.add({ ...ZERO, added: 1200, atMs: 12_000, addedAtMs: 12_000 });
  expect(window.rates().streamArrivalsPerS).toBeNull();
  window.add({ ...ZERO, added: 1300, atMs: 13_000, addedAtMs: 13_000 });
  expect(window.rates().streamArrivalsPerS).toBe(100);
  // The stream was deleted.
  window.add({ ...ZERO, added: 7, atMs: 14_000, addedAtMs: 14_000 });
  expect(window.rates().streamArrivalsPerS).toBeNull();
  window.add({ ...ZERO, added: 57, atMs: 15_000, addedAtMs: 15_000 });
  expect(window.rates().streamArrivalsPerS).toBe(50);
});
