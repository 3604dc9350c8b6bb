/**
 * Loaded into the process under test with --import, before anything of its own: watches what cannot be seen
 * from outside, in every thread, and answers the benchmark over the process's IPC channel. Nothing in the
 * program under test knows of it. It costs two system calls per model run.
 *
 * Watched: garbage collections and the size of V8's heaps; processor time in ONNX Runtime's own `run`,
 * without what Node does around it; the number that Linux gives each thread; which native addons are loaded.
 */
import { readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { BroadcastChannel, getEnvironmentData, isMainThread, setEnvironmentData } from 'node:worker_threads';
import { loadNative } from '../src/native.ts';
import {
  COLUMN,
  COLUMNS,
  type ProbeQuestion,
  type ProbeReport,
  THREADS_MAX,
  type ThreadProbe,
} from './probe.ts';

const KEY = 'subito-bench-probe';
const HEAP_EVERY_MS = 1000;
/** A full collection takes some tens of milliseconds; threads begin theirs at once. */
const COLLECT_MS = 1000;

/** Place 0 counts the rows taken; a thread has one row of columns. */
const shared = isMainThread
  ? new SharedArrayBuffer(8 * (1 + THREADS_MAX * COLUMNS))
  : (getEnvironmentData(KEY) as SharedArrayBuffer);
if (isMainThread) setEnvironmentData(KEY, shared);
const taken = new Int32Array(shared, 0, 1);
const table = new Float64Array(shared, 8);
const at = Math.min(THREADS_MAX - 1, Atomics.add(taken, 0, 1)) * COLUMNS;
const addons: string[] = [];

table[at + COLUMN.main] = isMainThread ? 1 : 0;
// <pid>/task/<tid>; a thread that is not on Linux has no number.
try {
  table[at + COLUMN.tid] = Number(basename(readlinkSync('/proc/thread-self')));
} catch {}

new PerformanceObserver((list) => {
  for (const { duration } of list.getEntries()) {
    table[at + COLUMN.gcCount]! += 1;
    table[at + COLUMN.gcMs]! += duration;
    table[at + COLUMN.gcMaxMs] = Math.max(table[at + COLUMN.gcMaxMs]!, duration);
  }
}).observe({ entryTypes: ['gc'] });

function lookAtHeap(): void {
  const { used_heap_size: used, total_heap_size: total } = getHeapStatistics();
  table[at + COLUMN.heapUsed] = used;
  table[at + COLUMN.heapTotal] = total;
}
lookAtHeap();
setInterval(lookAtHeap, HEAP_EVERY_MS).unref();

const collectors = new BroadcastChannel(KEY);
collectors.onmessage = collect;
collectors.unref();

function collect(): void {
  setFlagsFromString('--expose-gc');
  // Known in contexts made from now on.
  (runInNewContext('gc') as () => void)();
  lookAtHeap();
}

const dlopen = process.dlopen.bind(process);
process.dlopen = (module: object, path: string, flags?: number) => {
  if (flags === undefined) dlopen(module, path);
  else dlopen(module, path, flags);
  addons.push(basename(path));
  const { exports } = module as { exports: { InferenceSession?: SessionClass } };
  if (exports.InferenceSession !== undefined) exports.InferenceSession = watched(exports.InferenceSession);
};

type SessionClass = new (...args: unknown[]) => { run(...args: unknown[]): unknown };

/** The methods of an addon's class cannot be replaced, but overridden. */
function watched(Session: SessionClass): SessionClass {
  // A clock of the thread that is right at any moment; Node's own is brought up to date by the kernel's tick,
  // which falls between the runs.
  const { native } = loadNative('auto');
  if (native === null) return Session;
  return class extends Session {
    override run(...args: unknown[]): unknown {
      const beforeUs = native.threadCpuUs();
      const result = super.run(...args);
      table[at + COLUMN.runCount]! += 1;
      table[at + COLUMN.runCpuUs]! += native.threadCpuUs() - beforeUs;
      return result;
    }
  };
}

function report(): ProbeReport {
  const threads = Array.from({ length: Math.min(THREADS_MAX, taken[0]!) }, (_, row): ThreadProbe => {
    const of = (column: number) => table[row * COLUMNS + column]!;
    return {
      main: of(COLUMN.main) === 1,
      tid: of(COLUMN.tid),
      gcCount: of(COLUMN.gcCount),
      gcMs: of(COLUMN.gcMs),
      gcMaxMs: of(COLUMN.gcMaxMs),
      runCount: of(COLUMN.runCount),
      runCpuUs: of(COLUMN.runCpuUs),
      heapUsed: of(COLUMN.heapUsed),
      heapTotal: of(COLUMN.heapTotal),
    };
  });
  // The largest pause so far belongs to whoever asked: the next report begins anew.
  for (let row = 0; row < THREADS_MAX; row++) table[row * COLUMNS + COLUMN.gcMaxMs] = 0;
  return { threads, addons };
}

if (isMainThread && process.send !== undefined) {
  process.on('message', async (question: ProbeQuestion) => {
    if (question === 'collect') {
      collectors.postMessage(null);
      collect();
      await sleep(COLLECT_MS);
    }
    process.send!(report());
  });
  // The program under test ends when it has nothing to do, as if nobody watched; and with the benchmark.
  process.channel?.unref();
  process.once('disconnect', () => process.exit());
}
