// A process that is a consumer and nothing else, and says so: node hold-consumer.ts REDIS_URL TTL_MS
// STREAM... One line for every name it has, the first when it has one.
import { takeConsumer } from '../../src/ingest/consumer.ts';
import { connectControl } from '../../src/redis/control.ts';
import { parseEndpoint } from '../../src/redis/endpoint.ts';

const [url = '', ttlMs = '', ...streams] = process.argv.slice(2);
const control = await connectControl({ endpoint: parseEndpoint(url), commandMsMax: 5000 });
const consumer = await takeConsumer({
  control,
  partitions: streams.map((name) => ({ name, group: 'subito' })),
  ttlMs: Number(ttlMs),
  onRename: (name) => console.log(name),
});
console.log(consumer.name);
process.on('SIGTERM', () => void consumer.stop().then(() => control.close()));
