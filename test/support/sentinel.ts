// A real master with a replica, watched by three real Sentinels.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { freePort } from '../../src/ports.ts';
import { until } from './core.ts';
import { startRedis, type TestRedis, type TestRedisOptions } from './redis.ts';

const HOST = '127.0.0.1';
const SENTINELS = 3;
export const MASTER_NAME = 'music';

/** One Sentinel that watches a master. `lines`: more of sentinel.conf; they may name another port. */
export class Sentinel {
  readonly port: number;
  readonly client: Redis;
  readonly #dir: string;
  readonly #child: ChildProcess;
  readonly #onExit = (): void => {
    this.#child.kill('SIGKILL');
  };

  constructor(port: number, master: TestRedis, lines: readonly string[]) {
    this.port = port;
    this.#dir = mkdtempSync(join(tmpdir(), 'subito-sentinel-'));
    const file = join(this.#dir, 'sentinel.conf');
    const settings = [
      `port ${port}`,
      `bind ${HOST}`,
      `dir ${this.#dir}`,
      `logfile ${join(this.#dir, 'sentinel.log')}`,
      `sentinel monitor ${MASTER_NAME} ${HOST} ${master.port} 2`,
      `sentinel down-after-milliseconds ${MASTER_NAME} 700`,
      `sentinel failover-timeout ${MASTER_NAME} 4000`,
      ...lines,
    ];
    writeFileSync(file, `${settings.join('\n')}\n`);
    this.#child = spawn('redis-server', [file, '--sentinel'], { stdio: 'ignore' });
    process.on('exit', this.#onExit);
    this.client = new Redis({ host: HOST, port, retryStrategy: () => 50 });
    this.client.on('error', () => {});
  }

  get log(): string {
    return readFileSync(join(this.#dir, 'sentinel.log'), 'utf8');
  }

  /** Frozen it neither answers nor refuses. */
  signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    this.#child.kill(name);
  }

  async stop(): Promise<void> {
    this.client.disconnect();
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      const exit = once(this.#child, 'exit');
      this.#child.kill('SIGKILL');
      await exit;
    }
    process.off('exit', this.#onExit);
    rmSync(this.#dir, { recursive: true, force: true });
  }
}

export class TestSentinels {
  /** The master at the start, and its replica. */
  readonly servers: readonly [TestRedis, TestRedis];
  readonly sentinels: readonly Sentinel[];

  constructor(servers: readonly [TestRedis, TestRedis], sentinels: readonly Sentinel[]) {
    this.servers = servers;
    this.sentinels = sentinels;
  }

  /** For `redis.sentinels` of the configuration. */
  get urls(): string[] {
    return this.sentinels.map(({ port }) => `redis://${HOST}:${port}`);
  }

  /** The port of the master, as this sentinel says. */
  async masterPort(sentinel = this.sentinels[0] as Sentinel): Promise<number> {
    const [, port] = (await sentinel.client.call(
      'SENTINEL',
      'GET-MASTER-ADDR-BY-NAME',
      MASTER_NAME,
    )) as string[];
    return Number(port);
  }

  async stop(): Promise<void> {
    await Promise.all([...this.sentinels, ...this.servers].map((each) => each.stop()));
  }
}

/** `lines`: more of sentinel.conf. */
export async function startSentinels(
  options: TestRedisOptions = {},
  lines: readonly string[] = [],
): Promise<TestSentinels> {
  const quick = { 'repl-diskless-sync-delay': '0', ...options.config };
  const master = await startRedis({ ...options, config: quick });
  const replicaConfig = { ...quick, replicaof: `${HOST} ${master.port}` };
  const replica = await startRedis({ ...options, config: replicaConfig });
  const sentinels: Sentinel[] = [];
  for (let i = 0; i < SENTINELS; i += 1) sentinels.push(new Sentinel(await freePort(), master, lines));
  const all = new TestSentinels([master, replica], sentinels);
  try {
    const client = replica.connect();
    await until('the replica is in step', async () =>
      (await client.info('replication')).includes('master_link_status:up'),
    );
    await until(
      'the sentinels know each other and the replica',
      async () => {
        const facts = sentinels.map(async (sentinel) => {
          const reply = await sentinel.client.call('SENTINEL', 'MASTER', MASTER_NAME).catch(() => ({}));
          const map = new Map(Array.isArray(reply) ? pairs(reply) : Object.entries(reply as object));
          return map.get('num-other-sentinels') === `${SENTINELS - 1}` && map.get('num-slaves') === '1';
        });
        return (await Promise.all(facts)).every(Boolean);
      },
      15_000,
    );
    return all;
  } catch (error) {
    await all.stop();
    throw error;
  }
}

function pairs(flat: readonly unknown[]): [string, unknown][] {
  return flat.flatMap((value, i) => (i % 2 === 0 ? [[String(value), flat[i + 1]]] : []));
}
