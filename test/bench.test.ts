// The benchmark's judgement of itself: what a regression is, what is kept of a run, how it is shown.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { compareRatios, comparisonRows, passed, QUOTIENT_MIN } from '../bench/baseline.ts';
import type { Machine } from '../bench/machine.ts';
import { busyWarning, describeMachine, machineText, watchStolen } from '../bench/machine.ts';
import { loadSuite, suitePlaces } from '../bench/registry.ts';
import { readResult, readResults, reportText, storeResult, writeReport } from '../bench/results.ts';
import { middle, percentileOf, slopeOf } from '../bench/statistics.ts';
import { contestantsOf, type SuiteResult } from '../bench/suite.ts';
import { sectionLines, tableLines } from '../bench/text.ts';

const directory = mkdtempSync(join(tmpdir(), 'subito-bench-test-'));

afterAll(() => rmSync(directory, { recursive: true }));

const machine: Machine = {
  cpu: 'Abacus 1',
  cores: 2,
  memoryGiB: 24,
  kernel: '6.1',
  node: 'v22.0.0',
  redis: '7.0.15',
  onnxruntime: '1.30.0',
  loadBefore: 0.1,
  stolenShare: 0.02,
  date: '2026-01-01 00:00',
  commit: 'abcdef0',
};

function result(ratios: Record<string, number>, plots: readonly string[] = []): SuiteResult {
  const table = { head: ['', 'events/s'], rows: [['subito', '123']] };
  return {
    sections: [{ title: 'Speed', text: ['Said in words.'], table }],
    ratios,
    plots: plots.map((name) => ({ name, svg: `<svg>${name}</svg>` })),
    raw: { rounds: [1, 2] },
  };
}

describe('--check', () => {
  const verdicts = (now: Record<string, number>, then: Record<string, number>) =>
    compareRatios('drain', now, then).map(({ name, verdict }) => `${name} ${verdict}`);

  test('a ratio may fall to 0.85 of its baseline and no further', () => {
    expect(verdicts({ a: 1.7, b: 1.699, c: 9 }, { a: 2, b: 2, c: 2 })).toEqual(['a ok', 'b below', 'c ok']);
    expect(passed(compareRatios('drain', { a: 1.7 }, { a: 2 }))).toBe(true);
    expect(passed(compareRatios('drain', { a: 1.7, b: 1.699 }, { a: 2, b: 2 }))).toBe(false);
    expect(QUOTIENT_MIN).toBe(0.85);
  });

  test('a ratio that was not measured, or is no number, does not pass; a new one does', () => {
    expect(verdicts({ b: Number.NaN, c: 1 }, { a: 1, b: 1 })).toEqual(['a missing', 'b missing', 'c new']);
    expect(passed(compareRatios('drain', {}, { a: 1 }))).toBe(false);
    expect(passed(compareRatios('drain', { a: 1, b: Number.NaN }, { a: 1, b: 1 }))).toBe(false);
    expect(passed(compareRatios('drain', { a: 1, c: 1 }, { a: 1 }))).toBe(true);
  });

  test('each row shows the ratio, its baseline and the quotient', () => {
    expect(comparisonRows(compareRatios('drain', { a: 1, b: 3 }, { a: 2 }))).toEqual([
      ['drain: a', '1.00', '2.00', '0.500', 'BELOW'],
      ['drain: b', '3.00', '-', '-', 'NEW'],
    ]);
  });
});

