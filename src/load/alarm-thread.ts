/** The other side of alarm.ts: sleeps until the time in shared memory, then rings. */
import { parentPort, workerData } from 'node:worker_threads';

const shared = workerData as SharedArrayBuffer;
const flag = new Int32Array(shared, 0, 2);
const at = new Float64Array(shared, 8, 1);

for (;;) {
  Atomics.wait(flag, 0, 0);
  if (Atomics.exchange(flag, 0, 0) === 2) break;
  const leftMs = at[0]! - performance.timeOrigin - performance.now();
  // flag[1] never changes: this is a sleep that the kernel ends to within some 60 us.
  if (leftMs > 0) Atomics.wait(flag, 1, 0, leftMs);
  parentPort!.postMessage(0);
}
