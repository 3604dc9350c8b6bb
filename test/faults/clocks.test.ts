// The server's clock is set, back and forth, while events flow.
import { existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect } from 'vitest';
import { pick } from './harness/forms.ts';
import { scenario } from './harness/scenario.ts';
import { measured, printTimings } from './harness/timings.ts';

afterAll(printTimings);

const LIBRARIES = ['x86_64-linux-gnu', 'aarch64-linux-gnu'].map(
  (machine) => `/usr/lib/${machine}/faketime/libfaketime.so.1`,
);
const library = LIBRARIES.find((path) => existsSync(path));
const macOS = process.platform === 'darwin';
if (macOS) console.log('skipped: setting the clock of redis-server needs libfaketime and LD_PRELOAD (Linux)');

const dir = mkdtempSync(join(tmpdir(), 'subito-clock-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
const file = join(dir, 'offset');

function setClock(offsetSeconds: number): void {
  // In one step: the server reads it all the time.
  writeFileSync(`${file}.new`, `${offsetSeconds >= 0 ? '+' : ''}${offsetSeconds}s\n`);
  renameSync(`${file}.new`, file);
}

describe.skipIf(macOS)('the clock of the server', () => {
  const env = {
    // libc before jemalloc, which would ask for the time while libfaketime asks for memory.
    LD_PRELOAD: `${library ?? 'libfaketime is missing: bash deploy/setup.sh --tests'}:libc.so.6`,
    FAKETIME_TIMESTAMP_FILE: file,
    FAKETIME_NO_CACHE: '1',
    // As with a real clock that is set: timers go on.
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
  };
  setClock(0);
  scenario(
    'is set an hour forth, then two back, then right',
    {
      engines: 2,
      redis: { env },
      model: 'trouble',
      data: () => ({ do: 'wait', ms: 2 }),
      limits: { batch_rows_max: 64 },
    },
    async (world) => {
      const { client, producer } = world;
      const serverMs = async () => Number((await client.time())[0]) * 1000;
      producer.start(100);
      await world.flows();
      for (const offset of [3600, -3600, 0]) {
        await sleep(pick(700, 5000));
        setClock(offset);
        world.note(`clock ${offset} s`);
        expect(Math.abs((await serverMs()) - Date.now() - offset * 1000)).toBeLessThan(5000);
        measured(`clock set to ${offset} s: until events are settled again`, await world.flows());
        await sleep(pick(500, 5000));
      }
      await producer.stop();
      // Ids go up whatever the clock does.
      const ids = Array.from({ length: producer.count }, (_, n) => producer.sent(n)).flatMap((sent) =>
        sent.state === 'added' ? [sent.id] : [],
      );
      for (let i = 1; i < ids.length; i += 1) {
        const [before, after] = [ids[i - 1] as string, ids[i] as string];
        const [a, b] = [before.split('-').map(BigInt), after.split('-').map(BigInt)];
        expect(b[0]! > a[0]! || (b[0] === a[0] && b[1]! > a[1]!), `${before} ${after}`).toBe(true);
      }
    },
  );

  // Redis counts an entry's idle time from the moment at which it was given out, which is yet to come.
  scenario(
    'what was given out while it was ahead is taken over when it is right again',
    {
      engines: 2,
      redis: { env },
      model: 'trouble',
      data: () => ({ do: 'wait', ms: 10 }),
      limits: { batch_rows_max: 32 },
    },
    async (world) => {
      setClock(3600);
      await world.producer.send(400);
      await world.flows();
      await sleep(300);
      setClock(0);
      world.note('clock right again');
      await world.engine(0).process.kill();
      const ids = await world.pending();
      expect(ids.length).toBeGreaterThan(0);
      const beginMs = performance.now();
      await world.settledIds(ids, 60_000);
      measured('clock set back: SIGKILL of an engine until another has settled', performance.now() - beginMs);
    },
  );
});
