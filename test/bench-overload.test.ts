// The benchmark of overload: what it makes of what became of each event, its faults, and short forms of its
// scenarios on a real engine.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { courseOf, EventTable, normalAfterMs, summaryOf, within } from '../bench/overload/events.ts';
import { FAULT_FILE, FaultFile } from '../bench/overload/fault.ts';
import { makeModels } from '../bench/overload/models.ts';
import { endsOf, phasedArrivals } from '../bench/overload/phases.ts';
import { PLAN, PLAN_CHECK, PLAN_QUICK, type Plan } from '../bench/overload/plan.ts';
import { faults } from '../bench/overload/scenarios/faults.ts';
import { degradedAfterMs } from '../bench/overload/scenarios/ladder.ts';
import { classesOf, priorities } from '../bench/overload/scenarios/priorities.ts';
import { backAfterMs } from '../bench/overload/scenarios/slowdown.ts';
import { findingOf, growthOf, type Steady, steady } from '../bench/overload/scenarios/steady.ts';
import { overloadSuite, runScenarios, scenarios } from '../bench/overload/suite.ts';
import { atLeast, atMost, none, promptness, timesAtMost, withinMs } from '../bench/overload/targets.ts';
import { COUNT_HEAD, countRow, targetSection } from '../bench/overload/text.ts';
import { STATUSES, type Status } from '../src/load/status.ts';
import { seededRandom } from '../src/random.ts';

const directory = mkdtempSync(join(tmpdir(), 'subito-bench-overload-'));
afterAll(() => rmSync(directory, { recursive: true }));

type Told = readonly [dueMs: number, status?: Status | undefined, tookMs?: number, entryMs?: number];

function tableOf(told: readonly Told[]): EventTable {
  const table = new EventTable(told.length);
  told.forEach(([dueMs, status, tookMs = 10, entryMs = -1], seq) => {
    table.due(seq, dueMs, dueMs + 1);
    if (status !== undefined) table.settled(seq, status, dueMs + tookMs, entryMs);
  });
  return table;
}

