/**
 * How a benchmark makes the slow model slow, broken or dead while the engine knows nothing of it: a file of
 * sixteen bytes, written here and looked at by the model's handler, in the worker.
 *
 *   int32 mode | int32 times left | float64 milliseconds a row
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';

/** Names the file, in the engine's environment. */
export const FAULT_FILE = 'OVERLOAD_FAULT_FILE';
/** `slow` and `fail` hold until they are taken back; `hang` and `crash` happen so many times. */
export const MODE = { none: 0, slow: 1, fail: 2, hang: 3, crash: 4 } as const;
export type Mode = keyof typeof MODE;

const BYTES = 16;

export class FaultFile {
  readonly path: string;
  readonly #file: number;
  readonly #bytes = Buffer.alloc(BYTES);

  /** Throws when `path` cannot be opened. `isNew`: made, and empty of faults. */
  constructor(path: string, isNew: boolean) {
    this.path = path;
    this.#file = openSync(path, isNew ? 'w+' : 'r+');
    if (isNew) this.set('none');
  }

  set(mode: Mode, { times = 0, rowMs = 0 } = {}): void {
    this.#bytes.writeInt32LE(MODE[mode], 0);
    this.#bytes.writeInt32LE(times, 4);
    this.#bytes.writeDoubleLE(rowMs, 8);
    // One write of a few bytes: whoever reads sees all of it or nothing.
    writeSync(this.#file, this.#bytes, 0, BYTES, 0);
  }

  get(): { readonly mode: Mode; readonly times: number; readonly rowMs: number } {
    readSync(this.#file, this.#bytes, 0, BYTES, 0);
    const number = this.#bytes.readInt32LE(0);
    const mode = (Object.keys(MODE) as Mode[]).find((name) => MODE[name] === number) ?? 'none';
    return { mode, times: this.#bytes.readInt32LE(4), rowMs: this.#bytes.readDoubleLE(8) };
  }

  /** True when there was one left of a fault that happens a number of times; it is one less now. */
  take(): boolean {
    const { mode, times } = this.get();
    if (times <= 0) return false;
    this.set(times === 1 ? 'none' : mode, { times: times - 1 });
    return true;
  }

  close(): void {
    closeSync(this.#file);
  }
}
