// What is suggested to producers, in closed loop on a simulated clock: it must settle, for whoever sends and
// whatever can be served. SUBITO_TEST_SEED repeats one seed.
import { expect, test } from 'vitest';
import { type RateState, type Seen, suggestRate, UNLIMITED } from '../src/ingest/suggest-rate.ts';
import { type Second, type SimulatedProducer, simulate, type World } from './simulation/producers.ts';
import { forSeeds } from './support/random.ts';

const SEEDS = 4;
const DEADLINE_MS = 1000;
const DELAYS_MS = [0, 500, 1000];

const always = (value: number) => () => value;
const greedy = (count: number, share: number): SimulatedProducer[] =>
  Array.from({ length: count }, () => ({ wantsPerS: always(8000), share }));
const unpaced = (perS: number): SimulatedProducer => ({ wantsPerS: always(perS), share: null });

type Scene = Pick<World, 'engines' | 'producers'> & { readonly capacityPerS: number };

const scenes: Readonly<Record<string, Scene>> = {
  'one producer': {
    engines: [{ capacityPerS: always(1000) }],
    producers: greedy(1, 1),
    capacityPerS: 1000,
  },
  'four that divide the rate': {
    engines: [{ capacityPerS: always(1000) }],
    producers: greedy(4, 0.25),
    capacityPerS: 1000,
  },
  'four that each take all of it': {
    engines: [{ capacityPerS: always(1000) }],
    producers: greedy(4, 1),
    capacityPerS: 1000,
  },
  'two, beside one that looks at nothing, and two engines': {
    engines: [{ capacityPerS: always(600) }, { capacityPerS: always(400) }],
    producers: [...greedy(2, 0.5), unpaced(600)],
    capacityPerS: 1000,
  },
  'three engines, one of them slow': {
    engines: [1000, 900, 100].map((perS) => ({ capacityPerS: always(perS) })),
    producers: greedy(3, 1),
    capacityPerS: 2000,
  },
  'a capacity that falls to a quarter': {
    engines: [{ capacityPerS: (ms) => (ms < 60_000 ? 1000 : 250) }],
    producers: greedy(2, 0.5),
    capacityPerS: 250,
  },
  'a capacity that grows fourfold': {
    engines: [{ capacityPerS: (ms) => (ms < 60_000 ? 1000 : 4000) }],
    producers: greedy(2, 0.5),
    capacityPerS: 4000,
  },
  'engines that come': {
    engines: [
      { capacityPerS: always(500) },
      { capacityPerS: always(500), fromMs: 40_000 },
      { capacityPerS: always(1000), fromMs: 60_000 },
    ],
    producers: greedy(2, 0.5),
    capacityPerS: 2000,
  },
  'an engine that goes without a word': {
    engines: [{ capacityPerS: always(500) }, { capacityPerS: always(1000), untilMs: 60_000 }],
    producers: greedy(2, 0.5),
    capacityPerS: 500,
  },
  'a stop in between': {
    engines: [{ capacityPerS: always(1000), refused: (ms) => ms >= 40_000 && ms < 55_000 }],
    producers: greedy(2, 0.5),
    capacityPerS: 1000,
  },
};

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Of the time after it has settled. */
function figures(seconds: readonly Second[], capacityPerS: number) {
  const ratio = seconds.map(({ arrived }) => arrived / capacityPerS);
  return {
    served: mean(seconds.map(({ served }) => served)) / capacityPerS,
    least: Math.min(...ratio),
    most: Math.max(...ratio),
    oldestMs: Math.max(...seconds.map(({ oldestMs }) => oldestMs)),
  };
}

const SETTLED_AFTER_S = 120;
const SECONDS = 180;

test.each(Object.entries(scenes))('%s: it settles at what can be served', (name, scene) => {
  for (const delayMs of DELAYS_MS) {
    forSeeds(SEEDS, (random) => {
      const run = simulate({ ...scene, deadlineMs: DEADLINE_MS, seconds: SECONDS, delayMs, random });
      const found = figures(run.slice(SETTLED_AFTER_S), scene.capacityPerS);
      const at = `${name}, delay ${delayMs} ms: ${JSON.stringify(found)}`;
      // Nearly all that can be served is, and nothing comes near its deadline.
      expect(found.served, at).toBeGreaterThan(0.93);
      expect(found.oldestMs, at).toBeLessThan(DEADLINE_MS * 0.7);
      // No wild swings.
      expect(found.least, at).toBeGreaterThan(0.65);
      expect(found.most, at).toBeLessThan(1.35);
    });
  }
});

test('what nobody needs is not limited: an engine that keeps up suggests nothing', () => {
  for (const delayMs of DELAYS_MS) {
    forSeeds(SEEDS, (random) => {
      const engines = [{ capacityPerS: always(1000) }];
      const producers = [unpaced(300), { wantsPerS: always(500), share: 1 }];
      const run = simulate({ engines, producers, deadlineMs: DEADLINE_MS, seconds: 30, delayMs, random });
      expect(run.filter(({ ratePerS, state }) => state !== 'ok' || ratePerS < 1e9)).toEqual([]);
    });
  }
});

