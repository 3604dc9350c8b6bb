/** A scenario as a test: what breaks is its own affair, what must hold at the end is always the same. */
import { test } from 'vitest';
import { pick } from './forms.ts';
import { World, type WorldOptions } from './world.ts';

export interface ScenarioOptions extends WorldOptions {
  /** Beside the others of its file, for scenarios that mostly wait. */
  readonly concurrent?: boolean;
  /** Said of a failure before anything else. */
  readonly hint?: string;
}

export function scenario(
  name: string,
  options: ScenarioOptions,
  run: (world: World) => Promise<void>,
  msMax = pick(200_000, 400_000),
): void {
  const register = options.concurrent ? test.concurrent : test;
  register(name, { timeout: msMax }, async () => {
    const world = await World.open(options);
    try {
      await run(world);
      await world.conclude();
    } catch (error) {
      const hint = options.hint === undefined ? '' : `${options.hint}\n`;
      throw new Error(`${hint}${(error as Error).message}\n${await world.report()}`, { cause: error });
    } finally {
      await world.close();
    }
  });
}
