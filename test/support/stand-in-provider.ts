/**
 * In the place of InferenceSession.create: providers that the machine lacks are played by the CPU, which
 * behaves as files beside model.onnx say. The sessions are real, and so is what they compute.
 *
 *   absent        names of providers that cannot be opened; `cuda/1`: on this device
 *   held          names of providers that are not open until their name is gone from here
 *   fault         names of providers on which every run fails, as after a lost CUDA context; `cuda/1`
 *   fault-after   JSON: { "cuda": 20 }: the same, after so many runs of a session
 *   wrong         names of providers whose numbers are one too high
 *   slow          JSON: { "cpu": 10 }: takes 10 ms more for each row
 *   search        JSON: { "cuda": [1, 300] }: the first run of each number of rows, in each session, takes
 *                 300 ms more, as a search for algorithms does; also of one device, "cuda/1"
 *   runs.ndjson   written: provider, device, rows of the first input, process-wide thread id
 *
 * A row whose first input begins with 666 fails its run, whatever the provider.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { threadId } from 'node:worker_threads';
import { InferenceSession, type Tensor } from 'onnxruntime-node';
import type { OpenSession } from '../../src/infer/ladder.ts';

export const STAND_IN = import.meta.filename;

export interface StandInRun {
  readonly what: 'open' | 'run';
  readonly provider: string;
  readonly device: number | null;
  readonly rows: number;
  readonly thread: number;
}

function says(dir: string, file: string, provider: string): boolean {
  const path = join(dir, file);
  return existsSync(path) && readFileSync(path, 'utf8').split(/\s+/).includes(provider);
}

function json<T>(dir: string, file: string): Readonly<Record<string, T | undefined>> {
  const path = join(dir, file);
  const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
  // It may be about to be written.
  return text === '' ? {} : JSON.parse(text);
}

export const open: OpenSession = async (onnxPath, options) => {
  const dir = dirname(onnxPath);
  const [entry] = options.executionProviders as [{ name: string; deviceId?: number }];
  const { name: provider, deviceId: device = null } = entry;
  const log = (what: StandInRun['what'], rows: number) => {
    const line = { what, provider, device, rows, thread: threadId } satisfies StandInRun;
    appendFileSync(join(dir, 'runs.ndjson'), `${JSON.stringify(line)}\n`);
  };
  log('open', 0);
  if (says(dir, 'absent', provider) || says(dir, 'absent', `${provider}/${device}`))
    throw new Error(`${provider}: no such device is detected`);
  while (says(dir, 'held', provider)) await sleep(10);
  const session = await InferenceSession.create(onnxPath, { ...options, executionProviders: ['cpu'] });
  let total = 0;
  const runsOf = new Map<number, number>();
  const run: InferenceSession['run'] = async (feeds: InferenceSession.FeedsType, ...rest: never[]) => {
    const first = feeds[session.inputNames[0]!]!;
    const rows = first.dims[0]!;
    log('run', rows);
    total += 1;
    const isWorn = total > (json<number>(dir, 'fault-after')[provider] ?? Infinity);
    if (isWorn || says(dir, 'fault', provider) || says(dir, 'fault', `${provider}/${device}`)) {
      throw new Error(`${provider} failure 700: an illegal memory access was encountered`);
    }
    const ran = (runsOf.get(rows) ?? 0) + 1;
    runsOf.set(rows, ran);
    const search = json<[runs: number, ms: number]>(dir, 'search');
    const [searches, searchMs] = search[provider] ?? search[`${provider}/${device}`] ?? [0, 0];
    if (ran <= searches) await sleep(searchMs);
    const width = first.data.length / rows;
    for (let row = 0; row < rows; row++) {
      if (Number(first.data[row * width]) === 666) throw new Error('a value that the graph does not take');
    }
    const end = performance.now() + rows * (json<number>(dir, 'slow')[provider] ?? 0);
    while (performance.now() < end);
    const results = await session.run(feeds, ...rest);
    if (says(dir, 'wrong', provider)) {
      // Where outputs were asked for in given memory, the answer holds copies of them.
      const given = Object.values((rest[0] ?? {}) as Record<string, Tensor | null>);
      for (const tensor of [...given, ...Object.values(results)]) {
        if (typeof tensor !== 'object' || tensor === null) continue;
        const values = tensor.data as Float32Array;
        for (let i = 0; i < values.length; i++) values[i]! += 1;
      }
    }
    return results;
  };
  const { inputMetadata, outputMetadata } = session;
  return { run, inputMetadata, outputMetadata, release: () => session.release() } as InferenceSession;
};

/** What sessions of the model in `dir` did. */
export function standInRuns(dir: string): StandInRun[] {
  const path = join(dir, 'runs.ndjson');
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
  return lines.map((line) => JSON.parse(line) as StandInRun);
}
