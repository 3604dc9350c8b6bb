/**
 * The open loop from a process of its own: events are added when they are due, whatever becomes of them, and
 * their predictions may be watched. This is the benchmark's side; generator-process.ts is the other.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';

export interface GeneratorPlan {
  readonly redisUrl: string;
  readonly stream: string;
  readonly predictions: string;
  /** Names the events: differs from run to run. */
  readonly batch: string;
  readonly ratePerS: number;
  /** Measured time, after the warm-up. */
  readonly seconds: number;
  readonly warmupS: number;
  /**
   * Watch the predictions too: latency, and each event answered once. It costs Redis an XREAD of them all.
   */
  readonly observe: boolean;
  /** Arrivals closer together than this go out in one write. */
  readonly gapMs: number;
  readonly seed: number;
}

export interface LatencyFigures {
  readonly count: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

export interface GeneratorReport {
  /** Events that were due, and that were sent, until the end of the time. */
  readonly due: number;
  readonly sent: number;
  /** The generator's own processor time per event. */
  readonly cpuUs: number;
  /** How late events were sent, ms: the generator's doing, or a Redis that did not take them. */
  readonly late: LatencyFigures | null;
  /** From the time an event was due to the time its prediction was read, ms. Null: not watched. */
  readonly latency: LatencyFigures | null;
  /** Latency in ms at percentiles, for a plot. */
  readonly curve: readonly (readonly [percent: number, ms: number])[];
  /** Watched events that had no prediction, and that had more than one. */
  readonly missing: number;
  readonly duplicates: number;
}

/** What the process says. */
export type GeneratorMessage =
  | { readonly say: 'started' }
  | { readonly say: 'done'; readonly report: GeneratorReport }
  | { readonly say: 'failed'; readonly why: string };

const PROCESS = new URL('./generator-process.ts', import.meta.url).pathname;

/** `onStart` is called when the first event is due. Rejects when the process fails. */
export async function generate(
  plan: GeneratorPlan,
  onStart: () => void = () => {},
): Promise<GeneratorReport> {
  const child = spawn(process.execPath, [PROCESS, JSON.stringify(plan)], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  let last: GeneratorMessage | null = null;
  child.on('message', (message: GeneratorMessage) => {
    last = message;
    if (message.say === 'started') onStart();
  });
  await once(child, 'exit');
  const end = last as GeneratorMessage | null;
  if (end?.say === 'done') return end.report;
  throw new Error(`the generator ${end?.say === 'failed' ? `failed: ${end.why}` : 'ended too early'}`);
}