describe('events', () => {
  const WHOLE = { fromMs: 0, toMs: Number.POSITIVE_INFINITY };

  test('are in exactly one status each; what nobody said anything of is lost', () => {
    const said = STATUSES.filter((status) => status !== 'lost');
    const table = tableOf([...said.map((status, i): Told => [i, status]), [100]]);
    const { sent, counts } = summaryOf(table, WHOLE, 250);
    expect(counts).toEqual(Object.fromEntries(STATUSES.map((status) => [status, 1])));
    expect(sent).toBe(STATUSES.length);
    const [, all, ...columns] = countRow('x', { sent, counts });
    expect(columns.reduce((sum, cell) => sum + Number(cell), 0)).toBe(Number(all));
    expect(COUNT_HEAD).toHaveLength(columns.length + 2);
  });

  test('keep their first outcome', () => {
    const table = tableOf([[0, 'ok', 10]]);
    table.settled(0, 'failed', 99, -1);
    expect([table.status(0), table.latencyMs(0), table.lateMs(0)]).toEqual(['ok', 10, 1]);
    expect(() => table.due(7, 0, 0)).toThrow('event 7 sent after event 0');
  });

  test('are goodput when answered in time, by the ids of their entries where there are any', () => {
    const table = tableOf([
      [0, 'ok', 250],
      [1000, 'degraded', 100],
      [2000, 'ok', 251],
      [3000, 'ok', 260, 240],
      [4000, 'ok', 100, 251],
      [5000, 'expired', 10],
      [6000],
    ]);
    const { timely, timelyPerS, p50, p99, p99Aged, p99Late } = summaryOf(
      table,
      { fromMs: 0, toMs: 10_000 },
      250,
    );
    expect([timely, timelyPerS]).toEqual([3, 0.3]);
    expect([p50, p99, p99Aged, p99Late]).toEqual([250, 260, 251, 1]);
    expect(summaryOf(table, { fromMs: 5000, toMs: 9000 }, 250)).toMatchObject({ timely: 0, p99: Number.NaN });
  });

  test('belong to the window in which they were due, and to their class', () => {
    const table = tableOf([[0], [10], [10], [20], [30]]);
    expect([...within(table, { fromMs: 10, toMs: 30 })]).toEqual([1, 2, 3]);
    expect([...within(table, { fromMs: 0, toMs: 99, of: (seq) => seq % 2 === 1 })]).toEqual([1, 3]);
  });

  test('are normal again from the first on after which all are', () => {
    const told = (statuses: readonly (Status | undefined)[]) =>
      tableOf(statuses.map((status, i): Told => [i * 100, status]));
    const normalAfter = (statuses: readonly (Status | undefined)[], fromMs = 0, toMs?: number) => {
      const table = told(statuses);
      return normalAfterMs(table, fromMs, (seq) => table.status(seq) === 'ok', toMs);
    };
    expect(normalAfter(['ok', 'ok'])).toBe(0);
    expect(normalAfter(['expired', 'ok', 'expired', 'ok', 'ok'])).toBe(300);
    expect(normalAfter(['expired', 'ok', 'expired', 'ok', 'ok'], 250)).toBe(0);
    expect(normalAfter(['expired', 'ok', 'expired'])).toBeNull();
    expect(normalAfter(['ok', 'expired'], 0, 100)).toBe(0);
    expect(normalAfter(['ok', undefined])).toBeNull();
    expect(normalAfter([])).toBeNull();
  });

  test('of a failing model are degraded from some time on, until its healing shows', () => {
    const table = tableOf([
      [0, 'ok'],
      [100, 'failed'],
      [200, 'degraded'],
      [300, 'degraded'],
      [400, 'ok'],
    ]);
    expect(degradedAfterMs(table, 50, 450, 60)).toBe(150);
    expect(degradedAfterMs(table, 50, 450, 40)).toBeNull();
    expect(degradedAfterMs(table, 50, 150, 10)).toBeNull();
  });

  test('by class: loss, and the time in which none of it got on', () => {
    // 30 a class: the second loses half, the third all but the first fifth of the time.
    const table = tableOf(
      Array.from({ length: 90 }, (_, seq): Told => {
        const lost = [false, seq % 2 === 0, seq >= 18][seq % 3];
        return [seq * 10, lost ? 'overloaded' : 'ok'];
      }),
    );
    const classes = classesOf(table, 0, 900, 250);
    expect(classes.map(({ loss, idle }) => [loss, idle])).toEqual([
      [0, 0],
      [0.5, 0],
      [0.8, 0.8],
    ]);
  });

  test('make a course, and goodput comes back in a slice', () => {
    const table = tableOf(
      Array.from({ length: 40 }, (_, i): Told => [i * 100, i < 25 ? 'expired' : 'ok', 5]),
    );
    const course = courseOf(table, 4000, 500, 250);
    expect(course.map(({ atS }) => atS)).toEqual([0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75]);
    expect(course.map(({ timelyPerS }) => timelyPerS)).toEqual([0, 0, 0, 0, 0, 10, 10, 10]);
    expect(backAfterMs(course, 1000, 4000, 1)).toBe(1500);
    expect(backAfterMs(course, 1000, 2500, 1)).toBeNull();
    // Where nothing was answered in time, there is nothing to come back to.
    expect(backAfterMs(course, 1000, 4000, 0)).toBeNull();
  });
});

