/**
 * The handler of a model that does as its events say: `do` is `throw`, `hang`, `kill` (the whole process
 * dies) or `spin` for `ms` milliseconds. It is copied beside a fixture's ONNX file.
 */
import type { Handler } from '../../../src/infer/handler.ts';

export const handler: Handler = {
  fields: [
    { name: 'do', dtype: 'string', shape: [], default: '' },
    { name: 'ms', dtype: 'float64', shape: [], default: 0 },
  ],
  predicts: [{ name: 'done', dtype: 'bool', shape: [] }],
  create: () => ({
    decode(data) {
      const beginMs = performance.now();
      switch (data['do']) {
        case 'throw':
          throw new Error('the handler broke');
        case 'hang':
          for (;;);
        case 'kill':
          process.kill(process.pid, 'SIGKILL');
          // The signal may take a moment to arrive.
          for (;;);
        case 'spin':
          while (performance.now() - beginMs < Number(data['ms']));
      }
    },
    encode: () => ({ done: true }),
  }),
};
