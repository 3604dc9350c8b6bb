/** How many rows a second several workers do together, each with a session of its own on the same device. */
import { startPool } from '../../src/infer/pool.ts';
import type { ProviderEntry } from '../../src/infer/protocol.ts';
import { FORM, ROW, ROW_COLUMNS, slabLayout } from '../../src/schedule/slab.ts';
import { type BenchModel, specOf } from './compare.ts';

const ARENA = 65_536;

export interface Together {
  readonly workers: number;
  readonly rows: number;
  readonly rowsPerSecond: number;
}

/** Two batches for each worker, so that none waits for the main thread. */
export async function timeTogether(
  model: BenchModel,
  provider: ProviderEntry,
  { workers, rows, seconds }: { readonly workers: number; readonly rows: number; readonly seconds: number },
): Promise<Together> {
  const spec = { ...specOf(model, provider), rowsMax: rows };
  const pool = await startPool({
    specs: [spec],
    providers: [provider],
    threads: workers,
    slabArenaBytes: ARENA,
  });
  try {
    const [found] = pool.loaded;
    if (found === undefined) throw new Error(pool.problems[0]?.message ?? 'the model was not loaded');
    const layout = slabLayout(found.inputs, found.outputs, rows, ARENA);
    const slabs = Array.from({ length: pool.threads * 2 }, () => {
      const shared = new SharedArrayBuffer(layout.bytes);
      const table = new Int32Array(shared, 0, rows * ROW_COLUMNS);
      for (let row = 0; row < rows; row++) table[row * ROW_COLUMNS + ROW.form] = FORM.features;
      return shared;
    });
    let done = 0;
    const began = performance.now();
    const end = began + seconds * 1000;
    await Promise.all(
      slabs.map(async (shared, slab) => {
        while (performance.now() < end) {
          await pool.run({ slot: 0, slab, shared, first: 0, rows, apart: false });
          done += rows;
        }
      }),
    );
    return { workers: pool.threads, rows, rowsPerSecond: (done / (performance.now() - began)) * 1000 };
  } finally {
    await pool.stop();
  }
}
