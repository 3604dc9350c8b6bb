/** What the figures were measured on: they mean little without it. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';

/** One-minute load average before the start: above it, others use the machine too. */
const BUSY_LOAD = 0.7;

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly node: string;
  readonly redis: string;
  readonly onnxruntime: string;
  /** Before the first suite: later it would be the benchmark's own. */
  readonly loadBefore: number;
  /**
   * Of the processor time during the run, what the host of this virtual machine gave to others. Null:
   * unknown.
   */
  readonly stolenShare: number | null;
  /** UTC, to the minute. */
  readonly date: string;
  /** Short hash; `+` when source files differ from it. */
  readonly commit: string;
}

export function describeMachine(): Machine {
  const ort = new URL('../node_modules/onnxruntime-node/package.json', import.meta.url);
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
    redis: /v=(\S+)/.exec(outputOf('redis-server', '--version'))?.[1] ?? 'unknown',
    onnxruntime: JSON.parse(readFileSync(ort, 'utf8')).version,
    loadBefore: loadavg()[0]!,
    stolenShare: null,
    date: dateText(),
    commit: commitOf(),
  };
}

export function dateText(): string {
  return new Date().toISOString().slice(0, 16).replace('T', ' ');
}

/** Called at the beginning of a run; the answer, at its end, tells what share was stolen meanwhile. */
export function watchStolen(): () => number | null {
  const before = processorTicks();
  return () => {
    const after = processorTicks();
    if (before === null || after === null || after.all === before.all) return null;
    return (after.stolen - before.stolen) / (after.all - before.all);
  };
}

/** Null where there is no such file. */
function processorTicks(): { readonly all: number; readonly stolen: number } | null {
  try {
    const [line = ''] = readFileSync('/proc/stat', 'latin1').split('\n', 1);
    // user nice system idle iowait irq softirq steal; guests are contained in the first two.
    const ticks = line.trim().split(/\s+/).slice(1, 9).map(Number);
    return { all: ticks.reduce((sum, each) => sum + each, 0), stolen: ticks[7] ?? 0 };
  } catch {
    return null;
  }
}

export function machineText(machine: Machine): string {
  const { stolenShare } = machine;
  const stolen = stolenShare === null ? '' : `; the host took ${(stolenShare * 100).toFixed(1)} %`;
  return (
    `${machine.date} UTC, commit ${machine.commit}; ${machine.cpu}, ${machine.cores} cores, ` +
    `${machine.memoryGiB} GiB, Linux ${machine.kernel}; Node ${machine.node}, Redis ${machine.redis}, ` +
    `ONNX Runtime ${machine.onnxruntime}; load average before ${machine.loadBefore.toFixed(1)}${stolen}`
  );
}

/** Null when the machine was at rest. */
export function busyWarning({ loadBefore }: Machine): string | null {
  if (loadBefore <= BUSY_LOAD) return null;
  return `WARNING: load average ${loadBefore.toFixed(1)}: others use this machine; trust CPU per event alone`;
}

function commitOf(): string {
  const hash = outputOf('git', 'rev-parse', '--short', 'HEAD').trim();
  if (hash === '') return 'unknown';
  // Results of an earlier suite of the same run are no change of what is measured.
  const parts = ['../src', '../native', '.', ':!results', ':!RESULTS.md'];
  const changed = outputOf('git', 'status', '--porcelain', '--untracked-files=no', '--', ...parts);
  return changed.trim() === '' ? hash : `${hash}+`;
}

/** Empty when the program cannot be run. */
function outputOf(program: string, ...args: readonly string[]): string {
  try {
    return execFileSync(program, args, { cwd: import.meta.dirname, encoding: 'utf8', stdio: 'pipe' });
  } catch {
    return '';
  }
}
