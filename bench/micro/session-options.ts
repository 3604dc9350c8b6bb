/**
 * Which session options serve best? Runs each model with one option changed at a time, all variants in turn,
 * and prints how long a run takes and how much processor time it costs, against the engine's defaults.
 *
 *   node bench/micro/session-options.ts [seconds per variant and batch size] [model]
 *
 * What ONNX Runtime's own threads gain in one run, they take from the other workers: where all processors are
 * busy, processor time is what counts. `defaults` stands there twice: what lies between the two is noise.
 */
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import type { SessionSettings } from '../../src/infer/protocol.ts';
import { providerSpec, SESSION_DEFAULTS, sessionOptions } from '../../src/infer/providers.ts';

type Change = Partial<SessionSettings>;

type Variant = readonly [name: string, change: Change];
const VARIANTS: readonly Variant[] = [
  ['defaults', {}],
  ['cpu_arena false', { cpuArena: false }],
  ['memory_pattern false', { memoryPattern: false }],
  ['cpu_arena, memory_pattern false', { cpuArena: false, memoryPattern: false }],
  ['optimization disabled', { optimization: 'disabled' }],
  ['optimization basic', { optimization: 'basic' }],
  ['optimization extended', { optimization: 'extended' }],
  ['optimization layout', { optimization: 'layout' }],
  ['denormals as zero', { config: { 'session.set_denormal_as_zero': '1' } }],
  ['defaults again', {}],
  ['intra_op_threads 2', { intraOpThreads: 2 }],
  ['intra_op_threads 2, affinity 2', { intraOpThreads: 2, affinity: '2' }],
  ['inter_op_threads 2, parallel', { interOpThreads: 2, execution: 'parallel' }],
];
/** Apart from the others: threads that spin go on for longer than one would think. */
const SPINNING: readonly Variant[] = [
  ['defaults', {}],
  ['intra_op_threads 2, spinning', { intraOpThreads: 2, spinning: true }],
];

const MODELS = [
  { name: 'mlp', path: '../models/mlp/1/model.onnx', rows: [[1], [32], [256], mixed(256)] },
  { name: 'next-track', path: '../../models/next-track/1/model.onnx', rows: [[1], [16], [64], mixed(64)] },
  { name: 'encoder', path: '../gpu/models/encoder/1/model.onnx', rows: [[1], [8], [32], mixed(32)] },
];

/** Batch sizes as they come in an engine with something to do: all of them, in no order. */
function mixed(most: number): number[] {
  return Array.from({ length: 61 }, (_, i) => 1 + ((i * 7919) % most));
}

interface Contestant {
  readonly name: string;
  readonly session: InferenceSession;
  readonly loadMs: number;
  wallMs: number[];
  cpuMs: number;
}

const SLICE_MS = 20;
const SPIN_MS = 200;

/** Zeros serve: none of the models' times depends on values. */
function feeds(session: InferenceSession, rows: number): Record<string, Tensor> {
  return Object.fromEntries(
    session.inputMetadata.map((input) => {
      if (!input.isTensor) throw new Error(`${input.name} is no tensor`);
      const dims = input.shape.map((dim) => (typeof dim === 'number' ? dim : rows));
      const size = dims.reduce((total, dim) => total * dim, 1);
      const data = input.type === 'int64' ? new BigInt64Array(size) : new Float32Array(size);
      return [input.name, new Tensor(input.type, data as never, dims)];
    }),
  );
}

async function open(path: string, name: string, change: Change): Promise<Contestant> {
  const began = performance.now();
  const options = sessionOptions(providerSpec('cpu'), { ...SESSION_DEFAULTS, ...change }, 0);
  const session = await InferenceSession.create(path, options);
  return { name, session, loadMs: performance.now() - began, wallMs: [], cpuMs: 0 };
}

/** In turn, a slice of time each, so that what else the machine does meets all of them. */
async function compare(
  contestants: readonly Contestant[],
  rows: readonly number[],
  seconds: number,
): Promise<void> {
  const inputs = rows.map((n) => feeds(contestants[0]!.session, n));
  for (const one of contestants) {
    Object.assign(one, { wallMs: [], cpuMs: 0 });
    for (const input of inputs) await one.session.run(input);
  }
  for (let slice = 0; slice < Math.max(1, (seconds * 1000) / SLICE_MS); slice++) {
    for (const one of contestants) {
      const before = process.cpuUsage();
      const end = performance.now() + SLICE_MS;
      do {
        const began = performance.now();
        await one.session.run(inputs[one.wallMs.length % inputs.length]!);
        one.wallMs.push(performance.now() - began);
      } while (performance.now() < end);
      const { user, system } = process.cpuUsage(before);
      one.cpuMs += (user + system) / 1000;
      await sleep(one.name.includes('spinning') ? SPIN_MS : 0);
    }
  }
}

function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)] ?? Number.NaN;
}

function report(contestants: readonly Contestant[]): void {
  const figures = contestants.map(({ name, wallMs, cpuMs, loadMs }) => {
    const sorted = wallMs.toSorted((a, b) => a - b);
    return {
      name,
      p50: quantile(sorted, 0.5),
      p99: quantile(sorted, 0.99),
      cpu: cpuMs / wallMs.length,
      loadMs,
    };
  });
  const [base] = figures;
  console.log(
    '| variant | p50 us | p99 us | CPU us | p50 against defaults | CPU against defaults | load ms |',
  );
  console.log('| --- | ---: | ---: | ---: | ---: | ---: | ---: |');
  for (const { name, p50, p99, cpu, loadMs } of figures) {
    const us = (ms: number) => (ms * 1000).toFixed(0);
    const against = [p50 / base!.p50, cpu / base!.cpu].map((ratio) => ratio.toFixed(2));
    const cells = [name, us(p50), us(p99), us(cpu), ...against, loadMs.toFixed(0)];
    console.log(`| ${cells.join(' | ')} |`);
  }
}

const seconds = Number(process.argv[2] ?? 1);
const wanted = process.argv[3];
console.log(`${cpus()[0]?.model}, ${cpus().length} processors, Node ${process.version}; ${seconds} s each`);
for (const { name, path, rows } of MODELS) {
  if (wanted !== undefined && wanted !== name) continue;
  const file = fileURLToPath(new URL(path, import.meta.url));
  for (const variants of [VARIANTS, SPINNING]) {
    const contestants: Contestant[] = [];
    for (const [variant, change] of variants) contestants.push(await open(file, variant, change));
    for (const sizes of rows) {
      await compare(contestants, sizes, seconds);
      const size = sizes.length > 1 ? `1 to ${Math.max(...sizes)}` : sizes[0];
      console.log(`\n${name}, ${size} ${size === 1 ? 'row' : 'rows'}\n`);
      report(contestants);
    }
    for (const { session } of contestants) await session.release();
  }
}
