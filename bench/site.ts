/** Where a benchmark happens: one private redis-server, and one contestant's process at a time. */

import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../src/redis/embedded.ts';
import { RedisWire } from '../src/redis/wire.ts';

export const MODEL_PATH = new URL('./models/mlp/1/model.onnx', import.meta.url).pathname;
const READY_MS_MAX = 30_000;
/** Linux reports process times in ticks of 10 ms on every architecture. */
const TICK_US = 10_000;

export interface Site {
  readonly redisUrl: string;
  readonly wire: RedisWire;
  /** For configurations and logs; removed at the end. */
  readonly directory: string;
  readonly stop: () => Promise<void>;
}

export async function openSite(): Promise<Site> {
  const directory = mkdtempSync(join(tmpdir(), 'subito-bench-'));
  const port = await freePort();
  const settings = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'];
  const redis = spawn('redis-server', [...settings, '--dir', directory], { stdio: 'ignore' });
  const redisUrl = `redis://127.0.0.1:${port}`;
  let wire: RedisWire | null = null;
  for (let attempt = 0; wire === null; attempt++) {
    try {
      wire = await RedisWire.connect(redisUrl);
    } catch (error) {
      if (attempt > 100 || redis.exitCode !== null) throw error;
      await sleep(50);
    }
  }
  const stop = async () => {
    wire.close();
    redis.kill();
    if (redis.exitCode === null) await once(redis, 'exit');
    rmSync(directory, { recursive: true, force: true });
  };
  return { redisUrl, wire, directory, stop };
}

/** Lines such as `used_memory:123` of INFO. */
export async function redisInfo(wire: RedisWire, section: string): Promise<Map<string, string>> {
  const text = (await wire.call(['INFO', section])) as string;
  const pairs = text.split('\r\n').map((line) => line.split(':', 2));
  return new Map(pairs.filter((pair): pair is [string, string] => pair.length === 2));
}

/** CPU time that the server has used, microseconds. */
export async function redisCpuUs(wire: RedisWire): Promise<number> {
  const info = await redisInfo(wire, 'cpu');
  return (Number(info.get('used_cpu_user')) + Number(info.get('used_cpu_sys'))) * 1e6;
}

/** A contestant's process. */
export class Runner {
  readonly #child: ChildProcess;
  #output = '';

  /** Resolves when `ready` says so. */
  static async start(argv: readonly string[], ready: (output: string) => Promise<boolean>): Promise<Runner> {
    const runner = new Runner(argv);
    const endMs = Date.now() + READY_MS_MAX;
    while (!(await ready(runner.#output))) {
      if (runner.#child.exitCode !== null) throw new Error(`it ended at once:\n${runner.#output}`);
      if (Date.now() > endMs) {
        await runner.stop();
        throw new Error(`not ready in 30 s:\n${runner.#output}`);
      }
      await sleep(50);
    }
    return runner;
  }

  private constructor(argv: readonly string[]) {
    this.#child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'pipe'] });
    const collect = (chunk: Buffer) => {
      // The end of a long complaint is the part that tells.
      this.#output = (this.#output + chunk.toString()).slice(-20_000);
    };
    this.#child.stdout!.on('data', collect);
    this.#child.stderr!.on('data', collect);
  }

  get output(): string {
    return this.#output;
  }

  get ended(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** CPU time of all its threads, microseconds. */
  cpuUs(): number {
    const stat = readFileSync(`/proc/${this.#child.pid}/stat`, 'latin1');
    // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) * TICK_US;
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
    this.#child.kill('SIGCONT');
    this.#child.kill('SIGTERM');
    const exit = once(this.#child, 'exit');
    const killer = setTimeout(() => this.#child.kill('SIGKILL'), 5000);
    await exit;
    clearTimeout(killer);
  }
}
