// What the stream path allocates on the main thread: nothing for an event. Batches of two sizes are compared,
// so what each batch costs is left out; control and leaky path show that an object would be seen.
import { expect, test } from 'vitest';
import { OBJECT_BYTES } from '../bench/micro/control.ts';
import { type SpacedCase, spaceInProcess } from '../bench/micro/process.ts';

const PLAN = { warmBatches: 1500, warmMsMax: 30_000, repeats: 3 };
/** An object has at least 16 bytes (a number that is no small integer); what V8 does for itself is less. */
const BYTES_MAX = 1;
const ALLOCATIONS_MAX = 0.05;

const variants = ({ space }: SpacedCase) =>
  Object.entries(space).flatMap(([name, found]) => (found === null ? [] : [{ name, ...found }]));

test('the stream path allocates nothing for an event', { timeout: 120_000 }, async () => {
  const cases = await spaceInProcess('path', PLAN);
  expect(cases.length).toBeGreaterThan(3);
  for (const one of cases) {
    for (const { name, bytesPerEvent, outsideBytesPerEvent, allocationsPerEvent, sites } of variants(one)) {
      const where = `${one.name}, ${name}: ${sites.map(({ place }) => place).join(', ')}`;
      expect(bytesPerEvent, where).toBeLessThan(BYTES_MAX);
      expect(outsideBytesPerEvent, where).toBeLessThan(BYTES_MAX);
      expect(allocationsPerEvent, where).toBeLessThan(ALLOCATIONS_MAX);
    }
  }
});

test('one object more for each event would be seen', { timeout: 120_000 }, async () => {
  const [plain, leaky] = (await spaceInProcess('leaky', PLAN)).map(({ space }) => space.twin!);
  expect(leaky!.bytesPerEvent - plain!.bytesPerEvent).toBeGreaterThan(OBJECT_BYTES - BYTES_MAX);
  expect(leaky!.allocationsPerEvent - plain!.allocationsPerEvent).toBeGreaterThan(1 - ALLOCATIONS_MAX);
});

test('nothing is seen as nothing, and an object as an object', { timeout: 120_000 }, async () => {
  const [columns, objects] = await spaceInProcess('control', PLAN);
  expect(columns?.space.twin?.bytesPerEvent).toBeCloseTo(0, 1);
  expect(objects?.space.twin?.bytesPerEvent).toBeCloseTo(OBJECT_BYTES, 1);
  expect(objects?.space.twin?.allocationsPerEvent).toBeCloseTo(1, 1);
  expect(objects?.space.twin?.sites[0]?.place).toMatch(/^objects .*control\.ts:\d+$/);
});
