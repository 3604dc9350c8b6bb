/**
 * The handler of a model that does as its events say: `do` is `throw`, `hang`, `kill` (the whole process
 * dies), `wait` for `ms` milliseconds, or `hold` until there is a file at `path`. It is copied beside a
 * fixture's ONNX file.
 */
import { existsSync } from 'node:fs';
import type { Handler } from '../../../src/infer/handler.ts';

/** Nobody ever wakes it. */
const nothing = new Int32Array(new SharedArrayBuffer(4));

export const handler: Handler = {
  fields: [
    { name: 'do', dtype: 'string', shape: [], default: '' },
    { name: 'ms', dtype: 'float64', shape: [], default: 0 },
    { name: 'path', dtype: 'string', shape: [], default: '' },
  ],
  predicts: [{ name: 'done', dtype: 'bool', shape: [] }],
  create: () => ({
    decode(data) {
      switch (data['do']) {
        case 'throw':
          throw new Error('the handler broke');
        case 'hang':
          for (;;);
        case 'kill':
          process.kill(process.pid, 'SIGKILL');
          // The signal may take a moment to arrive.
          for (;;);
        case 'wait':
          Atomics.wait(nothing, 0, 0, Number(data['ms']));
          break;
        case 'hold':
          while (!existsSync(String(data['path']))) Atomics.wait(nothing, 0, 0, 10);
      }
    },
    encode: () => ({ done: true }),
  }),
};
