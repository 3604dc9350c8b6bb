// The simulator, the optimum that it is measured against, and what the policy comes to at its defaults.
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { optimum } from '../src/autoscale/optimum.ts';
import { type SimulationOptions, simulate } from '../src/autoscale/simulate.ts';
import { TRACE_NAMES, type Trace, traceOf } from '../src/autoscale/traces.ts';
import { MISS_RATE_MAX, simulateTrace, simulationDefaults } from '../src/commands/autoscale.ts';
import { loadConfig } from '../src/config.ts';
import { Random, seeds } from './support/random.ts';

const { autoscale } = loadConfig({ env: {} });
const DEFAULTS: SimulationOptions = {
  ...simulationDefaults,
  policy: autoscale,
  windowMs: autoscale.windowMs,
};
const dir = mkdtempSync(join(tmpdir(), 'subito-traces-'));
afterAll(() => rmSync(dir, { recursive: true }));

function made(arrivalsPerS: readonly number[], stepS = 1): Trace {
  return { name: 'made', description: '', stepS, arrivalsPerS: Float64Array.from(arrivalsPerS) };
}

describe('the policy at its defaults, against the least possible in hindsight', () => {
  // What was measured, with a margin of a hundredth; the goal is 1.3, and one event missed in 1,000.
  const ratios = { diurnal: 1.23, outage: 1.28, 'slow-leak': 1.22, 'flash-crowd': 1.44 };

  test('every trace has its figure', () => {
    expect(Object.keys(ratios).sort()).toEqual([...TRACE_NAMES].sort());
  });

  test.for(Object.entries(ratios))('%s', { timeout: 60_000 }, ([name, most]) => {
    const { report, svg } = simulateTrace(traceOf(name), DEFAULTS);
    expect(report.ratio).toBeLessThan(most);
    expect(report.ratio).toBeGreaterThanOrEqual(1);
    // The bound is close to a schedule that there is.
    expect(report.bestScheduleReplicaSeconds! / report.bestReplicaSeconds).toBeLessThan(1.005);
    if (name === 'flash-crowd') {
      // Five times the load within ten seconds: nobody who does not know of it can have started replicas.
      expect(report.missRate).toBeLessThan(0.08);
    } else {
      expect(report.ratio).toBeLessThan(1.3);
      expect(report.missRate).toBeLessThan(MISS_RATE_MAX);
    }
    expect(svg()).not.toMatch(/NaN|Infinity|undefined/);
  });
});

test('the plain formula, at 0.7 and without the comeback, takes more, and misses after the outage', () => {
  const policy = { ...autoscale, utilisation: 0.7, comeback: 0 };
  const plain = simulate(traceOf('outage'), { ...DEFAULTS, policy });
  const now = simulate(traceOf('outage'), DEFAULTS);
  expect(plain.replicaSeconds / now.replicaSeconds).toBeGreaterThan(1.25);
  expect(plain.missRate).toBeGreaterThan(0.005);
});

