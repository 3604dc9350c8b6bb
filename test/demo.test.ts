import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import type { DemoFigures } from '../src/demo/crowd.ts';
import { inPopularTen, Judge, type Judgment, WINDOW } from '../src/demo/judge.ts';
import { type Guess, Listener, type Question } from '../src/demo/listener.ts';
import { popularTitles, readTransitions, sampleShow, type Transitions } from '../src/demo/sampler.ts';
import { StatusLine, statusLine, welcome } from '../src/demo/terminal.ts';
import { guessesOf } from '../src/demo/way.ts';
import type { Stats } from '../src/observe/figures.ts';
import { seededRandom } from '../src/random.ts';

/** Two sets; A opens, then B or C, then the set may end. */
const small: Transitions = {
  sets: { '1': 0.25, '2': 0.75 },
  starts: {
    '1': [
      ['A', 0.8],
      ['B', 0.2],
    ],
    '2': [['X', 1]],
  },
  next: {
    '1': {
      A: [
        ['B', 0.6],
        ['C', 0.3],
      ],
      B: [
        ['', 0.5],
        ['C', 0.5],
      ],
      C: [['', 1]],
    },
    '2': {
      X: [
        ['Y', 0.5],
        ['', 0.5],
      ],
      Y: [['', 1]],
    },
  },
  fallback: {
    '1': [
      ['A', 1],
      ['B', 1],
      ['C', 1],
    ],
    '2': [
      ['X', 1],
      ['Y', 1],
    ],
  },
  longest: { '1': 3, '2': 2 },
};

function shows(transitions: Transitions, count: number, seed: number) {
  const random = seededRandom(seed);
  return Array.from({ length: count }, () => sampleShow(transitions, random));
}

test('the same seed gives the same shows, another seed other ones', () => {
  expect(shows(small, 50, 7)).toEqual(shows(small, 50, 7));
  expect(shows(small, 50, 7)).not.toEqual(shows(small, 50, 8));
});

test('shows follow the statistics: sets, openers, what follows, and ends', () => {
  const count = 20_000;
  const all = shows(small, count, 1);
  const share = (what: (show: (typeof all)[number]) => boolean) => all.filter(what).length / count;
  expect(share((show) => show.at(-1)!.set === 2)).toBeCloseTo(0.75, 1.5);
  expect(share((show) => show[0]!.title === 'A')).toBeCloseTo(0.8, 1.5);
  const afterA = all.filter((show) => show[0]!.title === 'A');
  // 0.6 and 0.3 are drawn in proportion: two of three.
  expect(afterA.filter((show) => show[1]!.title === 'B').length / afterA.length).toBeCloseTo(2 / 3, 1.5);
  const inSecond = all.filter((show) => show.some(({ title }) => title === 'X'));
  const alone = inSecond.filter((show) => !show.some(({ title }) => title === 'Y'));
  expect(alone.length / inSecond.length).toBeCloseTo(0.5, 1.5);
});

test('positions count within a set, no song comes twice', () => {
  for (const show of shows(small, 500, 3)) {
    expect(new Set(show.map(({ title }) => title)).size).toBe(show.length);
    show.forEach(({ set, position }, at) => {
      const before = show[at - 1];
      expect(position).toBe(before?.set === set ? before.position + 1 : 1);
    });
  }
});

test('a show ends, whatever the table says', () => {
  const noEnd: Transitions = {
    sets: { '1': 1 },
    starts: { '1': [['A', 1]] },
    next: { '1': { A: [['B', 1]], B: [['A', 1]] } },
    fallback: {
      '1': [
        ['A', 1],
        ['B', 1],
        ['C', 1],
        ['D', 1],
        ['E', 1],
      ],
    },
    longest: { '1': 4 },
  };
  for (const show of shows(noEnd, 100, 5))
    expect(show.map(({ title }) => title).slice(0, 2)).toEqual(['A', 'B']);
  expect(shows(noEnd, 100, 5).every((show) => show.length === 4)).toBe(true);
  // With nothing left to play it ends before `longest`.
  const few = { ...noEnd, fallback: { '1': [['B', 1]] } } as Transitions;
  expect(shows(few, 20, 5).every((show) => show.length === 2)).toBe(true);
});