test('a burst is drained, and then nobody is held back any more', () => {
  for (const delayMs of DELAYS_MS) {
    forSeeds(SEEDS, (random) => {
      const wantsPerS = (ms: number) => (ms > 20_000 && ms < 23_000 ? 5000 : 300);
      const engines = [{ capacityPerS: always(1000) }];
      const producers = [{ wantsPerS, share: 1 }];
      const run = simulate({ engines, producers, deadlineMs: DEADLINE_MS, seconds: 60, delayMs, random });
      expect(run[21]?.state).toBe('slow');
      // While the backlog is drained less is sent than is served.
      const draining = run.slice(22).filter(({ state }) => state === 'slow');
      const sum = (of: (second: Second) => number) => draining.reduce((all, second) => all + of(second), 0);
      expect(sum(({ arrived }) => arrived)).toBeLessThan(0.5 * sum(({ served }) => served));
      expect(run.slice(35).map(({ state }) => state)).not.toContain('slow');
      expect(run.at(-1)).toMatchObject({ state: 'ok', ratePerS: Number.POSITIVE_INFINITY });
    });
  }
});

const CALM: Seen = {
  intervalMs: 1000,
  served: 1000,
  shed: 0,
  othersServedPerS: 0,
  arrivedPerS: 1000,
  backlog: 0,
  oldestMs: 0,
  deadlineMs: DEADLINE_MS,
  refused: false,
};
const LATE: Seen = { ...CALM, backlog: 500, oldestMs: 400 };

/** What comes of these, one second each. */
const after = (...seen: readonly Seen[]): RateState => seen.reduce(suggestRate, UNLIMITED);

test('a backlog older than a share of the deadline brings the rate below what is served', () => {
  expect(after(CALM)).toMatchObject({ state: 'ok', ratePerS: Number.POSITIVE_INFINITY });
  expect(after({ ...CALM, backlog: 90, oldestMs: 99 }).state).toBe('ok');
  const late = after(CALM, LATE);
  expect(late.state).toBe('slow');
  expect(late.ratePerS).toBeLessThan(1000);
  expect(late.ratePerS).toBeGreaterThan(200);
  // One that has only just begun cannot know how much is less.
  const begun = after({ ...LATE, served: 0, intervalMs: 5 });
  expect(begun).toMatchObject({ state: 'slow', ratePerS: Number.POSITIVE_INFINITY });
  // A longer deadline has more patience, a short one not less than a read takes.
  expect(after({ ...LATE, deadlineMs: 60_000 }).state).toBe('ok');
  expect(after({ ...LATE, deadlineMs: 10, oldestMs: 49 }).state).toBe('ok');
  expect(after({ ...LATE, deadlineMs: 10, oldestMs: 51 }).state).toBe('slow');
  // More of it, less to be sent.
  const more = after(CALM, { ...LATE, backlog: 3000 });
  expect(more.ratePerS).toBeLessThan(late.ratePerS);
});

test('events that are given up are a backlog too, whatever waits in Redis', () => {
  const state = after(CALM, { ...CALM, served: 800, shed: 400, arrivedPerS: 1200 });
  expect(state).toMatchObject({ state: 'slow', capacityPerS: 800 });
  expect(state.ratePerS).toBeLessThan(800);
  expect(after({ ...CALM, served: 1000, shed: 5 }).state).toBe('ok');
});

test('refused settlements stop; after that it begins at half of what could be served', () => {
  const stopped = after(LATE, LATE, { ...LATE, refused: true });
  expect(stopped).toMatchObject({ state: 'stop', ratePerS: 0 });
  const again = suggestRate(stopped, CALM);
  expect(again.state).toBe('ok');
  expect(again.ratePerS).toBeGreaterThan(450);
  expect(again.ratePerS).toBeLessThanOrEqual(1000);
  // One that has never been at its limit does not know half of what that is.
  expect(after({ ...CALM, refused: true }, CALM)).toMatchObject({ ratePerS: Number.POSITIVE_INFINITY });
});

test('nothing served for three seconds, though events wait, is a stop; a slow batch is not', () => {
  const none: Seen = { ...LATE, served: 0 };
  expect(after(LATE, none, none).state).toBe('slow');
  expect(after(CALM, none, none, none).state).toBe('slow');
  expect(after(LATE, none, none, none)).toMatchObject({ state: 'stop', ratePerS: 0 });
  expect(after(LATE, none, none, none, none)).toMatchObject({ state: 'stop', ratePerS: 0 });
  expect(after(LATE, none, none, none, LATE)).toMatchObject({ state: 'slow' });
  expect(after(LATE, none, none, none, LATE).ratePerS).toBeGreaterThan(0);
});

test('what is not known changes nothing', () => {
  const late = after(LATE, LATE);
  expect(suggestRate(late, { ...CALM, backlog: null, oldestMs: null })).toEqual(late);
  expect(suggestRate(late, { ...CALM, intervalMs: 0 })).toEqual(late);
  const blind = suggestRate(late, { ...LATE, arrivedPerS: null });
  expect(Number.isFinite(blind.ratePerS)).toBe(true);
});
