/**
 * Arrival traces for the simulator: four that are made here, from a seed, and files. A trace is the rate of
 * arrivals by time, each value for one step.
 *
 * Rates are in events a second for replicas that do some 1,000 each. They move as loads do: a course of
 * hours, a noise that lasts about a minute (AR(1), 3 %), and the noise of single arrivals (Poisson).
 */
import { readFileSync } from 'node:fs';
import { messageOf, SubitoError } from '../errors.ts';
import { type Random, seededRandom } from '../random.ts';

export interface Trace {
  readonly name: string;
  readonly description: string;
  readonly stepS: number;
  /** Events a second, one value a step. */
  readonly arrivalsPerS: Float64Array;
}

interface TraceSpec {
  readonly description: string;
  readonly stepS: number;
  readonly seconds: number;
  readonly seed: number;
  /** Events a second, without noise. */
  readonly rateAt: (s: number) => number;
}

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const NOISE_SHARE = 0.03;
const NOISE_S = MINUTE;
const STEPS_MAX = 200_000;
const RATE_MAX = 1e9;

/** Towards 1 within about a quarter of an hour around `at`, and back from there around `until`. */
function hump(s: number, at: number, until: number, width: number): number {
  return 1 / (1 + Math.exp(-(s - at) / width)) - 1 / (1 + Math.exp(-(s - until) / width));
}

const specs: Readonly<Record<string, TraceSpec>> = {
  diurnal: {
    description: 'a day: quiet nights, the way to work, the evening',
    stepS: 10,
    seconds: 24 * HOUR,
    seed: 1,
    rateAt: (s) =>
      2000 +
      5000 * hump(s, 6.5 * HOUR, 23.5 * HOUR, HOUR / 2) +
      4000 * hump(s, 17 * HOUR, 22 * HOUR, HOUR / 2),
  },
  'flash-crowd': {
    description: 'five times the load within ten seconds, as when an artist says something; then it ebbs',
    stepS: 1,
    seconds: HOUR,
    seed: 2,
    rateAt: (s) => {
      const since = s - 20 * MINUTE;
      if (since < 0) return 3000;
      if (since < 10) return 3000 + 1200 * since;
      if (since < 5 * MINUTE) return 15_000;
      return 3000 + 12_000 * Math.exp(-(since - 5 * MINUTE) / (10 * MINUTE));
    },
  },
  outage: {
    description: 'producers cannot write for five minutes; then what they kept comes beside the usual',
    stepS: 1,
    seconds: 2 * HOUR,
    seed: 3,
    // Half as much again, less and less for twenty minutes: five minutes' worth.
    rateAt: (s) => {
      const since = s - 40 * MINUTE;
      if (since < 0 || since >= 25 * MINUTE) return 5000;
      return since < 5 * MINUTE ? 0 : 5000 + 2500 * (1 - (since - 5 * MINUTE) / (20 * MINUTE));
    },
  },
  'slow-leak': {
    description: 'a producer leaks retries: the load creeps up for five hours, until it is started again',
    stepS: 5,
    seconds: 6 * HOUR,
    seed: 4,
    rateAt: (s) => (s < 5 * HOUR ? 2000 + 7000 * (s / (5 * HOUR)) : 2000),
  },
};

export const TRACE_NAMES: readonly string[] = Object.keys(specs);

/** A trace that is made here by its name, or else from a file. */
export function traceOf(nameOrFile: string): Trace {
  const spec = Object.hasOwn(specs, nameOrFile) ? specs[nameOrFile] : undefined;
  return spec === undefined ? readTrace(nameOrFile) : makeTrace(nameOrFile, spec);
}

function makeTrace(name: string, { description, stepS, seconds, seed, rateAt }: TraceSpec): Trace {
  const random = seededRandom(seed);
  const arrivalsPerS = new Float64Array(seconds / stepS);
  const kept = Math.exp(-stepS / NOISE_S);
  let noise = NOISE_SHARE * normal(random);
  for (let i = 0; i < arrivalsPerS.length; i += 1) {
    const rate = rateAt(i * stepS) * Math.max(0, 1 + noise);
    // So many arrivals in the step, and their square root as noise.
    arrivalsPerS[i] = Math.max(0, rate + Math.sqrt(rate / stepS) * normal(random));
    noise = kept * noise + Math.sqrt(1 - kept * kept) * NOISE_SHARE * normal(random);
  }
  return { name, description, stepS, arrivalsPerS };
}

/** Box and Muller. */
function normal(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/**
 * Lines of `seconds,events per second`, evenly spaced; empty lines, and those that begin with # or a letter,
 * are left out. Throws USAGE.
 */
function readTrace(path: string): Trace {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new SubitoError('USAGE', `--trace ${path}: no such trace, and no such file: ${messageOf(cause)}`, {
      cause,
      fix: `give one of ${TRACE_NAMES.join(', ')}, or a file of lines such as 0,1500`,
    });
  }
  const rows = text.split('\n').flatMap((line, at) => (/^\s*([#A-Za-z]|$)/.test(line) ? [] : [{ line, at }]));
  const broken = (at: number, what: string) => new SubitoError('USAGE', `${path}:${at + 1}: ${what}`);
  if (rows.length < 2) throw broken(0, 'a trace has two lines such as 0,1500 at least');
  if (rows.length > STEPS_MAX) throw broken(STEPS_MAX, `a trace has ${STEPS_MAX} steps at most`);
  const values = rows.map(({ line, at }) => {
    const cells = line.split(',').map((cell) => (cell.trim() === '' ? Number.NaN : Number(cell)));
    const [seconds = Number.NaN, rate = Number.NaN] = cells;
    const good = cells.length === 2 && Number.isFinite(seconds) && rate >= 0 && rate <= RATE_MAX;
    if (!good) throw broken(at, `not \`seconds,events per second\`: ${line.slice(0, 80)}`);
    return { seconds, rate, at };
  });
  const stepS = values[1]!.seconds - values[0]!.seconds;
  if (!Number.isInteger(stepS) || stepS < 1) throw broken(values[1]!.at, 'steps are whole seconds');
  for (let i = 1; i < values.length; i += 1) {
    const { seconds, at } = values[i]!;
    if (seconds !== values[i - 1]!.seconds + stepS)
      throw broken(at, `not ${stepS} s after the line before, as the others`);
  }
  const name = path.split('/').at(-1) ?? path;
  return { name, description: path, stepS, arrivalsPerS: Float64Array.from(values, ({ rate }) => rate) };
}