test('a table that is missing or incomplete is refused with what is wrong', () => {
  const dir = mkdtempSync(join(tmpdir(), 'subito-demo-'));
  const file = join(dir, 'transitions.json');
  try {
    expect(() => readTransitions(file)).toThrow(/ENOENT/);
    writeFileSync(file, JSON.stringify({ ...small, about: {} }));
    expect(readTransitions(file)).toEqual(small);
    writeFileSync(file, JSON.stringify({ ...small, longest: { '1': 3 } }));
    expect(() => readTransitions(file)).toThrow(/longest: nothing for set 2/);
    writeFileSync(file, JSON.stringify({ ...small, starts: { '1': [['A', 'often']] } }));
    expect(() => readTransitions(file)).toThrow(/starts/);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('popularity counts how often a song is played', () => {
  const popular = popularTitles(small, seededRandom(1));
  expect([...popular].sort()).toEqual(['A', 'B', 'C', 'X', 'Y']);
  // X is in three of four shows, Y in half of those.
  expect(popular.indexOf('X')).toBeLessThan(popular.indexOf('Y'));
  expect(popular.at(-1)).toBe('Y');
});

test('the ten most popular are those that the show has not had', () => {
  const popular = Array.from({ length: 12 }, (_, i) => `song ${i}`);
  expect(inPopularTen(popular, [], 'song 9')).toBe(true);
  expect(inPopularTen(popular, [], 'song 10')).toBe(false);
  expect(inPopularTen(popular, ['song 3'], 'song 10')).toBe(true);
  expect(inPopularTen(popular, ['song 3'], 'song 11')).toBe(false);
  expect(inPopularTen(popular, [], 'unheard of')).toBe(false);
});

const judged = (rank: number | null, more: Partial<Judgment> = {}): Judgment => ({
  place: 'within',
  rank,
  baselineHit: false,
  ...more,
});

test('the judge counts first guesses, ten guesses and the baseline, by place', () => {
  const judge = new Judge();
  expect(judge.overall('within')).toEqual({ guesses: 0, hitAt1: null, hitAt10: null, baselineHitAt10: null });
  judge.add(judged(1));
  judge.add(judged(2, { baselineHit: true }));
  judge.add(judged(10));
  judge.add(judged(11));
  judge.add(judged(null));
  judge.add(judged(1, { place: 'showOpener' }));
  judge.add(judged(null, { place: 'setOpener', baselineHit: true }));
  const within = { guesses: 5, hitAt1: 1 / 5, hitAt10: 3 / 5, baselineHitAt10: 1 / 5 };
  expect(judge.overall('within')).toEqual(within);
  expect(judge.last()).toEqual(within);
  expect(judge.overall('showOpener')).toEqual({ guesses: 1, hitAt1: 1, hitAt10: 1, baselineHitAt10: 0 });
  expect(judge.overall('setOpener')).toEqual({ guesses: 1, hitAt1: 0, hitAt10: 0, baselineHitAt10: 1 });
});

test('the running score forgets what is older than its window', () => {
  const judge = new Judge();
  for (let i = 0; i < WINDOW; i += 1) judge.add(judged(1, { baselineHit: true }));
  for (let i = 0; i < WINDOW / 2; i += 1) judge.add(judged(null));
  expect(judge.last()).toEqual({ guesses: WINDOW, hitAt1: 0.5, hitAt10: 0.5, baselineHitAt10: 0.5 });
  for (let i = 0; i < WINDOW / 2; i += 1) judge.add(judged(5));
  expect(judge.last()).toEqual({ guesses: WINDOW, hitAt1: 0, hitAt10: 0.5, baselineHitAt10: 0 });
  expect(judge.overall('within').guesses).toBe(2 * WINDOW);
  expect(judge.overall('within').hitAt1).toBe(0.5);
});

function newListener(seed: number): Listener {
  const popular = popularTitles(small, seededRandom(1));
  const random = seededRandom(seed);
  return new Listener({ key: 'l', via: 'redis', run: 'r', transitions: small, popular, random });
}

/** Steps until a whole show has been heard; `answer` is told each question. */
function playShow(listener: Listener, answer: (question: Question) => void) {
  while (!listener.isBetween) listener.step();
  const judgments = [];
  let step = listener.step();
  for (;;) {
    if (step.judgment !== null) judgments.push(step.judgment);
    if (step.question === null) return judgments;
    answer(step.question);
    step = listener.step();
  }
}

test('a listener judges each song by the prediction that came before it', () => {
  const listener = newListener(11);
  // The twin draws the same shows: it knows what comes.
  const twin = newListener(11);
  const judgments: (Judgment & { came: string })[] = [];
  const titles: string[][] = [];
  for (let show = 0; show < 30; show += 1) {
    playShow(twin, () => {});
    const coming = twin.view().songs;
    titles.push([...coming]);
    const made = playShow(listener, (question) => {
      expect(question.data.songs).toEqual(coming.slice(0, question.after));
      // Right at rank 2 for the first song, at rank 1 from then on.
      const right = coming[question.after]!;
      const top: Guess[] =
        question.after === 0
          ? [
              ['?', 0.5],
              [right, 0.4],
            ]
          : [[right, 0.9]];
      expect(listener.answer(question, top)).toBe(true);
      expect(listener.answer(question, [['twice', 1]])).toBe(false);
    });
    judgments.push(...made);
    const { songs, predictions } = listener.view();
    expect(predictions.map(({ after, came }) => [after, came])).toEqual(songs.map((song, at) => [at, song]));
  }
  expect(judgments.map(({ came }) => came)).toEqual(titles.flat());
  expect(judgments.filter(({ place }) => place === 'showOpener').every(({ rank }) => rank === 2)).toBe(true);
  expect(judgments.filter(({ place }) => place !== 'showOpener').every(({ rank }) => rank === 1)).toBe(true);
  expect(judgments.filter(({ place }) => place === 'showOpener')).toHaveLength(30);
  const openers = judgments.filter(({ place }) => place === 'setOpener');
  expect(openers.every(({ came }) => came === 'X')).toBe(true);
  expect(openers.length).toBeGreaterThan(10);
});

test('an answer that comes after its song counts for nothing', () => {
  const listener = newListener(2);
  let before: Question | null = null;
  const judgments = playShow(listener, (question) => {
    if (before !== null) expect(listener.answer(before, [['A', 1]])).toBe(false);
    before = question;
  });
  expect(judgments).toEqual([]);
  expect(listener.view().predictions).toEqual([]);
  playShow(listener, () => {});
  expect(listener.answer(before!, [['A', 1]])).toBe(false);
});

test('guesses are read from a prediction, and from nothing else', () => {
  expect(guessesOf({ songs: ['A', 'B'], probabilities: [0.5, 0.25] })).toEqual([
    ['A', 0.5],
    ['B', 0.25],
  ]);
  const many = Array.from({ length: 12 }, (_, i) => i);
  expect(guessesOf({ songs: many.map(String), probabilities: many })).toHaveLength(10);
  expect(guessesOf({ probabilities: [1] })).toEqual([]);
  expect(guessesOf(null)).toEqual([]);
});

test('the terminal gets redis-cli commands for the port that is used', () => {
  const places = {
    url: 'http://127.0.0.1:8080',
    listeners: 3,
    songSeconds: 2,
    stream: 'in',
    predictions: 'out',
  };
  expect(welcome({ ...places, redisUrl: 'redis://127.0.0.1:6379' })).toContain(' redis-cli XADD in ');
  expect(welcome({ ...places, redisUrl: 'redis://127.0.0.1:7001' })).toContain(
    ' redis-cli -p 7001 XREVRANGE out ',
  );
});

test('the line says what matters within 80 columns, and what is not known as such', () => {
  const score = { guesses: 1000, hitAt1: 0.2, hitAt10: 0.8456, baselineHitAt10: 0.2861 };
  const demo = { last: score, failed: 0, lost: 0, failure: '' } as DemoFigures;
  const stats = {
    state: 'running',
    latency: { total: { p99: 3.06 } },
    series: { ok: [1, 150], unread: [0] },
  };
  const line = statusLine(stats as unknown as Stats, demo, 'http://127.0.0.1:8080');
  expect(line.slice(0, 79)).toBe(
    '150 events/s, p99 3.1 ms, hit@10 84.6% (popular 28.6%), backlog 0, Ctrl-C stops',
  );
  const none = { state: 'reconnecting', latency: { total: null }, series: { ok: [], unread: [null] } };
  const lost = { ...demo, last: { ...score, hitAt10: null }, lost: 2 };
  expect(statusLine(none as unknown as Stats, lost, 'URL')).toBe(
    'reconnecting, p99 - ms, hit@10 - (popular 28.6%), backlog -, 2 unanswered (lost), Ctrl-C stops, URL',
  );
});

test('a terminal keeps one line at the bottom, anything else gets lines', () => {
  vi.useFakeTimers();
  try {
    let live = '';
    let plain = '';
    const line = new StatusLine({ isTTY: true, columns: 30, write: (text) => (live += text) }, () =>
      '0123456789'.repeat(5),
    );
    const lines = new StatusLine({ write: (text) => (plain += text) }, () => 'now');
    vi.advanceTimersByTime(1000);
    const shown = '0123456789'.repeat(3).slice(0, 29);
    expect(live).toBe(`\r\x1b[K${shown}`);
    live = '';
    line.print('a warning\n');
    expect(live).toBe(`\r\x1b[Ka warning\n${shown}`);
    vi.advanceTimersByTime(9000);
    expect(plain).toBe('now\n');
    lines.stop();
    line.stop();
    vi.advanceTimersByTime(60_000);
    expect(plain).toBe('now\n');
    expect(live.endsWith('\n')).toBe(true);
  } finally {
    vi.useRealTimers();
  }
});
