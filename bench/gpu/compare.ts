/** One model on one provider, as a worker would run it: opened, warmed, and timed batch by batch. */
import { fileURLToPath } from 'node:url';
import { loadModel } from '../../src/infer/load.ts';
import { bucketsOf } from '../../src/infer/profile.ts';
import type { ModelSpec, ProviderEntry, ProviderName } from '../../src/infer/protocol.ts';
import { FORM, ROW, ROW_COLUMNS } from '../../src/schedule/slab.ts';
import { percentileOf } from '../statistics.ts';

export const ROWS_MAX = 1024;
/** Not sizes that the engine has warmed: it pads them to the next one that it has. */
export const ODD_ROWS = [3, 100, 700];
const ARENA = 65_536;
/** A size that takes longer is timed a few times only, and the next one is not tried. */
const SLOW_MS = 1000;
const RUNS_MIN = 5;

export const MODELS = [
  { name: 'mlp', what: 'the 64-256-128-1 perceptron', path: '../models/mlp/' },
  { name: 'encoder', what: 'a transformer encoder of two layers, 32 songs a row', path: './models/encoder/' },
] as const;

export type BenchModel = (typeof MODELS)[number];

/** Batches of one size. */
export interface Timing {
  readonly rows: number;
  readonly runs: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** By the median. */
  readonly rowsPerSecond: number;
}

export interface Timed {
  readonly provider: ProviderName;
  readonly threads: number;
  /** Opening the model, and running each size once. */
  readonly loadMs: number;
  readonly timings: readonly Timing[];
  /** The same for sizes that have to be padded. */
  readonly odd: readonly Timing[];
}

export function specOf({ name, path }: BenchModel, provider: ProviderEntry, threads = 1): ModelSpec {
  const dir = fileURLToPath(new URL(path, import.meta.url));
  return {
    slot: 0,
    name,
    version: 1,
    dir,
    onnxPath: `${dir}1/model.onnx`,
    handlerPath: null,
    goldenPath: null,
    rowsMax: ROWS_MAX,
    deadlineMs: null,
    record: false,
    latestOnly: false,
    description: '',
    inputs: [],
    outputs: [],
    providers: [provider],
    session: { intraOpThreads: threads, spinning: threads > 1 },
  };
}

/** Rejects with the reason when the provider is not there or cannot run the model. */
export async function timeModel(
  model: BenchModel,
  provider: ProviderEntry,
  options: { readonly threads?: number; readonly secondsPerSize: number; readonly rowsMax: number },
): Promise<Timed> {
  const { threads = 1, secondsPerSize, rowsMax } = options;
  const began = performance.now();
  const spec = { ...specOf(model, provider, threads), rowsMax };
  const { model: loaded } = await loadModel(spec, [provider], ARENA, null, { runMsMax: SLOW_MS });
  const loadMs = performance.now() - began;
  const slab = loaded.scratch();
  for (let row = 0; row < rowsMax; row++) slab.table[row * ROW_COLUMNS + ROW.form] = FORM.features;
  const time = async (rows: number): Promise<Timing> => {
    const tookMs: number[] = [];
    const end = performance.now() + secondsPerSize * 1000;
    do {
      const { inferUs } = await loaded.runSlab(slab, 0, rows, { placed: true });
      tookMs.push(inferUs / 1000);
    } while (performance.now() < end || tookMs.length < RUNS_MIN);
    tookMs.sort((a, b) => a - b);
    const p50Ms = percentileOf(tookMs, 50);
    const p99Ms = percentileOf(tookMs, 99);
    return { rows, runs: tookMs.length, p50Ms, p99Ms, rowsPerSecond: (rows / p50Ms) * 1000 };
  };
  const timings: Timing[] = [];
  for (const rows of bucketsOf(rowsMax)) {
    const timing = await time(rows);
    timings.push(timing);
    if (timing.p50Ms > SLOW_MS) break;
  }
  const most = timings.at(-1)!.rows;
  const odd: Timing[] = [];
  for (const rows of ODD_ROWS) if (rows < most) odd.push(await time(rows));
  return { provider: loaded.parts.loaded.provider, threads, loadMs, timings, odd };
}