describe('results', () => {
  const order = ['drain', 'micro'];

  test('a partial run replaces its own part of the report, and its plots', () => {
    storeResult(directory, { name: 'micro', what: 'pieces' }, machine, result({ codec: 2 }));
    const drain = { name: 'drain', what: 'a drain' };
    storeResult(directory, drain, machine, result({ 'against naive': 20 }, ['old', 'kept']));
    const later = { ...machine, commit: 'fedcba9' };
    storeResult(directory, drain, later, result({ 'against naive': 30 }, ['kept', 'new']));
    writeReport(directory, order);
    const text = readFileSync(join(directory, 'RESULTS.md'), 'utf8');
    expect(text.match(/^## .*/gm)).toEqual(['## drain', '## micro']);
    expect(text).toContain('against naive: 30.0');
    expect(text).not.toContain('against naive: 20.0');
    expect(text).toContain('codec: 2.00');
    expect(text.match(/commit [0-9a-f]{7}/g)).toEqual(['commit fedcba9', 'commit abcdef0']);
    for (const [, path = ''] of text.matchAll(/!\[[^\]]*\]\(([^)]*)\)/g)) {
      expect(existsSync(join(directory, path)), path).toBe(true);
    }
    expect(existsSync(join(directory, 'results', 'drain-old.svg'))).toBe(false);
  });

  test('what is written is read back', () => {
    storeResult(directory, { name: 'alone', what: 'one' }, machine, result({ a: 1.25 }));
    const stored = readResult(directory, 'alone');
    expect(stored?.ratios).toEqual({ a: 1.25 });
    expect(stored?.raw).toEqual({ rounds: [1, 2] });
    expect(readFileSync(join(directory, 'results', 'alone.json'), 'utf8')).toContain('"rounds": [1, 2]\n');
    expect(readResult(directory, 'other')).toBeNull();
    // A suite that the order does not know stands last.
    expect(readResults(directory, order).map(({ suite }) => suite)).toEqual(['drain', 'micro', 'alone']);
    expect(reportText([]).split('\n', 1)).toEqual(['# Benchmark results']);
  });
});

test('tables line up, lists stand together', () => {
  expect(
    tableLines({
      head: ['', 'n'],
      rows: [
        ['one', '1'],
        ['three', '333'],
      ],
    }),
  ).toEqual(['|       |   n |', '|-------|----:|', '| one   |   1 |', '| three | 333 |']);
  expect(sectionLines({ title: 'T', text: ['words', '- a', '- b', 'more'], table: null }, 2)).toEqual([
    '## T',
    '',
    'words',
    '',
    '- a',
    '- b',
    '',
    'more',
    '',
  ]);
});

test('medians, percentiles, slopes', () => {
  expect(middle([3, 1, 2])).toBe(2);
  expect(middle([4, 1, 2, 3])).toBe(2.5);
  const sorted = Float64Array.from({ length: 1000 }, (_, i) => i + 1);
  expect([50, 99, 99.9, 100].map((percent) => percentileOf(sorted, percent))).toEqual([500, 990, 999, 1000]);
  // 99.93 * 10000 / 100 is a little more than 9993.
  const many = Float64Array.from({ length: 10_000 }, (_, i) => i + 1);
  expect(percentileOf(many, 99.93)).toBe(9993);
  expect(percentileOf([], 50)).toBeNaN();
  expect(
    slopeOf([
      [0, 5],
      [1, 7],
      [2, 9],
    ]),
  ).toBe(2);
  expect([
    slopeOf([[1, 1]]),
    slopeOf([
      [1, 1],
      [1, 9],
    ]),
  ]).toEqual([0, 0]);
});

test('contestants are chosen by name; a name that nobody has is an error', () => {
  const all = [{ name: 'a' }, { name: 'b' }];
  expect(contestantsOf(all, null)).toEqual(all);
  expect(contestantsOf(all, ['b'])).toEqual([{ name: 'b' }]);
  expect(() => contestantsOf(all, ['c'])).toThrow('no contestant c; there are a, b');
});

test('the machine is described; load that others cause is warned of', () => {
  const found = describeMachine();
  expect(found.redis).toMatch(/^\d+\.\d+\.\d+$/);
  expect(found.onnxruntime).toMatch(/^\d+\.\d+\.\d+$/);
  expect(found.commit).toMatch(/^[0-9a-f]{7,}\+?$/);
  expect(machineText(machine)).toMatch(/load average before 0.1; the host took 2.0 %$/);
  expect(machineText(found)).toMatch(/load average before [\d.]+$/);
  const stolen = watchStolen();
  const endMs = Date.now() + 60;
  while (Date.now() < endMs);
  expect(stolen()).toBeGreaterThanOrEqual(0);
  expect(stolen()).toBeLessThan(1);
  expect(busyWarning({ ...machine, loadBefore: 0.7 })).toBeNull();
  expect(busyWarning({ ...machine, loadBefore: 3 })).toContain('load average 3.0');
});

test('every suite can be loaded, and says in one line what it measures', async () => {
  for (const { name } of suitePlaces) {
    const suite = await loadSuite(name);
    expect(suite.what, name).toMatch(/^[^\n]{10,160}$/);
  }
});
