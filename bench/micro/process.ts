/**
 * The processes in which cases are measured: one for each piece and kind of measuring, so that none meets
 * code that V8 has compiled for another.
 *
 *   node [SPACE_FLAGS] bench/micro/process.ts <time|space> <piece> <plan as JSON>      results on standard
 *   output
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { VARIANTS, type Variant } from './case.ts';
import {
  type CaseTime,
  measureSpace,
  measureTime,
  type Space,
  type SpacePlan,
  type TimePlan,
} from './measure.ts';
import { HIDDEN, PIECES } from './pieces.ts';

export interface TimedCase {
  readonly name: string;
  readonly time: CaseTime;
}

export interface SpacedCase {
  readonly name: string;
  readonly unit: string;
  readonly allocatesNothing: boolean;
  readonly space: Readonly<Record<Variant, Space | null>>;
}

/**
 * Megabytes of the young generation: what any window allocates. Compiling beside the work would make the
 * figures depend on when the other thread is done.
 */
const YOUNG_MB = 256;
const SPACE_FLAGS = [
  '--expose-gc',
  `--min-semi-space-size=${YOUNG_MB}`,
  `--max-semi-space-size=${YOUNG_MB}`,
  '--no-concurrent-recompilation',
];

const here = fileURLToPath(import.meta.url);

/** Throws with what the process said when it failed. */
async function inProcess<T>(flags: readonly string[], args: readonly string[]): Promise<T> {
  const child = spawn(process.execPath, [...flags, here, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  if (code !== 0) throw new Error(`measuring ${args.slice(0, 2).join(' ')} ended with ${code ?? signal}`);
  return JSON.parse(text) as T;
}

export function timeInProcess(piece: string, plan: TimePlan): Promise<TimedCase[]> {
  return inProcess([], ['time', piece, JSON.stringify(plan)]);
}

export function spaceInProcess(piece: string, plan: SpacePlan): Promise<SpacedCase[]> {
  return inProcess(SPACE_FLAGS, ['space', piece, JSON.stringify(plan)]);
}

async function main([kind, name, text]: readonly string[]): Promise<void> {
  const piece = [...PIECES, ...HIDDEN].find((one) => one.name === name);
  if (piece === undefined || text === undefined) throw new Error(`no piece ${name}`);
  const found: (TimedCase | SpacedCase)[] = [];
  for (const micro of await piece.load()) {
    if (kind === 'time') {
      found.push({ name: micro.name, time: await measureTime(micro, JSON.parse(text) as TimePlan) });
    } else {
      const space: Record<Variant, Space | null> = { twin: null, native: null };
      for (const variant of VARIANTS) {
        const work = micro.variants[variant];
        if (work !== null) space[variant] = await measureSpace(work, JSON.parse(text) as SpacePlan);
      }
      const { unit = 'event', allocatesNothing = false } = micro;
      found.push({ name: micro.name, unit, allocatesNothing, space });
    }
    micro.close?.();
  }
  process.stdout.write(JSON.stringify(found));
}

if (process.argv[1] === here) await main(process.argv.slice(2));
