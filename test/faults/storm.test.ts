// Many faults at once, at random. A failure prints its seed, its faults, and the command that repeats them.
import { expect } from 'vitest';
import { Random, seeds } from '../support/random.ts';
import { LONG, pick } from './harness/forms.ts';
import { scenario } from './harness/scenario.ts';
import { planStorm, runStorm } from './harness/storm.ts';

const ENGINES = 2;
const DURATION_MS = pick(8000, 45_000);
const command = LONG ? 'npm run test:faults --' : 'npm test --';

/** A new one each time, unless SUBITO_TEST_SEED repeats one. */
const begin = Date.now() % 1_000_000;
const tries = process.env['SUBITO_TEST_SEED'] === undefined ? pick(1, 4) : 1;

for (const offset of seeds(tries)) {
  const seed = process.env['SUBITO_TEST_SEED'] === undefined ? begin + offset : offset;
  scenario(
    `a storm of faults, seed ${seed}`,
    {
      engines: ENGINES,
      redis: { appendonly: true, config: { 'maxmemory-policy': 'noeviction' } },
      hint: `again: SUBITO_TEST_SEED=${seed} ${command} test/faults/storm.test.ts`,
    },
    async (world) => {
      const plan = planStorm(new Random(seed), ENGINES, DURATION_MS);
      expect(plan.length).toBeGreaterThan(3);
      world.producer.start(pick(400, 1000));
      await world.flows();
      await runStorm(world, plan);
      await world.client.config('SET', 'maxmemory', '0');
      await world.flows();
    },
    pick(240_000, 400_000),
  );
}
