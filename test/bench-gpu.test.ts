// The comparison of the CPU with a GPU, as it runs on a machine without one: it says so, and why; and all of
// it runs with another provider in the place of CUDA.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const run = promisify(execFile);
const script = new URL('../bench/gpu/run.ts', import.meta.url).pathname;
const results = new URL('../bench/gpu/RESULTS.md', import.meta.url);

/** Standard output of the short form. */
async function quick(...args: readonly string[]): Promise<string> {
  const { stdout } = await run(process.execPath, [script, '--quick', ...args], { timeout: 100_000 });
  return stdout;
}

test('a provider that is not there is not measured, and nothing is made up', {
  timeout: 110_000,
}, async () => {
  const before = readFileSync(results, 'utf8');
  const text = await quick('--provider', 'coreml');
  expect(text).toMatch(/Not measured: this machine has no coreml\. .*none of its providers can run it/);
  expect(text).not.toContain('| rows ');
  expect(readFileSync(results, 'utf8')).toBe(before);
});

test('the tables hold what was measured', { timeout: 110_000 }, async () => {
  const text = await quick('--provider', 'cpu');
  const tables = text.split('\n### ').slice(1);
  expect(tables.map((table) => table.split('\n', 1)[0])).toEqual([
    'mlp: the 64-256-128-1 perceptron',
    'encoder: a transformer encoder of two layers, 32 songs a row',
    'Sizes that are padded',
    'Several sessions on one device',
  ]);
  const rows = (table: string) =>
    table
      .split('\n')
      .filter((line) => /^\| [\da-z]/.test(line))
      .slice(1);
  expect(rows(tables[0]!).map((row) => row.split('|')[1]!.trim())).toEqual([
    '1',
    '2',
    '4',
    '8',
    '16',
    '32',
    '64',
  ]);
  // The same provider twice: about as fast as itself, whatever else the machine does.
  for (const row of rows(tables[0]!)) {
    const [, , one, , other] = row.split('|').map((cell) => Number(cell.replaceAll(',', '')));
    expect(one).toBeGreaterThan(0);
    expect(other).toBeGreaterThan(0);
  }
  expect(text).toMatch(/- mlp, cpu \/ one CPU thread, 64 rows: [\d.]+/);
  expect(text).toMatch(/- encoder, cpu \/ one CPU thread, 64 rows: [\d.]+/);
});

test('a provider that does not exist is a mistake', { timeout: 60_000 }, async () => {
  await expect(quick('--provider', 'gpu')).rejects.toMatchObject({ code: 2 });
});
