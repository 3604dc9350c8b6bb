// A benchmark that is broken off: what it has started ends with it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { isAlive } from './support/process.ts';

const directory = mkdtempSync(join(tmpdir(), 'subito-bench-site-'));
afterAll(() => rmSync(directory, { recursive: true }));

const urlOf = (path: string) => JSON.stringify(new URL(`../bench/${path}`, import.meta.url).href);

/** Says what it has started, of which some stand still; then goes on until it is ended. */
const BENCHMARK = `
  import { openSite } from ${urlOf('site.ts')};
  import { Runner } from ${urlOf('runner.ts')};
  const site = await openSite();
  const [, redisPid] = /process_id:(\\d+)/.exec(await site.wire.call(['INFO', 'server']));
  const isReady = async (output) => output.includes('ready');
  const start = (argv, options) => Runner.start(argv, isReady, options);
  const program = ['-e', 'console.log("ready"); setInterval(() => {}, 1000)'];
  const shell = ['-c', 'echo ready; while :; do sleep 0.1; done'];
  const runners = [
    await start(program),
    await start(program),
    await start(shell, { program: 'sh' }),
    await start(shell, { program: 'sh' }),
  ];
  runners[1].pause();
  runners[3].pause();
  const pids = [Number(redisPid), ...runners.map(({ pid }) => pid)];
  console.log(JSON.stringify({ pids, directory: site.directory }));
`;

describe('what a benchmark has started ends with it', { timeout: 30_000 }, () => {
  const file = join(directory, 'benchmark.ts');
  writeFileSync(file, BENCHMARK);

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('when it is ended by %s', async (signal, status) => {
    const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'inherit'] });
    const exit = once(child, 'exit');
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    const { pids, directory: site } = JSON.parse(line.toString()) as { pids: number[]; directory: string };
    try {
      expect(pids.map(isAlive)).toEqual([true, true, true, true, true]);
      child.kill(signal);
      expect(await exit).toEqual([status, null]);
      // They are killed before it exits, but not waited for.
      await vi.waitFor(() => expect(pids.filter(isAlive)).toEqual([]), 5000);
      expect(existsSync(site)).toBe(false);
    } finally {
      child.kill('SIGKILL');
      for (const pid of pids.filter(isAlive)) process.kill(pid, 'SIGKILL');
      rmSync(site, { recursive: true, force: true });
    }
  });
});
