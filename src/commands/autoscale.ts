/** `subito autoscale simulate`: what the autoscaling policy would have made of a course of arrivals. */
import { writeFileSync } from 'node:fs';
import { optimum } from '../autoscale/optimum.ts';
import { formatReports, plotOf, reportOf, type TraceReport } from '../autoscale/report.ts';
import { type SimulationOptions, simulate } from '../autoscale/simulate.ts';
import { TRACE_NAMES, type Trace, traceOf } from '../autoscale/traces.ts';
import type { ConfigInput } from '../config/schema.ts';
import { loadConfig } from '../config.ts';
import { messageOf, SubitoError } from '../errors.ts';

/** What may be set without a configuration; `pollS` and `cooldownS` as in deploy/kubernetes. */
export const simulationDefaults = {
  serviceRatePerS: 1000,
  startS: 20,
  deadlineMs: 1000,
  pollS: 15,
  cooldownS: 300,
  tolerance: 0.1,
} as const;

/** The optimum may let so many events miss their deadline. */
export const MISS_RATE_MAX = 0.001;

const d = simulationDefaults;

export const simulateFlags: readonly (readonly [flags: string, description: string])[] = [
  ['--trace <name>', `${TRACE_NAMES.join(', ')}, or a file of lines such as 0,1500 (all four)`],
  ['--config <file>', 'YAML file with the section autoscale; without one: SUBITO_CONFIG, else defaults'],
  ['--utilisation <share>', 'instead of autoscale.utilisation'],
  ['--drain <s>', 'instead of autoscale.drain_ms'],
  ['--comeback <n>', 'instead of autoscale.comeback'],
  ['--service-rate <n>', `events/s that one replica serves (${d.serviceRatePerS})`],
  ['--start <s>', `from the launch of a replica until it serves (${d.startS})`],
  ['--deadline <ms>', `an event that waits for longer has missed (${d.deadlineMs})`],
  ['--poll <s>', `how often Kubernetes asks (${d.pollS})`],
  ['--cooldown <s>', `idle time before KEDA takes away the last replica (${d.cooldownS})`],
  ['--tolerance <share>', `Kubernetes leaves the number alone when it is off by no more (${d.tolerance})`],
  ['--plot <file>', 'draw replicas and backlog of one trace as SVG'],
];

export const simulateExamples = `
Time is simulated: a day takes seconds. The traces come from seeds, and are the same each time.

Examples:
  subito autoscale simulate
  subito autoscale simulate --trace outage --utilisation 0.7 --plot outage.svg
  Your own load, with replicas that take a minute to start:
    subito autoscale simulate --trace load.csv --service-rate 40000 --start 60 --json
`;

interface Bounds {
  readonly min: number;
  readonly max: number;
  readonly whole?: boolean;
}

/** Options as commander gives them: camelCase names, values still text. Resolves with the exit code. */
export async function runSimulate(given: Readonly<Record<string, unknown>>): Promise<number> {
  const options = simulationOptions(given);
  const plot = given['plot'] === undefined ? null : String(given['plot']);
  const names = given['trace'] === undefined ? TRACE_NAMES : [String(given['trace'])];
  if (plot !== null && names.length > 1)
    throw new SubitoError('USAGE', '--plot draws one trace: name it with --trace');
  const reports: TraceReport[] = [];
  for (const name of names) {
    const trace = traceOf(name);
    const { report, svg } = simulateTrace(trace, options);
    reports.push(report);
    if (plot !== null) write(plot, svg());
  }
  const text =
    given['json'] === true ? `${JSON.stringify(reports)}\n` : formatReports(reports, options.deadlineMs);
  process.stdout.write(text);
  return 0;
}

/** One trace against the policy and against the best possible. */
export function simulateTrace(
  trace: Trace,
  options: SimulationOptions,
): { readonly report: TraceReport; readonly svg: () => string } {
  const { replicasMin, replicasMax } = options.policy;
  const simulated = simulate(trace, options);
  const best = optimum(trace, { ...options, replicasMin, replicasMax, missRateMax: MISS_RATE_MAX });
  return {
    report: reportOf(trace, simulated, best),
    svg: () => plotOf(trace, simulated, best, options.serviceRatePerS),
  };
}

function write(path: string, text: string): void {
  try {
    writeFileSync(path, text);
  } catch (cause) {
    throw new SubitoError('USAGE', `--plot ${path}: ${messageOf(cause)}`, { cause });
  }
}

function simulationOptions(given: Readonly<Record<string, unknown>>): SimulationOptions {
  const file = given['config'];
  const number = (name: string, flag: string, bounds: Bounds): number | undefined => {
    const value = given[name];
    return value === undefined ? undefined : parsed(flag, String(value), bounds);
  };
  const utilisation = number('utilisation', '--utilisation', { min: 0.05, max: 1 });
  const drainS = number('drain', '--drain', { min: 1, max: 3600 });
  const comeback = number('comeback', '--comeback', { min: 0, max: 10 });
  const overrides: ConfigInput = {
    autoscale: {
      ...(utilisation === undefined ? {} : { utilisation }),
      ...(drainS === undefined ? {} : { drain_ms: drainS * 1000 }),
      ...(comeback === undefined ? {} : { comeback }),
    },
  };
  const { autoscale } = loadConfig({ file: file === undefined ? undefined : String(file), overrides });
  const seconds = (min: number, max = 86_400): Bounds => ({ min, max, whole: true });
  return {
    policy: autoscale,
    windowMs: autoscale.windowMs,
    serviceRatePerS: number('serviceRate', '--service-rate', { min: 0.001, max: 1e9 }) ?? d.serviceRatePerS,
    startS: number('start', '--start', seconds(0)) ?? d.startS,
    deadlineMs: number('deadline', '--deadline', { min: 1, max: 3_600_000 }) ?? d.deadlineMs,
    pollS: number('poll', '--poll', seconds(1)) ?? d.pollS,
    cooldownS: number('cooldown', '--cooldown', seconds(0)) ?? d.cooldownS,
    tolerance: number('tolerance', '--tolerance', { min: 0, max: 1 }) ?? d.tolerance,
  };
}

function parsed(flag: string, text: string, { min, max, whole = false }: Bounds): number {
  const value = text.trim() === '' ? Number.NaN : Number(text);
  if (value >= min && value <= max && (!whole || Number.isInteger(value))) return value;
  const kind = whole ? 'a whole number' : 'a number';
  throw new SubitoError('USAGE', `${flag} ${text}: it must be ${kind} from ${min} to ${max}`);
}
