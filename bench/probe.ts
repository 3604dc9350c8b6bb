/** What preload.ts answers from inside a process, and the layout of the memory its threads share. */

/** Threads beyond this share the last row. */
export const THREADS_MAX = 64;
export const COLUMN = {
  main: 0,
  tid: 1,
  gcCount: 2,
  gcMs: 3,
  gcMaxMs: 4,
  runCount: 5,
  runCpuUs: 6,
  heapUsed: 7,
  heapTotal: 8,
} as const;
export const COLUMNS = 9;

/** Since the thread began, except for `gcMaxMs`: since the last report. */
export interface ThreadProbe {
  readonly main: boolean;
  /** Linux's number of the thread; 0 where there is none. */
  readonly tid: number;
  readonly gcCount: number;
  readonly gcMs: number;
  readonly gcMaxMs: number;
  readonly runCount: number;
  readonly runCpuUs: number;
  /**
   * V8's heap a moment ago, bytes: what is in it, garbage included, and what it has taken from the system.
   */
  readonly heapUsed: number;
  readonly heapTotal: number;
}

/** `collect`: every thread first collects all its garbage. */
export type ProbeQuestion = 'report' | 'collect';

export interface ProbeReport {
  readonly threads: readonly ThreadProbe[];
  /** File names of the native addons that the main thread has loaded. */
  readonly addons: readonly string[];
}

export interface GcFigures {
  readonly count: number;
  readonly ms: number;
  readonly maxMs: number;
}

/** Pauses of all threads between two reports. */
export function gcBetween(before: ProbeReport, after: ProbeReport): GcFigures {
  return {
    count: total(after, 'gcCount') - total(before, 'gcCount'),
    ms: total(after, 'gcMs') - total(before, 'gcMs'),
    maxMs: Math.max(0, ...after.threads.map(({ gcMaxMs }) => gcMaxMs)),
  };
}

/** Null when no run was seen: then ONNX Runtime is not reached through its own binding. */
export function runCpuUsBetween(before: ProbeReport, after: ProbeReport): number | null {
  const runs = total(after, 'runCount') - total(before, 'runCount');
  return runs === 0 ? null : total(after, 'runCpuUs') - total(before, 'runCpuUs');
}

function total(report: ProbeReport, column: 'gcCount' | 'gcMs' | 'runCount' | 'runCpuUs'): number {
  return report.threads.reduce((sum, thread) => sum + thread[column], 0);
}