describe('arrivals in phases', () => {
  const phases = [
    { seconds: 2, ratePerS: 100 },
    { seconds: 1, ratePerS: 4000 },
    // A phase in which nothing may fall due holds up nobody.
    { seconds: 1, ratePerS: 0.01 },
    { seconds: 4, ratePerS: 50 },
  ];

  test.each([1, 2, 3])('have the rate of each (seed %i), and an end', (seed) => {
    expect(endsOf(phases)).toEqual([2000, 3000, 4000, 8000]);
    const next = phasedArrivals(phases, seededRandom(seed));
    const times: number[] = [];
    for (let at = next(); at < Number.POSITIVE_INFINITY; at = next()) times.push(at);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    const ends = [0, ...endsOf(phases)];
    for (const [i, { seconds, ratePerS }] of phases.entries()) {
      const mean = seconds * ratePerS;
      const count = times.filter((at) => at >= ends[i]! && at < ends[i + 1]!).length;
      expect(Math.abs(count - mean)).toBeLessThan(5 * Math.sqrt(mean));
    }
    expect(next()).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('targets', () => {
  test('are reached at their bounds, and never by what was not measured', () => {
    const reached = [
      atLeast('', 0.9, 0.9),
      atLeast('', 0.899, 0.9),
      atLeast('', Number.NaN, 0.9),
      atMost('', 0.01, 0.01),
      atMost('', 0.011, 0.01),
      atMost('', Number.NaN, 0.01),
      timesAtMost('', 1.5, 1.5),
      timesAtMost('', 1.51, 1.5),
      timesAtMost('', Number.NaN, 1.5),
      withinMs('', 2000, 2000),
      withinMs('', 2001, 2000),
      withinMs('', null, 2000),
      none('', 0),
      none('', 1),
    ].map((target) => target.reached);
    const [yes, no] = [true, false];
    expect(reached).toEqual([yes, no, no, yes, no, no, yes, no, no, yes, no, no, yes, no]);
  });

  test('stand beside the figures', () => {
    const { text, table } = targetSection([atLeast('goodput', 0.5, 0.9), withinMs('normal', 40, 2000)]);
    expect(text).toEqual(['1 of 2 are reached.']);
    expect(table?.rows).toEqual([
      ['goodput', 'at least 90 %', '50 %', 'NOT reached'],
      ['normal', 'within 2,000 ms', '40.0 ms', 'reached'],
    ]);
    expect([promptness(0, 2000), promptness(2000, 2000), promptness(null, 2000)]).toEqual([1, 0.5, 0]);
  });
});

test('what is found of steady overload: ratios of the capacity, targets, a plot', () => {
  const table = tableOf([
    [0, 'ok', 10],
    [500, 'overloaded'],
    [999, 'ok', 300],
  ]);
  const summary = summaryOf(table, { fromMs: 0, toMs: 1000 }, 250);
  const one: Steady = {
    ...{
      via: 'http',
      rate: 2,
      capacityPerS: 2,
      overload: summary,
      all: summary,
      normalMs: null,
      duplicates: 1,
    },
    ...{ beforeBytes: 2 ** 20, afterBytes: 2 ** 21, growth: 0.05 },
    watched: { resident: [], backlog: [] },
  };
  const { ratios, targets, plots, sections } = findingOf([one], PLAN);
  expect(ratios).toEqual({ 'goodput of the capacity, http, 200 %': 0.5, 'normal again, http, 200 %': 0 });
  expect(targets.map(({ reached }) => reached)).toEqual([false, false, false, true, false]);
  expect(plots.map(({ name }) => name)).toEqual(['goodput']);
  for (const { table: cells } of sections) {
    for (const row of cells?.rows ?? []) expect(row).toHaveLength(cells!.head.length);
  }
});

test('growth is between medians of quarters', () => {
  const sizes = Array.from(
    { length: 100 },
    (_, i) => [i / 10, i === 30 ? 900 : i < 25 ? 50 : i < 50 ? 100 : 110] as const,
  );
  expect(growthOf(sizes, 10)).toBeCloseTo(0.1);
  expect(growthOf([], 10)).toBeNaN();
});

describe('faults', () => {
  test('are written and read as they are; those that happen a number of times are used up', () => {
    const path = join(directory, 'fault');
    const [writer, reader] = [new FaultFile(path, true), new FaultFile(path, false)];
    expect(reader.get()).toEqual({ mode: 'none', times: 0, rowMs: 0 });
    writer.set('slow', { rowMs: 9.25 });
    expect(reader.get()).toEqual({ mode: 'slow', times: 0, rowMs: 9.25 });
    expect(reader.take()).toBe(false);
    writer.set('crash', { times: 2 });
    expect([reader.take(), reader.get().mode, reader.take(), reader.take()]).toEqual([
      true,
      'crash',
      true,
      false,
    ]);
    expect(writer.get().mode).toBe('none');
    writer.close();
    reader.close();
    expect(() => new FaultFile(join(directory, 'no-such-fault'), false)).toThrow('ENOENT');
  });

  test('strike rows in the handler', () => {
    const path = join(directory, 'struck');
    const file = new FaultFile(path, true);
    // A process of its own: a handler that crashes would take this one with it.
    const decode = (mode: Parameters<FaultFile['set']>[0], options: Parameters<FaultFile['set']>[1] = {}) => {
      file.set(mode, options);
      const handler = JSON.stringify(
        new URL('../bench/overload/models/slow/handler.ts', import.meta.url).href,
      );
      const program = `
        const { handler } = await import(${handler});
        const codec = handler.create({ dir: '', labels: {} });
        const row = { signal: new Float32Array(64) };
        const began = performance.now();
        try { codec.decode({ level: 2 }, row); } catch (error) { console.log(error.message); }
        console.log(JSON.stringify([row.signal[1], performance.now() - began]));`;
      const env = { ...process.env, [FAULT_FILE]: path };
      const args = ['--input-type=module', '-e', program];
      return execFileSync(process.execPath, args, { env, encoding: 'utf8', stdio: 'pipe' });
    };
    const [signal] = JSON.parse(decode('none')) as [number, number];
    expect(signal).toBeCloseTo(2 * Math.sin(1));
    const [, tookMs] = JSON.parse(decode('slow', { rowMs: 80 })) as [number, number];
    expect(tookMs).toBeGreaterThan(79);
    expect(decode('fail')).toMatch(/^the benchmark told this model to fail\n\[0,/);
    expect(() => decode('crash', { times: 1 })).toThrow('Command failed');
    // It was the only one.
    expect(file.get().mode).toBe('none');
    file.close();
  });

  test('find two models; the slow one is small on disk', () => {
    const { path, ladderMissing } = makeModels(join(directory, 'models'), { ladder: true });
    expect(existsSync(join(path, 'fast', '1', 'model.onnx'))).toBe(true);
    expect(statSync(join(path, 'slow', '1', 'model.onnx')).size).toBeLessThan(200_000);
    const manifest = JSON.parse(readFileSync(join(path, 'slow', 'model.yaml'), 'utf8')) as object;
    expect('degrade' in manifest).toBe(ladderMissing === null);
  });
});

describe('scenarios', { timeout: 180_000 }, () => {
  const TINY: Plan = {
    ...PLAN_QUICK,
    ...{ drainS: 0.3, warmS: 0.4, overloadS: 1, tailS: 0.3, rates: [2], faultS: [0.5, 1], timeoutS: 60 },
  };

  test('are chosen by name', async () => {
    const names = scenarios.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    await expect(overloadSuite.run({ quick: true, say: () => {}, only: ['nothing'] })).rejects.toThrow(
      'no contestant nothing; there are steady, slowdown',
    );
    expect(PLAN_CHECK.deadlineMs).toBe(PLAN.deadlineMs);
  });

  test('account for every event by each way, whatever the engine does with them', async () => {
    const said: string[] = [];
    const { raw, sections, plots } = await runScenarios([steady, priorities], TINY, (line) =>
      said.push(line),
    );
    const { steady: found, capacity } = raw as { steady: Steady[]; capacity: { perS: number } };
    expect(capacity.perS).toBeGreaterThan(0);
    expect(found.map(({ via, rate }) => [via, rate])).toEqual([
      ['stream', 2],
      ['http', 2],
      ['ws', 2],
    ]);
    for (const { all, duplicates, watched } of found) {
      expect(all.sent).toBeGreaterThan(0);
      expect(Object.values(all.counts).reduce((sum, count) => sum + count, 0)).toBe(all.sent);
      expect([all.counts.lost, all.counts.refused, duplicates]).toEqual([0, 0, 0]);
      expect(watched.resident.length).toBeGreaterThan(2);
    }
    expect(found[0]!.watched.backlog.at(-1)![1]).toBe(0);
    expect(plots.map(({ name }) => name)).toEqual(['goodput']);
    expect(sections.map(({ title }) => title)).toContain('Priorities: what became of each event');
    expect(said.some((line) => line.startsWith('steady: ws, 200 %'))).toBe(true);
  });

  test('crash a handler: the engine stays up and the audit is clean', async () => {
    // Waiting for a hanging worker takes its five seconds.
    const { raw } = await runScenarios([faults], TINY, () => {});
    const { targets } = raw as { targets: { name: string; reached: boolean }[] };
    const missed = targets.filter(({ name }) => /stays up|lost or|audit|provider is missing/.test(name));
    expect(missed.filter(({ reached }) => !reached)).toEqual([]);
    expect(missed.length).toBeGreaterThan(8);
  });
});
