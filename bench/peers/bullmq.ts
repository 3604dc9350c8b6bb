/**
 * A BullMQ worker as its documentation has it: concurrency 100, the result is what the processor returns,
 * finished jobs are removed. The jobs in hand are run as one batch, which is kinder to it than a run for each
 * job.
 * Arguments: Redis URL, path of the model.
 */
import { Worker } from 'bullmq';
import { loadModel, ROW_BYTES, ROW_FLOATS } from './session.ts';

const CONCURRENCY = 100;

interface Waiting {
  readonly features: string;
  readonly resolve: (score: number) => void;
  readonly reject: (error: unknown) => void;
}

const [url = '', modelPath = ''] = process.argv.slice(2);
const model = await loadModel(modelPath, CONCURRENCY);
const rows = new Float32Array(CONCURRENCY * ROW_FLOATS);
const rowBytes = Buffer.from(rows.buffer);
let waiting: Waiting[] = [];
let running = false;

async function runAll(): Promise<void> {
  running = true;
  while (waiting.length > 0) {
    const batch = waiting;
    waiting = [];
    try {
      for (let i = 0; i < batch.length; i++) {
        // Job data is JSON: base64 is the cheapest way for a binary row to travel in it.
        rowBytes.write(batch[i]!.features, i * ROW_BYTES, ROW_BYTES, 'base64');
      }
      const scores = await model.run(rows, batch.length);
      for (let i = 0; i < batch.length; i++) batch[i]!.resolve(scores[i]!);
    } catch (error) {
      for (const one of batch) one.reject(error);
    }
  }
  running = false;
}

const { hostname, port } = new URL(url);
const worker = new Worker(
  'bench',
  (job) =>
    new Promise<number>((resolve, reject) => {
      waiting.push({ features: job.data.features, resolve, reject });
      if (!running && waiting.length === 1) setImmediate(runAll);
    }),
  {
    connection: { host: hostname, port: Number(port), maxRetriesPerRequest: null },
    concurrency: CONCURRENCY,
    removeOnComplete: { count: 0 },
  },
);
worker.on('error', (error) => process.stderr.write(`${error.message}\n`));
await worker.waitUntilReady();
process.stdout.write('ready\n');
