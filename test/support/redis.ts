// A real redis-server for a test: its own process, port and directory. Ends with the test process, at the
// latest.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { freePort } from '../../src/ports.ts';

export interface TestRedisOptions {
  /** Default false: nothing is kept. True: every write is synced, so that a kill loses none. */
  readonly appendonly?: boolean;
  readonly requirepass?: string;
  /** Serves TLS only, with a certificate made for `localhost` and 127.0.0.1. */
  readonly tls?: boolean;
  /** More of redis.conf, such as { maxmemory: '10mb' }. */
  readonly config?: Readonly<Record<string, string>>;
  /** More of the server's environment, such as LD_PRELOAD. */
  readonly env?: Readonly<Record<string, string>>;
}

export interface TestRedis {
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  readonly dir: string;
  /** Path of the certificate to trust; '' without TLS. */
  readonly ca: string;
  /** A new ioredis connection, closed by stop(). */
  connect(): Redis;
  /**
   * SIGKILL: what was not on disk is lost. restart() brings the server back on the same port and directory.
   */
  kill(): Promise<void>;
  restart(): Promise<void>;
  /** Ends it and removes its directory. */
  stop(): Promise<void>;
}

function makeCertificate(dir: string): void {
  const names = 'subjectAltName=DNS:localhost,IP:127.0.0.1';
  const args = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-days',
    '2',
  ];
  const files = ['-keyout', join(dir, 'key.pem'), '-out', join(dir, 'ca.pem')];
  execFileSync('openssl', [...args, ...files, '-subj', '/CN=localhost', '-addext', names], { stdio: 'pipe' });
}

function redisArguments(dir: string, port: number, options: TestRedisOptions): string[] {
  const settings: Record<string, string> = {
    bind: '127.0.0.1',
    port: options.tls ? '0' : String(port),
    dir,
    save: '',
    appendonly: options.appendonly ? 'yes' : 'no',
    appendfsync: 'always',
    logfile: join(dir, 'redis.log'),
    ...(options.requirepass === undefined ? {} : { requirepass: options.requirepass }),
    ...(options.tls
      ? {
          'tls-port': String(port),
          'tls-cert-file': join(dir, 'ca.pem'),
          'tls-key-file': join(dir, 'key.pem'),
          'tls-auth-clients': 'no',
        }
      : {}),
    ...options.config,
  };
  return Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]);
}

class Server implements TestRedis {
  readonly port: number;
  readonly dir: string;
  readonly url: string;
  readonly ca: string;
  readonly #options: TestRedisOptions;
  readonly #connections = new Set<Redis>();
  #child: ChildProcess | undefined;
  readonly #onExit = (): void => {
    this.#child?.kill('SIGKILL');
  };

  constructor(port: number, options: TestRedisOptions) {
    this.port = port;
    this.#options = options;
    this.dir = mkdtempSync(join(tmpdir(), 'subito-redis-'));
    if (options.tls) makeCertificate(this.dir);
    this.ca = options.tls ? join(this.dir, 'ca.pem') : '';
    const password = options.requirepass === undefined ? '' : `:${encodeURIComponent(options.requirepass)}@`;
    this.url = `${options.tls ? 'rediss' : 'redis'}://${password}127.0.0.1:${port}`;
    process.on('exit', this.#onExit);
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  connect(): Redis {
    const redis = this.#open();
    this.#connections.add(redis);
    return redis;
  }

  #open(retry = true): Redis {
    const redis = new Redis(this.url, {
      ...(this.ca === '' ? {} : { tls: { ca: readFileSync(this.ca, 'utf8') } }),
      ...(retry ? {} : { retryStrategy: () => null, maxRetriesPerRequest: 0, lazyConnect: true }),
    });
    // A test kills servers on purpose: a lost connection shows in the command that fails.
    redis.on('error', () => undefined);
    return redis;
  }

  async restart(): Promise<void> {
    const child = spawn('redis-server', redisArguments(this.dir, this.port, this.#options), {
      stdio: 'ignore',
      env: { ...process.env, ...this.#options.env },
    });
    this.#child = child;
    let failure: string | undefined;
    child.once('error', (error) => {
      failure = error.message;
    });
    child.once('exit', (code) => {
      failure ??= `exit code ${code}`;
    });
    const giveUpAt = performance.now() + 15_000;
    for (;;) {
      const probe = this.#open(false);
      // ioredis is ready only when the server has loaded its data.
      const pong = await probe.connect().then(
        () => probe.ping(),
        () => '',
      );
      probe.disconnect();
      if (pong === 'PONG' && failure === undefined) return;
      if (failure !== undefined || performance.now() > giveUpAt) break;
      await sleep(10);
    }
    child.kill('SIGKILL');
    const log = readFileSync(join(this.dir, 'redis.log'), 'utf8');
    throw new Error(`redis-server did not start: ${failure ?? 'no answer'}\n${log}`);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.kill('SIGKILL');
    await exit;
  }

  async stop(): Promise<void> {
    for (const redis of this.#connections) redis.disconnect();
    await this.kill();
    process.off('exit', this.#onExit);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Starts a server and waits until it answers. Stop it in afterAll or afterEach. */
export async function startRedis(options: TestRedisOptions = {}): Promise<TestRedis> {
  for (let attempt = 1; ; attempt++) {
    const server = new Server(await freePort(), options);
    try {
      await server.restart();
      return server;
    } catch (error) {
      await server.stop();
      // The free port was taken in between.
      if (attempt === 3 || !String(error).includes('Address already in use')) throw error;
    }
  }
}
