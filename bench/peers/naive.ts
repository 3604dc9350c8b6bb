/**
 * The naive consumer that tutorials show: XREADGROUP COUNT 1, run one event, XADD the prediction, XACK,
 * repeat.
 * Arguments: Redis URL, path of the model.
 */
import { Redis } from 'ioredis';
import { pack } from 'msgpackr';
import { fieldOf, loadModel, ROW_BYTES, ROW_FLOATS } from './session.ts';

const [url = '', modelPath = ''] = process.argv.slice(2);
const redis = new Redis(url);
const model = await loadModel(modelPath, 1);
await redis.xgroup('CREATE', 'events', 'bench', '0', 'MKSTREAM');
process.stdout.write('ready\n');

type Reply = [Buffer, [Buffer, Buffer[]][]][] | null;
const row = new Float32Array(ROW_FLOATS);

for (;;) {
  const reply = (await redis.xreadgroupBuffer(
    'GROUP',
    'bench',
    'one',
    'COUNT',
    1,
    'BLOCK',
    5000,
    'STREAMS',
    'events',
    '>',
  )) as Reply;
  const entry = reply?.[0]?.[1][0];
  if (entry === undefined) continue;
  const [id, fields] = entry;
  fieldOf(fields, 'features').copy(new Uint8Array(row.buffer), 0, 0, ROW_BYTES);
  const scores = await model.run(row, 1);
  await redis.xadd(
    'predictions',
    '*',
    'source',
    id,
    'event',
    fieldOf(fields, 'event'),
    'key',
    fieldOf(fields, 'key'),
    'model',
    'mlp@1',
    'status',
    'ok',
    'outputs',
    pack({ score: scores[0] }),
  );
  await redis.xack('events', 'bench', id);
}
