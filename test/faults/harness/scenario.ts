/** A scenario as a test: what breaks is its own affair, what must hold at the end is always the same. */
import { test } from 'vitest';
import { World, type WorldOptions } from './world.ts';

/** `npm run test:faults` runs the long forms. */
export const LONG = process.env['SUBITO_FAULTS'] === 'long';

export function pick<T>(short: T, long: T): T {
  return LONG ? long : short;
}

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
  msMax = pick(90_000, 240_000),
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
