/**
 * Where a benchmark happens: one private redis-server, and a directory for what is written meanwhile. While
 * it is open, SIGINT and SIGTERM end the process by `exit`, on which all clear away what they have started.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../src/ports.ts';
import { RedisWire } from '../src/redis/wire.ts';

export const MODEL_PATH = new URL('./models/mlp/1/model.onnx', import.meta.url).pathname;
const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

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
  // Also when the benchmark ends in the middle: nothing is left behind.
  const clear = () => {
    // It has nothing to save.
    redis.kill('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  };
  process.once('exit', clear);
  for (const signal of SIGNALS) process.on(signal, exitOf);
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
    process.off('exit', clear);
    for (const signal of SIGNALS) process.off(signal, exitOf);
    rmSync(directory, { recursive: true, force: true });
  };
  return { redisUrl, wire, directory, stop };
}

/** With the status that a shell gives to a process that a signal has ended. */
function exitOf(_signal: string, number: number): void {
  process.exit(128 + number);
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
