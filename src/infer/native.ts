/**
 * A worker that is ended while ONNX Runtime works in it takes the whole process along: the binding throws a
 * C++ exception that nobody catches when its environment goes away under it. So nobody ends a worker there.
 * Each thread says in shared cells whether it is inside native code, and whether it may enter it:
 *
 *   main:    halt the thread; wait until it is outside; end it.
 *   worker:  say "inside"; refuse if halted; call; say "outside".
 *
 * The same holds while Node loads the worker's modules: a thread counts as inside until its entry point has
 * run. The worker says "inside" before it looks and the main thread halts before it looks, so one of them
 * sees the other. Native code that never returns can therefore not be ended, only reported.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { threadId } from 'node:worker_threads';
import type { NativeCells } from './protocol.ts';

/**
 * Cells by thread id; a process that starts more threads than this reuses them, long after the first are
 * gone. What those left in them is told apart by the id.
 */
const THREADS = 1024;
const INSIDE = 0;
/** Holds the id of a thread that may not enter. */
const HALTED = 1;
/** Holds the id of the thread whose modules are loaded. */
const STARTED = 2;
const CELLS = 3;
/** Behind all others: nobody may enter any more. */
const ALL_HALTED = THREADS * CELLS;
const POLL_MS = 5;

export function nativeCells(): NativeCells {
  return new Int32Array(new SharedArrayBuffer((ALL_HALTED + 1) * 4));
}

const cell = (thread: number, which: number) => (thread % THREADS) * CELLS + which;

/** The thread was told not to enter native code any more; whatever it was doing is not done. */
export class NativeHalted extends Error {
  constructor() {
    super('the worker is being ended');
    this.name = 'NativeHalted';
  }
}

/** Set once by a worker's entry point; a thread without cells (a test) is never ended. */
let cells: NativeCells | null = null;

export function useNativeCells(given: NativeCells): void {
  cells = given;
  // A thread that had the cells before may have ended inside.
  Atomics.store(cells, cell(threadId, INSIDE), 0);
  Atomics.store(cells, cell(threadId, STARTED), threadId);
}

/** Worker: whatever fails now fails because the thread is being ended. */
export function isHalted(): boolean {
  if (cells === null) return false;
  return Atomics.load(cells, cell(threadId, HALTED)) === threadId || Atomics.load(cells, ALL_HALTED) !== 0;
}

/**
 * Every call into ONNX Runtime goes through here, and every import of a model's handler. Rejects with
 * NativeHalted, or as the call does.
 */
export async function inNative<T>(call: () => Promise<T>): Promise<T> {
  if (cells === null) return await call();
  Atomics.add(cells, cell(threadId, INSIDE), 1);
  try {
    if (isHalted()) throw new NativeHalted();
    return await call();
  } finally {
    Atomics.sub(cells, cell(threadId, INSIDE), 1);
  }
}

/** Main thread: this thread enters native code no more, until `allow`. */
export function halt(of: NativeCells, thread: number): void {
  Atomics.store(of, cell(thread, HALTED), thread);
}

export function allow(of: NativeCells, thread: number): void {
  Atomics.store(of, cell(thread, HALTED), 0);
}

export function haltAll(of: NativeCells): void {
  Atomics.store(of, ALL_HALTED, 1);
}

export function isInside(of: NativeCells, thread: number): boolean {
  const started = Atomics.load(of, cell(thread, STARTED)) === thread;
  return !started || Atomics.load(of, cell(thread, INSIDE)) > 0;
}

/** Resolves true when none of the threads is inside, false when that took longer than `msMax`. */
export async function outside(
  of: NativeCells,
  threads: () => readonly number[],
  msMax: number,
): Promise<boolean> {
  const lateMs = performance.now() + msMax;
  while (threads().some((thread) => isInside(of, thread))) {
    if (performance.now() > lateMs) return false;
    await sleep(POLL_MS);
  }
  return true;
}
