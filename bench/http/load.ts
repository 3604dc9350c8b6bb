/** The load, from a process of its own; load-process.ts is the other side. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Server } from './server.ts';

/** A closed loop: each connection asks again as soon as it is answered. */
export interface ClosedPlan {
  readonly kind: 'closed';
  readonly url: string;
  readonly bodies: readonly string[];
  readonly connections: number;
  readonly warmupS: number;
  readonly seconds: number;
}

/** An open loop: requests fall due at a rate, whatever becomes of them. */
export interface OpenPlan {
  readonly kind: 'open';
  readonly url: string;
  readonly bodies: readonly string[];
  readonly connections: number;
  readonly ratePerS: number;
  readonly warmupS: number;
  readonly seconds: number;
  readonly seed: number;
}

export interface LoadFigures {
  /** Answers with status 200, after the warm-up. */
  readonly answered: number;
  readonly perS: number;
  /** Milliseconds. In the open loop from the time a request was due. */
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  /** Other answers, connections lost, requests without an answer. */
  readonly errors: number;
  /** The generator's own processor time, of one core. */
  readonly generatorShare: number;
}

/** What the process says. */
export type LoadMessage =
  | { readonly say: 'begun' }
  /** The measured time is over; what is on its way may still come. */
  | { readonly say: 'ended' }
  | { readonly say: 'done'; readonly figures: LoadFigures }
  | { readonly say: 'failed'; readonly why: string };

export interface Measured extends LoadFigures {
  /** Of the server and all its processes, per answer, microseconds. */
  readonly cpuUs: number;
}

const PROCESS = new URL('./load-process.ts', import.meta.url).pathname;
/** Beyond the time of the plan. */
const LATE_MS_MAX = 60_000;

/** Throws when the process fails. */
export async function load(plan: ClosedPlan | OpenPlan, server: Server): Promise<Measured> {
  const child = spawn(process.execPath, [PROCESS], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const late = setTimeout(() => child.kill('SIGKILL'), (plan.warmupS + plan.seconds) * 1000 + LATE_MS_MAX);
  const exit = once(child, 'exit');
  let cpuUs = Number.NaN;
  let measured: Measured | null = null;
  let failure = 'it ended without a word';
  child.on('message', (message: LoadMessage) => {
    if (message.say === 'begun') cpuUs = -server.cpuUs();
    else if (message.say === 'ended') cpuUs += server.cpuUs();
    else if (message.say === 'failed') failure = message.why;
    else measured = { ...message.figures, cpuUs: cpuUs / message.figures.answered };
  });
  child.send(plan);
  await exit;
  clearTimeout(late);
  if (measured === null) throw new Error(`the load process failed: ${failure}`);
  return measured;
}
