/**
 * `{ level }` to a signal, and the score back. What the benchmark wants to go wrong goes wrong here, row by
 * row, within the batch's time in the worker.
 */
import type { Handler, RowCodec } from '../../../../src/infer/handler.ts';
import { FAULT_FILE, FaultFile, type Mode } from '../../fault.ts';

/** How often the file is looked at: a system call each time. */
const LOOK_MS = 2;

/** The fault as it was a moment ago. */
class Fault {
  readonly #file: FaultFile | null;
  #mode: Mode = 'none';
  #rowMs = 0;
  #lookAtMs = 0;

  constructor(path: string | undefined) {
    this.#file = path === undefined ? null : new FaultFile(path, false);
  }

  /** What happens to one row. */
  strike(): void {
    const file = this.#file;
    if (file === null) return;
    const nowMs = performance.now();
    if (nowMs >= this.#lookAtMs) {
      ({ mode: this.#mode, rowMs: this.#rowMs } = file.get());
      this.#lookAtMs = nowMs + LOOK_MS;
    }
    if (this.#mode === 'none') return;
    if (this.#mode === 'slow') spin(nowMs + this.#rowMs);
    else if (this.#mode === 'fail') throw new Error('the benchmark told this model to fail');
    // Whatever else looks at the file meanwhile: there are only so many.
    else if (file.take()) {
      if (this.#mode === 'crash') process.exit(1);
      spin(Number.POSITIVE_INFINITY);
    } else this.#lookAtMs = 0;
  }
}

/** Work takes a processor; sleeping would leave it to others. */
function spin(endMs: number): void {
  while (performance.now() < endMs);
}

export const handler: Handler = {
  fields: [{ name: 'level', dtype: 'float32', shape: [] }],
  predicts: [{ name: 'score', dtype: 'float32', shape: [] }],

  create(): RowCodec {
    const fault = new Fault(process.env[FAULT_FILE]);
    return {
      decode({ level }, row) {
        fault.strike();
        const signal = row['signal'] as Float32Array;
        for (let i = 0; i < signal.length; i++) signal[i] = Number(level) * Math.sin(i);
      },
      encode: (outputs) => ({ score: (outputs['score'] as Float32Array)[0] }),
    };
  },
};
