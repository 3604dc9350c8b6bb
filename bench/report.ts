/** Medians over the rounds, ratios against Subito, and the text of bench/RESULTS.md. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import type { Contestant } from './contestants.ts';
import type { Round } from './measure.ts';
import type { Site } from './site.ts';
import { redisInfo } from './site.ts';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly node: string;
  readonly redis: string;
  readonly onnxruntime: string;
  /** One-minute load average before the first contestant: above a few tenths, others used the machine too. */
  readonly loadBefore: number;
  readonly date: string;
  /** Short hash; `+` when files differ from it. */
  readonly commit: string;
}

export async function describeMachine(site: Site): Promise<Machine> {
  const info = await redisInfo(site.wire, 'server');
  const ort = new URL('../node_modules/onnxruntime-node/package.json', import.meta.url);
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
    redis: info.get('redis_version') ?? 'unknown',
    onnxruntime: JSON.parse(readFileSync(ort, 'utf8')).version,
    loadBefore: loadavg()[0]!,
    date: new Date().toISOString().slice(0, 16).replace('T', ' '),
    commit: commit(),
  };
}

function commit(): string {
  const git = (...args: string[]) =>
    execFileSync('git', args, { cwd: import.meta.dirname, encoding: 'utf8' });
  try {
    const dirty = git('status', '--porcelain', '--untracked-files=no', '--', '../src', '.').trim() !== '';
    return git('rev-parse', '--short', 'HEAD').trim() + (dirty ? '+' : '');
  } catch {
    return 'unknown';
  }
}

export interface Result {
  readonly name: string;
  readonly what: string;
  /** Null: it failed; then `failure` says how. */
  readonly median: Median | null;
  readonly failure: string | null;
  readonly rounds: readonly Round[];
}

export interface Median {
  readonly drainPerS: number;
  readonly redisUs: number;
  readonly processUs: number;
  /** What one Redis core could carry at this contestant's cost per event. */
  readonly redisCeilingPerS: number;
  readonly half: LatencyMedian;
  readonly common: LatencyMedian;
}

export interface LatencyMedian {
  readonly ratePerS: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly lateP99: number;
  readonly bad: number;
}

/** A contestant that failed in any round is failed: a wrong answer is not averaged away. */
export function summarize(contestant: Contestant, rounds: readonly Round[], failure: string | null): Result {
  const { name, what } = contestant;
  if (failure !== null || rounds.length === 0) return { name, what, median: null, failure, rounds };
  const of = (pick: (round: Round) => number) => middle(rounds.map(pick));
  const latency = (which: 'half' | 'common'): LatencyMedian => ({
    ratePerS: of((round) => round[which].ratePerS),
    p50: of((round) => round[which].ms.p50),
    p99: of((round) => round[which].ms.p99),
    p999: of((round) => round[which].ms.p999),
    lateP99: of((round) => round[which].lateP99Ms),
    bad: rounds.reduce((sum, round) => sum + round[which].bad, 0),
  });
  const redisUs = of((round) => round.redisUsPerEvent);
  const median = {
    drainPerS: of((round) => round.drainPerS),
    redisUs,
    processUs: of((round) => round.processUsPerEvent),
    redisCeilingPerS: 1e6 / redisUs,
    half: latency('half'),
    common: latency('common'),
  };
  return { name, what, median, failure, rounds };
}

/** The median. */
export function middle(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

export function machineText(machine: Machine): string {
  return (
    `${machine.date} UTC, commit ${machine.commit}; ${machine.cpu}, ${machine.cores} cores, ` +
    `${machine.memoryGiB} GiB, Linux ${machine.kernel}; Node ${machine.node}, Redis ${machine.redis}, ` +
    `ONNX Runtime ${machine.onnxruntime}; load average before ${machine.loadBefore.toFixed(1)}`
  );
}

/** Markdown, which also reads well in a terminal. `first` is what the ratios are against. */
export function resultsText(machine: Machine, results: readonly Result[], rounds: number): string {
  const first = results.find((result) => result.name === 'subito')?.median ?? null;
  const lines = [
    '# Benchmark results',
    '',
    'Written by `npm run bench`. Figures of one machine, on which everything shares the cores: trust ratios.',
    'A 64-256-128-1 perceptron, 256-byte float32 rows, one private redis-server without persistence.',
    `Medians of ${rounds} interleaved rounds. Each run is checked: every event answered exactly once.`,
    '',
    machineText(machine),
    '',
    '## Drain of a filled stream',
    '',
    ...table(
      ['', 'events/s', 'Subito is', 'Redis us/event', 'process us/event', 'ceiling of one Redis core'],
      results.map(({ name, median, failure }) =>
        median === null
          ? [name, failedText(failure), '', '', '', '']
          : [
              name,
              whole(median.drainPerS),
              first === null || name === 'subito'
                ? ''
                : `${(first.drainPerS / median.drainPerS).toFixed(1)}x`,
              median.redisUs.toFixed(2),
              median.processUs.toFixed(2),
              `${whole(median.redisCeilingPerS)}/s`,
            ],
      ),
    ),
    '',
    ...latencySection('Latency at half of its own drain rate', results, 'half'),
    '',
    ...latencySection('Latency at the same rate', results, 'common'),
    '',
    'Open loop, Poisson arrivals; from the time an event was due to the time its prediction was read from',
    'the stream, in ms. `late` is how late the generator itself was (p99), contained in the figures.',
    '',
    '## Contestants',
    '',
    ...results.map(({ name, what }) => `- **${name}**: ${what}`),
  ];
  return `${lines.join('\n')}\n`;
}

function latencySection(title: string, results: readonly Result[], which: 'half' | 'common'): string[] {
  const rows = results.map(({ name, median }) => {
    if (median === null) return [name, 'failed', '', '', '', '', ''];
    const of = median[which];
    const figures = [of.p50, of.p99, of.p999, of.lateP99].map((ms) => ms.toFixed(2));
    return [name, `${whole(of.ratePerS)}/s`, ...figures, `${of.bad}`];
  });
  return [`## ${title}`, '', ...table(['', 'rate', 'p50', 'p99', 'p99.9', 'late', 'lost, errors'], rows)];
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = head.map((text, i) => Math.max(text.length, ...rows.map((row) => row[i]!.length)));
  // Names to the left, figures to the right.
  const pad = (cell: string, i: number) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!));
  const line = (cells: readonly string[]) => `| ${cells.map(pad).join(' | ')} |`;
  const rules = widths.map((width, i) => `${'-'.repeat(width + 1)}${i === 0 ? '-' : ':'}`);
  return [line(head), `|${rules.join('|')}|`, ...rows.map(line)];
}

const failedText = (failure: string | null) => `failed: ${(failure ?? '').split('\n', 1)[0]}`;
const whole = (value: number) => Math.round(value).toLocaleString('en-US');
