/**
 * A BullMQ worker: concurrency 100, the result is what the processor returns, finished jobs are removed.
 *
 * `each` is how its documentation has it: the processor runs the model for its own job. `together` is kinder:
 * the jobs in hand are one run. Its documentation has that only for BullMQ Pro, which is sold, as batches.
 * Arguments: Redis URL, path of the model, `each` or `together`.
 */
import { Worker } from 'bullmq';
import { loadModel, ROW_BYTES, ROW_FLOATS } from './session.ts';

const CONCURRENCY = 100;

interface Waiting {
  readonly features: string;
  readonly resolve: (score: number) => void;
  readonly reject: (error: unknown) => void;
}

const [url = '', modelPath = '', way = ''] = process.argv.slice(2);
const model = await loadModel(modelPath, CONCURRENCY);

/** Job data is JSON: base64 is the cheapest way for a binary row to travel in it. */
function decode(features: string, bytes: Buffer, row: number): void {
  bytes.write(features, row * ROW_BYTES, ROW_BYTES, 'base64');
}

/** The runs of several jobs overlap: each has a row, and a result, of its own. */
async function runAlone(features: string): Promise<number> {
  const row = new Float32Array(ROW_FLOATS);
  decode(features, Buffer.from(row.buffer), 0);
  const scores = await model.run(row, 1);
  return scores[0]!;
}

const rows = new Float32Array(CONCURRENCY * ROW_FLOATS);
const rowBytes = Buffer.from(rows.buffer);
let waiting: Waiting[] = [];
let running = false;

function runTogether(features: string): Promise<number> {
  return new Promise((resolve, reject) => {
    waiting.push({ features, resolve, reject });
    if (!running && waiting.length === 1) setImmediate(runWaiting);
  });
}

async function runWaiting(): Promise<void> {
  running = true;
  while (waiting.length > 0) {
    const batch = waiting;
    waiting = [];
    try {
      for (let i = 0; i < batch.length; i++) decode(batch[i]!.features, rowBytes, i);
      const scores = await model.run(rows, batch.length);
      for (let i = 0; i < batch.length; i++) batch[i]!.resolve(scores[i]!);
    } catch (error) {
      for (const one of batch) one.reject(error);
    }
  }
  running = false;
}

const run = way === 'together' ? runTogether : runAlone;
const { hostname, port } = new URL(url);
const worker = new Worker('bench', async (job) => run(job.data.features), {
  connection: { host: hostname, port: Number(port), maxRetriesPerRequest: null },
  concurrency: CONCURRENCY,
  removeOnComplete: { count: 0 },
});
worker.on('error', (error) => process.stderr.write(`${error.message}\n`));
await worker.waitUntilReady();
process.stdout.write('ready\n');
