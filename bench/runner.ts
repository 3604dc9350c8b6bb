/** A process under test: started, watched from outside and inside, stopped. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ProbeQuestion, ProbeReport } from './probe.ts';

const READY_MS_MAX = 30_000;
const ANSWER_MS_MAX = 10_000;
const STOP_MS_MAX = 5_000;
/** Linux reports process times in ticks of 10 ms on every architecture. */
const TICK_US = 10_000;
const PRELOAD = new URL('./preload.ts', import.meta.url).href;

/** Microseconds since the process began. */
export interface CpuTimes {
  readonly userUs: number;
  readonly sysUs: number;
  /** By Linux's number of the thread; of threads that still run. Nanoseconds are counted, not ticks. */
  readonly threadsUs: ReadonlyMap<number, number>;
}

export interface RunnerOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Instead of Node; watched from outside alone. */
  readonly program?: string;
}

export class Runner {
  readonly #child: ChildProcess;
  /** By preload.ts. */
  readonly #isWatched: boolean;
  #output = '';

  /** Resolves when `ready` says so, asked every 50 ms. */
  static async start(
    argv: readonly string[],
    ready: (output: string) => Promise<boolean>,
    options: RunnerOptions = {},
  ): Promise<Runner> {
    const runner = new Runner(argv, options);
    const endMs = Date.now() + READY_MS_MAX;
    while (!(await ready(runner.#output))) {
      // That there is no such program is known a moment later.
      await sleep(50);
      if (runner.ended) throw new Error(`it ended at once:\n${runner.#output}`);
      if (Date.now() > endMs) {
        await runner.stop();
        throw new Error(`not ready in 30 s:\n${runner.#output}`);
      }
    }
    return runner;
  }

  private constructor(argv: readonly string[], { env = {}, program }: RunnerOptions) {
    this.#isWatched = program === undefined;
    const args = this.#isWatched ? ['--import', PRELOAD, ...argv] : argv;
    this.#child = spawn(program ?? process.execPath, args, {
      stdio: ['ignore', 'pipe', 'pipe', ...(this.#isWatched ? (['ipc'] as const) : [])],
      env: { ...process.env, ...env },
    });
    const collect = (chunk: Buffer) => {
      // The end of a long complaint is the part that tells.
      this.#output = (this.#output + chunk.toString()).slice(-20_000);
    };
    this.#child.stdout!.on('data', collect);
    this.#child.stderr!.on('data', collect);
    this.#child.on('error', (error) => collect(Buffer.from(error.message)));
    // It must not outlive a benchmark that is broken off. Only Node is told, and not while it is paused.
    process.on('exit', this.#kill);
    this.#child.once('exit', () => process.off('exit', this.#kill));
  }

  get pid(): number {
    return this.#child.pid!;
  }

  get output(): string {
    return this.#output;
  }

  get ended(): boolean {
    return this.#child.pid === undefined || this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  cpu(): CpuTimes {
    const stat = readFileSync(`/proc/${this.pid}/stat`, 'latin1');
    // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const tasks = `/proc/${this.pid}/task`;
    const threadsUs = new Map<number, number>();
    for (const tid of readdirSync(tasks)) {
      const onCpuNs = readText(`${tasks}/${tid}/schedstat`).split(' ', 1)[0];
      threadsUs.set(Number(tid), Number(onCpuNs) / 1000);
    }
    return { userUs: Number(fields[11]) * TICK_US, sysUs: Number(fields[12]) * TICK_US, threadsUs };
  }

  /** Bytes in memory. */
  residentBytes(): number {
    const line = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${this.pid}/status`, 'latin1'));
    return Number(line?.[1]) * 1024;
  }

  /** Asks preload.ts; it must not be paused. Null for another program than Node, into which nobody sees. */
  async probe(question: ProbeQuestion = 'report'): Promise<ProbeReport | null> {
    if (!this.#isWatched) return null;
    const answer = once(this.#child, 'message', { signal: AbortSignal.timeout(ANSWER_MS_MAX) });
    this.#child.send(question);
    const [report] = await answer;
    return report as ProbeReport;
  }

  /** Stands still while its stream is filled, so that filling and draining do not overlap. */
  pause(): void {
    this.#child.kill('SIGSTOP');
  }

  resume(): void {
    this.#child.kill('SIGCONT');
  }

  async stop(): Promise<void> {
    if (this.ended) return;
    const exit = once(this.#child, 'exit');
    this.#child.kill('SIGCONT');
    this.#child.kill('SIGTERM');
    const killer = setTimeout(this.#kill, STOP_MS_MAX);
    await exit;
    clearTimeout(killer);
  }

  readonly #kill = (): void => {
    this.#child.kill('SIGKILL');
  };
}

/** Empty when the thread is gone. */
function readText(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
