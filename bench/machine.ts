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
  readonly loadBefore: number;
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
    date: new Date().toISOString().slice(0, 16).replace('T', ' '),
    commit: commitOf(),
  };
}

export function machineText(machine: Machine): string {
  return (
    `${machine.date} UTC, commit ${machine.commit}; ${machine.cpu}, ${machine.cores} cores, ` +
    `${machine.memoryGiB} GiB, Linux ${machine.kernel}; Node ${machine.node}, Redis ${machine.redis}, ` +
    `ONNX Runtime ${machine.onnxruntime}; load average before ${machine.loadBefore.toFixed(1)}`
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