describe('the simulator', () => {
  test('a steady load that fits waits for nothing', () => {
    const { replicaSeconds, ...rest } = simulate(made(Array(600).fill(4500)), DEFAULTS);
    expect(replicaSeconds).toBe(5 * 600);
    expect(rest).toMatchObject({ missRate: 0, waitP99Ms: 0, backlogMax: 0, events: 600 * 4500 });
  });

  test('waits are those of a queue', () => {
    // One replica, twice its load for 10 s, then half of it: the last of the 10 s waits for 10 s.
    const policy = { ...autoscale, replicasMax: 1 };
    const trace = made([...Array(10).fill(2000), ...Array(60).fill(500)]);
    const result = simulate(trace, { ...DEFAULTS, policy });
    expect(result.backlogMax).toBe(10_000);
    expect(result.waitMaxMs).toBeGreaterThan(9500);
    expect(result.waitMaxMs).toBeLessThanOrEqual(10_000);
    // 2,000 in the first second wait for less than one; so do those after it has drained, in 20 s.
    expect(result.missRate).toBeGreaterThan(0.45);
    expect(result.missRate).toBeLessThan(0.75);
  });

  test('a replica serves only once it has started, and is paid for from its launch', () => {
    const trace = made([...Array(60).fill(500), ...Array(240).fill(3500)]);
    const { replicas, serving } = simulate(trace, { ...DEFAULTS, startS: 40 });
    const launched = replicas.findIndex((each) => each > 1);
    expect(launched).toBeGreaterThanOrEqual(60);
    expect(launched).toBeLessThanOrEqual(75);
    expect(serving.findIndex((each) => each > 1)).toBe(launched + 40);
  });

  test('the last replica goes only when nothing has come for the cooldown', () => {
    const policy = { ...autoscale, replicasMin: 0, stabilisationMs: 1000, comeback: 0 };
    const trace = made([...Array(60).fill(500), ...Array(300).fill(0)]);
    const { replicas } = simulate(trace, { ...DEFAULTS, policy, cooldownS: 120 });
    const gone = replicas.indexOf(0);
    expect(gone).toBeGreaterThanOrEqual(60 + 120);
    expect(gone).toBeLessThanOrEqual(60 + 120 + 45);
  });
});

describe('the optimum', () => {
  const options = { serviceRatePerS: 10, startS: 7, deadlineMs: 1000, replicasMin: 0, replicasMax: 3 };

  /** Every schedule of a trace of `blocks` blocks of 5 s, tried. */
  function tried(arrivals: readonly number[], missRateMax: number): number {
    const { serviceRatePerS: rate, startS, replicasMax } = options;
    const allowed = arrivals.reduce((sum, each) => sum + each * 5, 0) * missRateMax + 1e-9;
    let best = Number.POSITIVE_INFINITY;
    for (let code = 0; code < (replicasMax + 1) ** arrivals.length; code += 1) {
      const replicas = arrivals.map((_, i) => Math.floor(code / (replicasMax + 1) ** i) % (replicasMax + 1));
      let [cost, missed, left] = [0, 0, 0];
      for (const [i, n] of replicas.entries()) {
        if (i > 0) cost += startS * Math.max(0, n - replicas[i - 1]!);
        cost += n * 5;
        const inTime = Math.min(left, n * rate);
        missed += left - inTime;
        left = Math.max(0, inTime + arrivals[i]! * 5 - n * rate * 5);
      }
      missed += Math.max(0, left - replicas.at(-1)! * rate);
      if (missed <= allowed) best = Math.min(best, cost);
    }
    return best;
  }

  test('is no more than the best of all schedules, and mostly close to it', () => {
    let [close, all] = [0, 0];
    for (const seed of seeds(60)) {
      const random = new Random(seed);
      const arrivals = Array.from({ length: 5 }, () => random.int(0, 28));
      const trace = made(arrivals.flatMap((each) => Array(5).fill(each)));
      const missRateMax = random.pick([0.001, 0.05]);
      const bound = optimum(trace, { ...options, missRateMax }).replicaSeconds;
      const best = tried(arrivals, missRateMax);
      expect(bound, `seed ${seed}`).toBeLessThanOrEqual(best + 1e-6);
      if (bound > best * 0.8) close += 1;
      all += 1;
    }
    expect(close / all).toBeGreaterThan(0.7);
  });

  test('a last block that is shorter costs its own time only', () => {
    const { replicaSeconds } = optimum(made(Array(12).fill(9)), { ...options, missRateMax: 0.001 });
    expect(replicaSeconds).toBeLessThanOrEqual(12);
    expect(replicaSeconds).toBeGreaterThan(11);
  });

  test('says so where not even all replicas are enough', () => {
    const result = optimum(made(Array(20).fill(100)), { ...options, missRateMax: 0.001 });
    expect(result.replicas).toBeNull();
    expect(result.scheduleReplicaSeconds).toBeNull();
  });
});

