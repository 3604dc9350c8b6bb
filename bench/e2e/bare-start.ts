/**
 * The least that must happen before some models can be served, to measure the engine's start against.
 *
 * Arguments: port, paths of the models.
 */
import { createServer } from 'node:http';
import { InferenceSession, Tensor } from 'onnxruntime-node';

const [port = '', ...paths] = process.argv.slice(2);

/** One row of zeros. */
async function runOnce(path: string): Promise<void> {
  const session = await InferenceSession.create(path, { intraOpNumThreads: 1, interOpNumThreads: 1 });
  const feeds: Record<string, Tensor> = {};
  for (const input of session.inputMetadata) {
    if (!input.isTensor) continue;
    const dims = input.shape.map((length) => (typeof length === 'number' ? length : 1));
    const count = dims.reduce((product, length) => product * length, 1);
    feeds[input.name] =
      input.type === 'int64'
        ? new Tensor('int64', new BigInt64Array(count), dims)
        : new Tensor('float32', new Float32Array(count), dims);
  }
  await session.run(feeds);
}

for (const path of paths) await runOnce(path);
createServer((_, response) => response.end()).listen(Number(port), '127.0.0.1');
