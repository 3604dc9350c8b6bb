// How many workers there should be, on a simulated clock: loads that stay, come and go, and machines with
// fewer processors than workers.
import { expect, test } from 'vitest';
import { Scaler } from '../src/infer/scaler.ts';
import { forSeeds, Random } from './support/random.ts';

const TARGET_MS = 10;

interface Scene {
  readonly min: number;
  readonly max: number;
  readonly processors: number;
  /** From the decision until the worker is warm. */
  readonly startMs: number;
  /** Rows per second that arrive, by seconds since the beginning. */
  readonly load: (s: number) => number;
  /** Starts fail at this time. */
  readonly fails?: (s: number) => boolean;
}

/** Of one worker with a processor of its own. */
const ROWS_PER_SECOND = 1000;

/** Workers that share processors, among themselves and with one that is loading. */
class World {
  readonly #scaler: Scaler;
  readonly #random: Random;
  readonly #scene: Scene;
  #atMs = 0;
  #busyMs = 0;
  #rows = 0;
  /** Rows that wait, and since when there have been more of them than a moment takes. */
  backlog = 0;
  workers: number;
  #start: { readonly atMs: number; readonly change: number } | null = null;
  readonly changes: { readonly s: number; readonly to: number; readonly why: string }[] = [];
  failures = 0;

  constructor(random: Random, scene: Scene, workers = scene.min) {
    this.#random = random;
    this.#scene = scene;
    this.#scaler = new Scaler({ ...scene, targetMs: TARGET_MS });
    this.workers = workers;
  }

  get s(): number {
    return this.#atMs / 1000;
  }

  /** Changes since that second. */
  since(s: number): number {
    return this.changes.filter((one) => one.s >= s).length;
  }

