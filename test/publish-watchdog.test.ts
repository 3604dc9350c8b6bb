// A committer whose server answers nothing, although bytes go out to it all the time.
import { afterEach, expect, test } from 'vitest';
import { collectNotices, endpointOf, Relay } from './support/core.ts';
import { startRedis } from './support/redis.ts';
import { deliver, entries, Settling, STREAM } from './support/settle.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

test('a server that answers no settlement, while they go out all the time, is given up', async () => {
  const server = await startRedis();
  cleanups.push(() => server.stop());
  const redis = server.connect();
  const relay = await Relay.to(server.port);
  cleanups.push(() => relay.close());
  let nowMs = 0;
  const one = new Settling(endpointOf(server, relay.port), [STREAM], () => nowMs);
  cleanups.push(() => one.committer.close());
  await one.connected();
  const { codes, stop } = collectNotices();
  cleanups.push(stop);
  const ids = await deliver(redis, 3);
  relay.dropReplies = true;
  for (const id of ids) {
    one.settle([{ id }]);
    one.committer.check();
    nowMs += 2400;
  }
  // The oldest has waited for 7.2 s, though each has had its bytes written since.
  expect(codes()).toEqual([]);
  relay.dropReplies = false;
  one.committer.check();
  expect(codes()).toContain('COMMITTER_STALLED');
  await one.done(3);
  expect((await entries(redis, 'predictions')).map(({ source }) => source)).toEqual(ids);
});
