// Events on which the handler breaks, hangs, or takes the process with it. Each has its dead letter in the
// end, and every event around it its prediction.
import { afterAll, expect } from 'vitest';
import { scenario } from './harness/scenario.ts';
import { measured, printTimings } from './harness/timings.ts';
import type { World } from './harness/world.ts';

afterAll(printTimings);

const EVENTS = 120;
const POISON = [0, 57] as const;

function poisoned(what: string): (n: number) => object {
  return (n) => (POISON.includes(n as 0) ? { do: what } : { do: 'wait', ms: 1 });
}

async function run(world: World): Promise<void> {
  for (const { process } of world.engines) process.supervised = true;
  await world.producer.send(EVENTS);
  const beginMs = performance.now();
  const ids = Array.from({ length: EVENTS }, (_, n) => world.producer.sent(n)).map((sent) =>
    sent.state === 'added' ? sent.id : '',
  );
  await world.settledIds(ids, 80_000);
  const starts = world.engines.reduce((sum, engine) => sum + engine.process.starts, 0);
  const what = `two poisonous events among ${EVENTS}, until all are settled, with ${starts} starts`;
  measured(what, performance.now() - beginMs);
}

function expectOutcomes(world: World, deliveriesMin: number): void {
  const wrong = world.outcomes.all().filter(({ event, status, stream }) => {
    const poison = POISON.includes(event as 0);
    return poison ? status !== 'failed' : stream !== 'predictions';
  });
  expect(wrong).toEqual([]);
  for (const event of POISON) {
    const [outcome] = world.outcomes.of(event);
    expect(outcome).toMatchObject({ status: 'failed', stream: 'deadletters' });
    expect(outcome?.detail).not.toBe('');
    expect(Number(outcome?.deliveries)).toBeGreaterThanOrEqual(deliveriesMin);
  }
}

for (const what of ['throw', 'hang']) {
  scenario(
    `an event on which the handler does: ${what}`,
    { model: 'trouble', data: poisoned(what), concurrent: true },
    async (world) => {
      await run(world);
      expectOutcomes(world, 1);
    },
  );
}

for (const engines of [1, 2]) {
  scenario(
    `an event that kills the process, ${engines} engine(s)`,
    { model: 'trouble', data: poisoned('kill'), engines, concurrent: true, limits: { deliveries_max: 3 } },
    async (world) => {
      await run(world);
      expectOutcomes(world, 3);
    },
    150_000,
  );
}