describe('traces', () => {
  test('are the same each time, and nowhere negative', () => {
    for (const name of TRACE_NAMES) {
      const { arrivalsPerS } = traceOf(name);
      expect(arrivalsPerS).toEqual(traceOf(name).arrivalsPerS);
      expect(
        arrivalsPerS.every((rate) => rate >= 0 && rate < 20_000),
        name,
      ).toBe(true);
    }
  });

  test('come from files too', () => {
    const path = join(dir, 'load.csv');
    writeFileSync(path, '# my load\nseconds,events per second\n0,100\n10,200.5\n20,0\n');
    expect(traceOf(path)).toMatchObject({
      name: 'load.csv',
      stepS: 10,
      arrivalsPerS: Float64Array.of(100, 200.5, 0),
    });
  });

  test.for([
    ['', 'two lines'],
    ['0,1', 'two lines'],
    ['0,1\n1', 'load.csv:2: not `seconds,events per second`: 1'],
    ['0,1\n1,x', 'load.csv:2'],
    ['0,1\n1,', 'load.csv:2'],
    ['0,1\n1,-5', 'load.csv:2'],
    ['0,1\n1,1e12', 'load.csv:2'],
    ['0,1\n0.5,1', 'whole seconds'],
    ['5,1\n4,1', 'whole seconds'],
    ['0,1\n1,1\n3,1', 'load.csv:3: not 1 s after'],
  ] as const)('a bad file is refused: %j', ([text, what]) => {
    const path = join(dir, 'load.csv');
    writeFileSync(path, text);
    expect(() => traceOf(path)).toThrow(
      expect.objectContaining({ code: 'USAGE', message: expect.stringContaining(what) }),
    );
  });

  test('a name that is none, and a file that is not there', () => {
    expect(() => traceOf('toString')).toThrow(/no such trace, and no such file/);
  });
});

describe('the command', () => {
  /** The real command line, in an environment of its own. */
  function output(args: readonly string[]): Promise<{ code: number; out: string; error: string }> {
    const { promise, resolve } = Promise.withResolvers<{ code: number; out: string; error: string }>();
    const words = ['src/main.ts', 'autoscale', 'simulate', ...args];
    const options = { env: { PATH: process.env['PATH'] ?? '' } };
    execFile(process.execPath, words, options, (failure, out, error) => {
      resolve({ code: failure === null ? 0 : Number(failure.code), out, error });
    });
    return promise;
  }
  const path = join(dir, 'short.csv');
  writeFileSync(path, Array.from({ length: 120 }, (_, s) => `${s},${s < 60 ? 800 : 2500}`).join('\n'));

  test('prints a table, JSON, and draws', async () => {
    const plot = join(dir, 'short.svg');
    const table = await output(['--trace', path, '--plot', plot]);
    expect(table).toMatchObject({ code: 0, error: '' });
    expect(table.out).toMatch(/^TRACE .*\nshort\.csv /);
    expect(readFileSync(plot, 'utf8')).toMatch(/^<svg .*<svg .*<svg /s);
    const json = await output(['--trace', path, '--json', '--start', '5', '--utilisation', '0.5']);
    expect(JSON.parse(json.out)).toEqual([expect.objectContaining({ trace: 'short.csv', seconds: 120 })]);
  });

  test.for([
    [['--service-rate', '0'], '--service-rate 0: it must be a number'],
    [['--start', '1.5'], '--start 1.5: it must be a whole number'],
    [['--poll', 'often'], '--poll often'],
    [['--utilisation', '2'], '--utilisation 2'],
    [['--plot', 'x.svg'], '--plot draws one trace'],
    [['--trace', '/nowhere.csv'], 'no such trace'],
    [['--trace', path, '--plot', '/nowhere/x.svg'], '--plot /nowhere/x.svg'],
  ] as const)('refuses %j', async ([args, what]) => {
    const { code, error } = await output(args);
    expect(code).toBe(2);
    expect(error).toContain(what);
  });
});
