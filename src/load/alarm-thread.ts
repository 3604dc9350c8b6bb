/**
 * The other side of alarm.ts: sleeps until the time in shared memory, then rings; sleeps on until there is a
 * new one.
 */
import { parentPort, workerData } from 'node:worker_threads';

const shared = workerData as SharedArrayBuffer;
const flag = new Int32Array(shared, 0, 2);
const at = new BigInt64Array(shared, 8, 1);

/**
 * How soon a new time is noticed. Being woken instead would cost the main thread a system call for each
 * alarm.
 */
const LOOK_MS = 0.1;

// Awake.
parentPort!.postMessage(0);

let rung = 0n;
while (Atomics.load(flag, 0) === 0) {
  const next = Atomics.load(at, 0);
  const leftMs = Number(next) / 1000 - performance.timeOrigin - performance.now();
  if (next !== rung && leftMs <= 0) {
    rung = next;
    parentPort!.postMessage(0);
  }
  // The value waited for never changes but at the end: this is a sleep that the kernel ends to within some 60
  // us.
  else Atomics.wait(flag, 0, 0, next === rung ? LOOK_MS : leftMs);
}
