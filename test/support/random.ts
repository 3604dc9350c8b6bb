import { seededRandom } from '../../src/random.ts';

/** Repeatable randomness for property tests: the same seed gives the same numbers. */
export class Random {
  readonly seed: number;
  /** From 0 (included) to 1 (excluded). */
  readonly next: () => number;

  constructor(seed: number) {
    this.seed = seed;
    this.next = seededRandom(seed);
  }

  /** A whole number from `min` to `max`, both included. */
  int(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1));
  }

  chance(p: number): boolean {
    return this.next() < p;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.int(0, items.length - 1)] as T;
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let i = 0; i < length; i += 1) bytes[i] = this.int(0, 255);
    return bytes;
  }
}

/** 1 to `count`; SUBITO_TEST_SEED repeats one. */
export function seeds(count: number): number[] {
  const only = process.env['SUBITO_TEST_SEED'];
  return only === undefined ? Array.from({ length: count }, (_, i) => i + 1) : [Number(only)];
}

/** Runs `check` for many seeds; a failure names its seed. */
export function forSeeds(count: number, check: (random: Random) => void): void {
  for (const seed of seeds(count)) {
    try {
      check(new Random(seed));
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).stack}`, { cause: error });
    }
  }
}
