/**
 * Pools whose providers are played by the CPU (stand-in-provider.ts), on models in a directory of each test's
 * own. Importing this registers the hooks that make and remove it.
 */
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect } from 'vitest';
import type { Pool, PoolOptions } from '../../src/infer/pool.ts';
import type { ModelSpec } from '../../src/infer/protocol.ts';
import type { HandMadeSlab } from './hand-made-slab.ts';
import { fixture, modelsPath } from './models.ts';
import { notices, start as startPool } from './pools.ts';
import { STAND_IN, standInRuns } from './stand-in-provider.ts';

let root = '';
/** The directory of the test's model. */
export let dir = '';

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'subito-providers-'));
});
beforeEach(async () => {
  dir = join(root, String(Math.random()).slice(2), '1');
  await mkdir(dir, { recursive: true });
});
afterAll(async () => {
  await rm(root, { recursive: true });
});

/** y = x, three numbers a row, with its files in the test's directory. */
export async function copied(
  name = 'same_float32',
  changes: Partial<ModelSpec> = {},
  to = dir,
): Promise<ModelSpec> {
  await cp(join(modelsPath, name, '1'), to, { recursive: true });
  return fixture(name, { onnxPath: join(to, 'model.onnx'), dir: join(to, '..'), ...changes });
}

export const start = (specs: readonly ModelSpec[], changes: Partial<PoolOptions> = {}) =>
  startPool(specs, { opener: STAND_IN, ...changes });

export const say = (file: string, text: string) => writeFile(join(dir, file), text);
export const told = (code: string) =>
  notices.filter((one) => one.code === code).map(({ message }) => message);
export const runsOn = (provider: string) =>
  standInRuns(dir).filter((one) => one.what === 'run' && one.provider === provider).length;

/** Runs rows [n, 0, 0] and expects them back. */
export async function expectRuns(running: Pool, slab: HandMadeSlab, n: readonly number[]): Promise<void> {
  await slab.run(
    running,
    n.map((x) => ({ x: [x, 0, 0] })),
  );
  expect(slab.results(n.length)).toEqual(n.map(() => 0));
  const output = slab.output(0, n.length * 3);
  expect(n.map((_, row) => output[row * 3])).toEqual([...n]);
}
