// The open loop and its accounting on a simulated clock.
import { describe, expect, test } from 'vitest';
import { Account } from '../src/load/account.ts';
import { loadDefaults } from '../src/load/options.ts';
import { makeReport } from '../src/load/report.ts';
import { arrivals, OpenLoop } from '../src/load/schedule.ts';
import { seededRandom } from '../src/random.ts';

const account = (over: Partial<ConstructorParameters<typeof Account>[0]> = {}) =>
  new Account({ eventsMax: 100_000, warmupMs: 0, timeoutMs: 5000, outstandingMax: 100_000, ...over });

/**
 * A server that takes one event at a time, `serviceMs` each, and stands still from `stallMs` for
 * `stallForMs`; the generator is pumped every `pumpMs`, but not during its own stall. Runs to the end and
 * gives the accounts.
 */
function simulate(options: {
  ratePerS: number;
  seconds: number;
  serverStall?: readonly [atMs: number, forMs: number];
  generatorStall?: readonly [atMs: number, forMs: number];
  seed: number;
}): Account {
  const books = account();
  const loop = new OpenLoop(
    arrivals('poisson', options.ratePerS, seededRandom(options.seed)),
    options.seconds * 1000,
  );
  const [serverAt, serverFor] = options.serverStall ?? [Number.POSITIVE_INFINITY, 0];
  const [generatorAt, generatorFor] = options.generatorStall ?? [Number.POSITIVE_INFINITY, 0];
  const pending: { seq: number; doneMs: number }[] = [];
  let freeMs = 0;
  for (let now = 0; loop.nextMs < Number.POSITIVE_INFINITY || pending.length > 0; now += 0.25) {
    if (now < generatorAt || now >= generatorAt + generatorFor) {
      loop.pump(now, (seq, dueMs) => {
        if (!books.schedule(seq, dueMs, now)) return;
        freeMs = Math.max(freeMs, now) + 0.1;
        if (freeMs >= serverAt && freeMs < serverAt + serverFor) freeMs = serverAt + serverFor;
        pending.push({ seq, doneMs: freeMs });
      });
    }
    while (pending.length > 0 && pending[0]!.doneMs <= now) books.settle(pending.shift()!.seq, now, '');
  }
  return books;
}

describe('no coordinated omission', () => {
  test.each([1, 2, 3, 4, 5])('a server that stalls for 1 s shows it at p99 (seed %i)', (seed) => {
    const calm = simulate({ ratePerS: 1000, seconds: 10, seed });
    expect(calm.latency.p99).toBeLessThan(3);
    const books = simulate({ ratePerS: 1000, seconds: 10, serverStall: [4000, 1000], seed });
    // A tenth of the events fall due in the stall, evenly: a tenth of those waited 900 ms or more.
    expect(books.latency.p99).toBeGreaterThan(850);
    expect(books.latency.max).toBeGreaterThan(980);
    expect(books.latency.p50).toBeLessThan(3);
    // The generator was not held up by the server.
    expect(books.lateness.max).toBeLessThan(1);
    expect(books.latency.count).toBe(books.sent);
  });

  test.each([6, 7, 8])('a generator that stalls is charged and named (seed %i)', (seed) => {
    const books = simulate({ ratePerS: 1000, seconds: 10, generatorStall: [4000, 1000], seed });
    expect(books.latency.p99).toBeGreaterThan(850);
    expect(books.lateness.p99).toBeGreaterThan(850);
  });
});

test('the generator is called a bottleneck when it was late often, not when its first event was', () => {
  const warnings = (count: number, lateCount: number) => {
    const books = account();
    for (let seq = 0; seq < count; seq++) {
      const nowMs = seq * 10 + (seq < lateCount ? 8 : 0.1);
      books.schedule(seq, seq * 10, nowMs);
      books.settle(seq, nowMs + 1, '');
    }
    return makeReport({ ...loadDefaults, warmupS: 0 }, books, count * 10, [], null).warnings;
  };
  for (const count of [3, 20, 37, 99, 100, 1000]) {
    expect(warnings(count, 1), `${count} events`).toEqual([]);
    expect(warnings(count, count), `${count} events`).toEqual([
      expect.stringContaining('a bottleneck: it was 8.00 ms'),
    ]);
  }
});

