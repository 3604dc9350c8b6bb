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
/** When the thread began with what it is doing: a batch, or bringing a model elsewhere. */
const SINCE = 3;
/** Holds 1 while the thread brings a model to its next provider; its batch waits for that. */
const MOVING = 4;
const CELLS = 5;
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
  Atomics.store(cells, cell(threadId, MOVING), 0);
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

/** Milliseconds of a clock that all threads share; 32 bits of it, so only differences mean anything. */
function sharedMs(): number {
  const [seconds, nanos] = process.hrtime();
  return (seconds * 1000 + Math.floor(nanos / 1e6)) | 0;
}

/** Worker: its batch begins now. */
export function beginBatch(): void {
  if (cells !== null) Atomics.store(cells, cell(threadId, SINCE), sharedMs());
}

/** Worker: `move` has a limit of its own, and the batch in hand its full time afterwards. */
export async function whileMoving<T>(move: () => Promise<T>): Promise<T> {
  if (cells === null) return await move();
  // The time first: whoever reads the other cell first, never meets an old time with the new limit.
  beginBatch();
  Atomics.store(cells, cell(threadId, MOVING), 1);
  try {
    return await move();
  } finally {
    beginBatch();
    Atomics.store(cells, cell(threadId, MOVING), 0);
  }
}

/** Main thread: what a thread that has a batch is doing, and for how many milliseconds. */
export function doing(of: NativeCells, thread: number): { readonly moving: boolean; readonly forMs: number } {
  const moving = Atomics.load(of, cell(thread, MOVING)) === 1;
  return { moving, forMs: (sharedMs() - Atomics.load(of, cell(thread, SINCE))) | 0 };
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
