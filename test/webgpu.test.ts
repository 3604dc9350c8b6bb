// WebGPU for real: on a machine without a GPU, on the software one that Chromium brings (SwiftShader). Where
// there is none either, the model has to end up on the CPU.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';

interface Answer {
  readonly sessions: readonly unknown[];
  readonly fallbacks: readonly string[];
  readonly profile: { readonly provider: string; readonly buckets: readonly { readonly rows: number }[] };
  readonly first: readonly Scores[];
  readonly ended: string;
  readonly second: readonly Scores[];
}

interface Scores {
  readonly scores: readonly number[];
  readonly behind: number | null;
}

const run = promisify(execFile);
const driver = [
  '/usr/lib/chromium/vk_swiftshader_icd.json',
  '/usr/lib/chromium-browser/vk_swiftshader_icd.json',
  '/opt/google/chrome/vk_swiftshader_icd.json',
].find((path) => existsSync(path) && existsSync(join(dirname(path), 'libvulkan.so.1')));

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'subito-webgpu-'));
  await writeFile(
    join(dir, 'handler.ts'),
    `export const handler = { fields: [], predicts: [], create: () => ({
      decode() { process.exit(3); }, encode: () => ({}),
    }) };`,
  );
});
afterAll(() => rm(dir, { recursive: true }));

/** What the process prints; it has to end by itself, and well. */
async function answerWith(env: Record<string, string>): Promise<Answer> {
  const script = new URL('./support/webgpu-process.ts', import.meta.url).pathname;
  const { stdout } = await run(process.execPath, [script, join(dir, 'handler.ts')], {
    env: { ...process.env, ...env },
    timeout: 120_000,
  });
  return JSON.parse(stdout) as Answer;
}

const noDriver = { VK_ICD_FILENAMES: '/nonexistent', VK_DRIVER_FILES: '/nonexistent' };

test('without a GPU the model runs on the CPU, and says what WebGPU lacks', {
  timeout: 130_000,
}, async () => {
  const answer = await answerWith(noDriver);
  expect(answer.sessions).toEqual([{ slot: 0, provider: 'cpu', count: 1 }]);
  expect(answer.fallbacks).toEqual([expect.stringMatching(/not on webgpu: Failed to get a WebGPU adapter/)]);
});

test.skipIf(driver === undefined)(
  'on a GPU in software it gives what the CPU gives, also from a worker that took another’s place',
  { timeout: 260_000 },
  async () => {
    const place = { VK_ICD_FILENAMES: driver!, LD_LIBRARY_PATH: dirname(driver!) };
    const [cpu, gpu] = [await answerWith(noDriver), await answerWith(place)];
    // Two were asked for: there is one, for two on WebGPU at a time would end the process.
    expect(gpu.sessions).toEqual([{ slot: 0, provider: 'webgpu', count: 1 }]);
    expect(gpu.fallbacks).toEqual([]);
    expect(gpu.ended).toBe('WORKER_DIED');
    expect(gpu.profile.provider).toBe('webgpu');
    expect(gpu.profile.buckets.map(({ rows }) => rows)).toEqual([1, 2, 4, 8]);
    for (const [i, { scores, behind }] of [...gpu.first, ...gpu.second].entries()) {
      const wanted = cpu.first[i % cpu.first.length]!.scores;
      expect(scores).toHaveLength(wanted.length);
      for (const [row, score] of scores.entries()) expect(score).toBeCloseTo(wanted[row]!, 4);
      // Batches of 3 and 5 were padded; nothing of that is in the slab.
      expect([-1, null]).toContain(behind);
    }
  },
);