describe('arrivals', () => {
  test('uniform ones do not drift', () => {
    const next = arrivals('uniform', 3, () => 0);
    let last = 0;
    for (let i = 0; i <= 3_000_000; i++) last = next();
    expect(last).toBeCloseTo(1_000_000_000, 3);
  });

  test('Poisson ones keep the rate and vary as they should; a seed repeats them', () => {
    for (let seed = 1; seed <= 50; seed++) {
      const loop = new OpenLoop(arrivals('poisson', 500, seededRandom(seed)), 20_000);
      const perSecond = new Array<number>(20).fill(0);
      loop.pump(Number.POSITIVE_INFINITY, (_seq, dueMs) => {
        const second = Math.floor(dueMs / 1000);
        perSecond[second] = perSecond[second]! + 1;
      });
      // 10,000 expected, standard deviation 100: five of them.
      expect(Math.abs(loop.count - 10_000), `seed ${seed}`).toBeLessThan(500);
      const mean = loop.count / 20;
      const variance = perSecond.reduce((sum, n) => sum + (n - mean) ** 2, 0) / 19;
      expect(variance / mean, `seed ${seed}`).toBeGreaterThan(0.2);
      expect(variance / mean, `seed ${seed}`).toBeLessThan(3);
    }
    const twice = [1, 2].map(() => {
      const next = arrivals('poisson', 10, seededRandom(99));
      return Array.from({ length: 100 }, next);
    });
    expect(twice[0]).toEqual(twice[1]);
  });

  test('late pumping skips nothing and keeps the due times', () => {
    const loop = new OpenLoop(
      arrivals('uniform', 1000, () => 0),
      100,
    );
    const due: number[] = [];
    for (const now of [0, 50.5, 200]) loop.pump(now, (_seq, dueMs) => due.push(dueMs));
    expect(due).toEqual(Array.from({ length: 100 }, (_, i) => i));
    expect(loop.nextMs).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('accounting', () => {
  test('every event ends in exactly one place, whatever order answers come in', () => {
    for (let seed = 1; seed <= 300; seed++) {
      const random = seededRandom(seed);
      const books = account({ timeoutMs: 50, outstandingMax: 40, warmupMs: -1 });
      const answersDue: { seq: number; atMs: number }[] = [];
      let now = 0;
      let seq = 0;
      let answersTwice = 0;
      const answered = new Set<number>();
      for (let step = 0; step < 400; step++) {
        now += random() * 3;
        if (random() < 0.6 && books.schedule(seq++, now - random(), now) && random() < 0.9) {
          answersDue.push({ seq: seq - 1, atMs: now + random() * 100 });
        }
        for (const answer of answersDue.filter((one) => one.atMs <= now)) {
          answersDue.splice(answersDue.indexOf(answer), 1);
          if (answered.has(answer.seq)) answersTwice++;
          answered.add(answer.seq);
          books.settle(answer.seq, now, random() < 0.2 ? 'shed' : '');
          if (random() < 0.1) answersDue.push({ seq: answer.seq, atMs: now + random() * 20 });
        }
        books.expire(now);
        const refused = books.errors.get('outstanding_max') ?? 0;
        const settled = books.answered + books.errorCount - refused + books.lost;
        expect(books.sent, `seed ${seed}`).toBe(settled + books.outstanding);
        expect(books.sent + refused, `seed ${seed}`).toBe(seq);
        expect(books.outstanding, `seed ${seed}`).toBeLessThanOrEqual(40);
      }
      expect(books.duplicates, `seed ${seed}`).toBe(answersTwice);
    }
  });

  test('warm-up is sent but not measured; a duplicate counts even there', () => {
    const books = account({ warmupMs: 100 });
    for (let i = 0; i < 200; i++) books.schedule(i, i, i);
    for (let i = 0; i < 200; i++) books.settle(i, i + 10, '');
    books.settle(5, 300, '');
    expect(books.sent).toBe(100);
    expect(books.latency).toMatchObject({
      count: 100,
      p50: expect.closeTo(10, 1),
      max: expect.closeTo(10, 1),
    });
    expect(books.duplicates).toBe(1);
  });

  test('a late answer leaves its event lost, and a second one is still a duplicate', () => {
    const books = account({ timeoutMs: 50 });
    books.schedule(0, 0, 0);
    books.expire(51);
    expect(books).toMatchObject({ lost: 1, outstanding: 0 });
    books.settle(0, 60, '');
    expect(books).toMatchObject({ lost: 1, late: 1, answered: 0, duplicates: 0 });
    books.settle(0, 61, '');
    expect(books.duplicates).toBe(1);
  });

  test('numbers of nobody are strangers', () => {
    const books = account();
    books.settle(0, 1, '');
    books.settle(-1, 1, '');
    expect(books).toMatchObject({ strangers: 2, outstanding: 0 });
  });
});
