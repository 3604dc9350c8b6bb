/**
 * A process of its own, for the loader has to find a Vulkan driver when it starts: runs the benchmark's
 * perceptron in a pool with WebGPU first, ends the worker, runs it again, and prints what it ran on and what
 * came out, as JSON.
 *
 *   node test/support/webgpu-process.ts EXIT_HANDLER
 *
 * EXIT_HANDLER: a handler.ts that ends its worker with every event.
 */
import { fileURLToPath } from 'node:url';
import { startPool } from '../../src/infer/pool.ts';
import { FORM, ROW, ROW_COLUMNS, slabLayout } from '../../src/schedule/slab.ts';
import { fixture } from './models.ts';

const ROWS = [1, 3, 8, 5, 2];
const ARENA = 4096;
const dir = fileURLToPath(new URL('../../bench/models/mlp/', import.meta.url));
const spec = fixture('mlp', { dir, onnxPath: `${dir}1/model.onnx`, rowsMax: 8 });

const handlerPath = process.argv[2] as string;
const exits = fixture('no_batch', { slot: 1, handlerPath, providers: ['cpu'] });

const pool = await startPool({
  specs: [spec, exits],
  providers: ['webgpu', 'cpu'],
  threads: 2,
  slabArenaBytes: ARENA,
  profileMsMax: 10,
});
const { inputs, outputs } = pool.loaded[0]!;
const layout = slabLayout(inputs, outputs, spec.rowsMax, ARENA);

/** Runs `rows` rows and returns their scores, and the number behind them, which is not theirs. */
async function run(slab: number, rows: number): Promise<{ scores: number[]; behind: number | null }> {
  const shared = new SharedArrayBuffer(layout.bytes);
  const table = new Int32Array(shared, 0, spec.rowsMax * ROW_COLUMNS);
  const input = new Float32Array(shared, layout.inputOffsets[0], spec.rowsMax * 64);
  const output = new Float32Array(shared, layout.outputOffsets[0], spec.rowsMax);
  output.fill(-1);
  for (let i = 0; i < rows * 64; i++) input[i] = Math.sin(i * 0.37 + rows);
  for (let row = 0; row < rows; row++) table[row * ROW_COLUMNS + ROW.form] = FORM.features;
  await pool.run({ slot: 0, slab, shared, first: 0, rows, apart: false });
  return { scores: [...output.slice(0, rows)], behind: output[rows] ?? null };
}

/** An event for the model that ends its worker. */
async function endWorker(): Promise<string> {
  const { inputs: xs, outputs: ys } = pool.loaded[1]!;
  const small = slabLayout(xs, ys, exits.rowsMax, ARENA);
  const shared = new SharedArrayBuffer(small.bytes);
  Buffer.from(shared).write('{}', small.arenaInOffset);
  const table = new Int32Array(shared, 0, ROW_COLUMNS);
  table[ROW.form] = FORM.data;
  table[ROW.inOffset] = 0;
  table[ROW.inLength] = 2;
  const task = { slot: 1, slab: 99, shared, first: 0, rows: 1, apart: false };
  return await pool.run(task).then(
    () => 'it did not end',
    (error: { code: string }) => error.code,
  );
}

const first = await Promise.all(ROWS.map((rows, slab) => run(slab, rows)));
const ended = await endWorker();
const second = await Promise.all(ROWS.map((rows, slab) => run(ROWS.length + slab, rows)));
const sessions = pool.running.sessions().filter(({ slot }) => slot === 0);
const fallbacks = pool.running.compromises();
const { profile, rowsMax } = pool.plans[0]!;
await pool.stop();
process.stdout.write(`${JSON.stringify({ sessions, fallbacks, profile, rowsMax, first, ended, second })}\n`);