  starts(): number {
    return this.changes.filter(({ to }, i) => to > (this.changes[i - 1]?.to ?? this.#scene.min)).length;
  }

  run(seconds: number): this {
    const endMs = this.#atMs + seconds * 1000;
    while (this.#atMs < endMs) this.#tick(this.#random.chance(0.01) ? this.#random.int(300, 2000) : 250);
    return this;
  }

  #tick(ms: number): void {
    const { processors, load, min, max } = this.#scene;
    const competing = this.workers + (this.#start?.change === 1 ? 1 : 0);
    const speed = Math.min(1, processors / competing);
    const room = (this.workers * speed * ROWS_PER_SECOND * ms) / 1000;
    this.backlog += (load(this.s) * ms * (0.9 + 0.2 * this.#random.next())) / 1000;
    const done = Math.min(this.backlog, room);
    this.backlog -= done;
    this.#rows += done;
    this.#busyMs += (done / room) * ms * this.workers;
    this.#atMs += ms;
    this.#finish();
    // A row now and then finds all workers busy.
    const unlucky = this.#random.chance((done / room) ** 2) ? 3 * this.#random.next() * TARGET_MS : 0;
    const oldestMs = Math.max(unlucky, (this.backlog / room) * ms);
    const changing = this.#start !== null;
    const { workers } = this;
    const seen = { atMs: this.#atMs, busyMs: this.#busyMs, rows: this.#rows, oldestMs, workers, changing };
    const { workers: to, why } = this.#scaler.look(seen);
    if ((to === workers) !== (why === '')) throw new Error(`${workers} to ${to}, why: '${why}'`);
    if (to === workers) return;
    if (changing) throw new Error('a change was asked for during another');
    if (Math.abs(to - workers) > 1 || to < min || to > max) throw new Error(`${workers} to ${to}`);
    this.changes.push({ s: this.s, to, why });
    const change = to - workers;
    this.#start = { atMs: this.#atMs + (change === 1 ? this.#scene.startMs : 50), change };
  }

  #finish(): void {
    if (this.#start === null || this.#atMs < this.#start.atMs) return;
    const { change } = this.#start;
    this.#start = null;
    if (change === 1 && this.#scene.fails?.(this.s)) {
      this.failures += 1;
      this.#scaler.failed(this.#atMs);
    } else this.workers += change;
  }
}

const scene = (changes: Partial<Scene>): Scene => ({
  min: 1,
  max: 8,
  processors: 16,
  startMs: 1500,
  load: () => 0,
  ...changes,
});

test('a load that stays gets the workers it needs, soon, and no more changes', () => {
  forSeeds(300, (random) => {
    const rows = random.int(0, 7000);
    const world = new World(random, scene({ load: () => rows }));
    // Each takes a second to be seen, 1.5 to be warm and 3 to be tried.
    const needed = Math.max(1, Math.ceil(rows / ROWS_PER_SECOND));
    world.run(needed * 10 + 20);
    expect(world.workers).toBeGreaterThanOrEqual(needed);
    expect(rows / (world.workers * ROWS_PER_SECOND)).toBeGreaterThan(world.workers === 1 ? -1 : 0.3);
    const settled = world.s + 60;
    world.run(900);
    expect(world.backlog).toBeLessThan(ROWS_PER_SECOND);
    // Where those that there are are busy just below what is too much, bad luck may come late.
    expect(world.since(settled)).toBeLessThanOrEqual(1);
  });
});

test('a second worker is asked for within two seconds, with the reason', () => {
  const world = new World(new Random(1), scene({ load: (s) => (s < 10 ? 100 : 1600) }));
  world.run(20);
  const [first] = world.changes;
  expect(first!.s).toBeLessThan(12);
  expect(first).toMatchObject({
    to: 2,
    why: expect.stringMatching(/^\d+ % of the time busy, and rows have waited \d+ ms for one$/),
  });
});

test('a load that is gone: one after the other goes, slowly, and the least stay', () => {
  forSeeds(50, (random) => {
    const min = random.int(1, 3);
    const world = new World(random, scene({ min, load: (s) => (s < 100 ? 5500 : 50) }));
    world.run(100);
    const before = world.workers;
    expect(before).toBeGreaterThanOrEqual(6);
    world.run(29);
    expect(world.workers).toBe(before);
    world.run(35 * (before - min));
    expect(world.workers).toBe(min);
    expect(world.changes.at(-1)!.why).toMatch(/^without it below 50 % busy for 30 s, now \d+ %$/);
    const changes = world.changes.length;
    world.run(600);
    expect(world.changes).toHaveLength(changes);
  });
});

test('a load that comes and goes does not start and end workers all the time', () => {
  forSeeds(100, (random) => {
    const periodS = random.int(2, 600);
    const part = 0.2 + 0.6 * random.next();
    const [low, high] = [random.int(0, 400), random.int(1200, 1700)];
    const load = (s: number) => (s % periodS < part * periodS ? high : low);
    const world = new World(random, scene({ max: 2, load }));
    world.run(3600);
    // Where it is away for longer than four times half a minute it may be.
    expect(world.starts()).toBeLessThanOrEqual(25);
    const second = world.changes.length;
    world.run(3600);
    // Half a period is less than a worker waits, once it has been missed twice.
    if ((1 - part) * periodS < 60) expect(world.changes.length - second).toBeLessThanOrEqual(2);
  });
});

test('more workers than processors bring nothing: it goes back, and tries again ever more seldom', () => {
  forSeeds(100, (random) => {
    const processors = random.int(1, 4);
    const world = new World(random, scene({ processors, load: () => 9000 }));
    world.run(processors * 10 + 60);
    expect(world.workers).toBeGreaterThanOrEqual(processors);
    world.run(3600);
    expect(world.workers).toBeLessThanOrEqual(processors + 1);
    const before = world.changes.length;
    world.run(3600);
    expect(world.changes.length - before).toBeLessThanOrEqual(4);
    const why = world.changes.map((one) => one.why).filter((text) => text.includes('rows/s'));
    expect(why[0]).toMatch(/^another one made it \d+ rows\/s instead of \d+; none is tried for 60 s$/);
    expect(why[1]).toMatch(/none is tried for 120 s$/);
  });
});

test('a start that fails is not tried again and again, and when it works again it is', () => {
  forSeeds(50, (random) => {
    const world = new World(random, scene({ load: () => 1700, fails: (s) => s < 3600 }));
    world.run(3600);
    expect(world.workers).toBe(1);
    expect(world.failures).toBeGreaterThan(5);
    expect(world.failures).toBeLessThan(15);
    world.run(620);
    expect(world.workers).toBeGreaterThan(1);
  });
});

test('any load at all: never below the least, never above the most, never two at once', () => {
  forSeeds(300, (random) => {
    const min = random.int(1, 4);
    const max = min + random.int(0, 6);
    const steps = Array.from({ length: 200 }, () => random.int(0, random.pick([500, 3000, 12_000])));
    const step = random.int(1, 60);
    const load = (s: number) => steps[Math.floor(s / step) % steps.length]!;
    const fails = random.chance(0.5) ? () => random.chance(0.5) : () => false;
    const processors = random.int(1, 12);
    const startMs = random.int(200, 20_000);
    const world = new World(random, { min, max, processors, startMs, load, fails }, random.int(min, max));
    world.run(1800);
    if (min === max) expect(world.changes).toEqual([]);
  });
});

test('what was seen before a worker was lost or added does not count', () => {
  const scaler = new Scaler({ min: 1, max: 4, targetMs: TARGET_MS });
  const look = (s: number, changes: object = {}) =>
    scaler.look({
      atMs: s * 1000,
      busyMs: s * 1000,
      rows: s,
      oldestMs: 50,
      workers: 1,
      changing: false,
      ...changes,
    });
  for (let s = 0; s <= 1.25; s += 0.25) expect(look(s).workers).toBe(1);
  // Being replaced.
  expect(look(1.5, { changing: true })).toEqual({ workers: 1, why: '' });
  for (let s = 1.75; s < 3.25; s += 0.25) expect(look(s).workers).toBe(1);
  expect(look(3.25).workers).toBe(2);
});
