/**
 * `start`: from the start of the process until it is ready, with five models on disk, against a bare process.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../src/ports.ts';
import { openSite, type Site } from '../site.ts';
import { percentileOf } from '../statistics.ts';
import { contestantsOf, roundsOf, type Suite, type SuiteOptions, type SuiteResult } from '../suite.ts';
import { prose, whole } from '../text.ts';
import { engineConfig, SUBITO } from './engine.ts';

const TARGET_MS = 1500;
const RUNS = 10;
const READY_MS_MAX = 30_000;
const POLL_MS = 5;
/** Name in the repository, and what it is a copy of. */
const MODELS: readonly (readonly [name: string, from: string])[] = [
  ['mlp', '../models/mlp'],
  ['mlp-b', '../models/mlp'],
  ['mlp-c', '../models/mlp'],
  ['next-track', '../../models/next-track'],
  ['next-track-b', '../../models/next-track'],
];

interface Starter {
  readonly name: string;
  readonly what: string;
  /** Arguments of Node. */
  argv(site: Site, models: string, port: number): readonly string[];
}

const pathOf = (file: string) => new URL(file, import.meta.url).pathname;

const starters: readonly Starter[] = [
  {
    name: 'subito',
    what: '`subito serve`, one worker: models parsed, loaded, warmed, checked against their golden vectors',
    argv(site, models, port) {
      const file = join(site.directory, `start-${port}.yaml`);
      writeFileSync(file, JSON.stringify({ ...engineConfig(site, port), models: { path: models } }));
      return [...SUBITO, 'serve', '--config', file];
    },
  },
  {
    name: 'bare',
    what: 'Node, ONNX Runtime, a session of each of the five models and one run of one row, an HTTP server',
    argv: (_, models, port) => [
      pathOf('./bare-start.ts'),
      `${port}`,
      ...MODELS.map(([name]) => join(models, name, '1', 'model.onnx')),
    ],
  },
];

export const startSuite: Suite = {
  name: 'start',
  what: 'cold start with five models: process start until /v2/health/ready says 200',
  async run(options: SuiteOptions) {
    const chosen = contestantsOf(starters, options.only);
    const runs = roundsOf(options.rounds, options.quick ? 2 : RUNS);
    const site = await openSite();
    try {
      const models = makeModels(site);
      const tookMs = new Map<string, number[]>(chosen.map(({ name }) => [name, []]));
      for (let run = 1; run <= runs; run++) {
        for (const { name, argv } of chosen) {
          const port = await freePort();
          const ms = await startOnce(argv(site, models, port), port);
          tookMs.get(name)!.push(ms);
          options.say(`run ${run}/${runs}  ${name}: ${ms.toFixed(0)} ms`);
        }
      }
      return resultOf(chosen, tookMs);
    } finally {
      await site.stop();
    }
  },
};

function makeModels(site: Site): string {
  const models = join(site.directory, 'models');
  for (const [name, from] of MODELS) {
    const target = join(models, name);
    mkdirSync(target, { recursive: true });
    cpSync(pathOf(from), target, { recursive: true, filter: (path) => !path.endsWith('/train') });
    renameManifest(join(target, 'model.yaml'), name);
  }
  return models;
}

/** A manifest names its model; a copy has another name. */
function renameManifest(path: string, name: string): void {
  try {
    const text = readFileSync(path, 'utf8');
    writeFileSync(path, text.replace(/^name: .*$/m, `name: ${name}`));
  } catch (error) {
    // A model may have no manifest.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

/** Milliseconds until it is ready; then it is stopped. */
async function startOnce(argv: readonly string[], port: number): Promise<number> {
  const beganMs = performance.now();
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-5000);
    });
  }
  const exit = once(child, 'exit');
  try {
    while (!(await isReady(port))) {
      if (child.exitCode !== null) throw new Error(`it ended:\n${output}`);
      if (performance.now() - beganMs > READY_MS_MAX) throw new Error(`not ready in 30 s:\n${output}`);
      await sleep(POLL_MS);
    }
    return performance.now() - beganMs;
  } finally {
    child.kill('SIGTERM');
    const killer = setTimeout(() => child.kill('SIGKILL'), 5000);
    await exit;
    clearTimeout(killer);
  }
}

function isReady(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const request = get({ host: '127.0.0.1', port, path: '/v2/health/ready', agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    request.once('error', () => resolve(false));
  });
}

function resultOf(chosen: readonly Starter[], tookMs: ReadonlyMap<string, readonly number[]>): SuiteResult {
  const at = (name: string, percent: number) =>
    percentileOf(
      (tookMs.get(name) ?? []).toSorted((a, b) => a - b),
      percent,
    );
  const rows = chosen.map(({ name }) => [
    name === 'bare' ? 'bare process' : name,
    ...[50, 100].map((percent) => `${whole(at(name, percent))} ms`),
  ]);
  const worst = at('subito', 100);
  const met = worst <= TARGET_MS ? 'meets' : 'misses';
  const verdict = Number.isNaN(worst) ? '' : `The slowest start ${met} the target of ${whole(TARGET_MS)} ms.`;
  const runs = Math.max(...[...tookMs.values()].map(({ length }) => length));
  const ratio = at('bare', 50) / at('subito', 50);
  return {
    sections: [
      {
        title: 'Process start until ready',
        text: [
          prose(`${runs} starts each, in turns, with Redis running; what is read from disk is in the
            page cache. ${verdict}`),
          ...chosen.map(({ name, what }) => `- **${name === 'bare' ? 'bare process' : name}**: ${what}`),
        ],
        table: { head: ['', 'median', 'slowest'], rows },
      },
    ],
    ratios: Number.isNaN(ratio) ? {} : { 'bare start against ours, median': ratio },
    plots: [],
    raw: { tookMs: Object.fromEntries(tookMs), models: MODELS.map(([name]) => name), targetMs: TARGET_MS },
  };
}
