// A private redis-server beside the engine, for trying things out and for machines that have no Redis.
//
// It runs in a process group of its own: Ctrl-C in a terminal reaches the whole foreground group, and Redis
// must outlive the engine's own stop, which still commits. The price is that it also outlives an engine that
// was killed. So its directory says on which port it runs, and the next start with that directory adopts it.
// Who owns it is told by a named connection that the engine holds open: unlike a pid in a file, that ends
// when the engine ends, however it ends. A server that ends before its engine is started again: keeper.ts.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, readFile, realpath, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { SubitoError } from '../errors.ts';
import { freePort } from '../ports.ts';
import { isAlive, Keeper, type Served } from './keeper.ts';

export interface EmbeddedOptions {
  /** 0: any free port, or the one of the server that is adopted. */
  readonly port: number;
  /** Where its data, log and port file are; made if it is not there. */
  readonly dir: string;
  /**
   * Default true: every write survives a crash of the machine but for the last second. False: nothing is
   * kept.
   */
  readonly appendonly?: boolean;
  /** How long to wait for the server, loading its data included. Default 60 s. */
  readonly startMsMax?: number;
  /** How long a graceful stop may take before SIGKILL. Default 10 s. */
  readonly stopMsMax?: number;
  /** Default: redis-server on PATH. */
  readonly binary?: string;
  /** Aborted: the start is given up, with nothing left behind. */
  readonly signal?: AbortSignal | undefined;
}

export interface EmbeddedRedis {
  readonly url: string;
  readonly port: number;
  /** Another one after a restart. */
  readonly pid: number;
  /** It was still running from an engine that did not stop it. */
  readonly adopted: boolean;
  /** Saves and ends the server; SIGKILL after stopMsMax. May be called twice. */
  stop(): Promise<void>;
}

const OWNER_NAME = 'subito-owner';
const PORT_FILE = 'subito-redis.port';
const LOG_FILE = 'redis.log';
/** Of the server before: a crash report must outlive the restart. */
const LAST_LOG_FILE = 'redis.last.log';
/** A free port can be taken by another process before Redis binds it: then the next one is tried. */
const PORT_ATTEMPTS_MAX = 5;
const START_MS_MAX = 60_000;
const STOP_MS_MAX = 10_000;
const POLL_MS = 20;
/** A server on loopback that is well answers within microseconds, a loading one between two pieces. */
const ANSWER_MS_MAX = 2000;

/** Starts or adopts the server of `dir`. Throws REDIS_MISSING, _PORT_BUSY, _DIR_IN_USE or _START_FAILED. */
export async function startEmbedded(options: EmbeddedOptions): Promise<EmbeddedRedis> {
  const dir = await makeDir(options.dir);
  const { served, port } = await open(dir, options);
  const keeper = new Keeper({
    dir,
    served,
    open: async (signal) => (await open(dir, { ...options, port, signal })).served,
    end: ({ owner, pid }) => endServer(owner, pid, options.stopMsMax ?? STOP_MS_MAX),
  });
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    get pid() {
      return keeper.pid;
    },
    adopted: served.child === null,
    stop: () => keeper.stop(),
  };
}

async function open(
  dir: string,
  options: EmbeddedOptions,
): Promise<{ readonly served: Served; readonly port: number }> {
  const orphan = await findRunning(dir);
  if (orphan !== undefined) {
    const { owner, port } = orphan;
    if (options.port === 0 || options.port === port) return { served: await own(owner, null, options), port };
    // It serves the same data on a port that nobody asked for any more.
    await endServer(owner, await serverPid(owner), options.stopMsMax ?? STOP_MS_MAX);
  }
  for (let attempt = 1; ; attempt++) {
    const port = options.port === 0 ? await freePort() : options.port;
    try {
      const { owner, child } = await launch(dir, port, options);
      return { served: await own(owner, child, options), port };
    } catch (error) {
      const isTaken = error instanceof SubitoError && error.code === 'REDIS_PORT_BUSY';
      if (!isTaken || options.port !== 0 || attempt === PORT_ATTEMPTS_MAX) throw error;
    }
  }
}

async function makeDir(dir: string): Promise<string> {
  try {
    await mkdir(dir, { recursive: true });
    return await realpath(dir);
  } catch (cause) {
    throw new SubitoError('REDIS_START_FAILED', `cannot make ${dir} for the embedded Redis`, {
      cause,
      fix: 'give redis.embedded.dir a directory that can be written to',
    });
  }
}

/** A connection that makes one attempt and neither reconnects nor resends. Not yet open. */
function connection(port: number): Redis {
  return new Redis({
    host: '127.0.0.1',
    port,
    lazyConnect: true,
    // A server that is loading answers INFO, CONFIG and CLIENT: enough to know whose it is.
    enableReadyCheck: false,
    connectTimeout: ANSWER_MS_MAX,
    // Its timer runs on after a server that ended by itself, and would keep the process.
    disconnectTimeout: 50,
    commandTimeout: ANSWER_MS_MAX,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
}

/**
 * Opens it and asks for the server's directory. Rejects with the reason, which ioredis tells by an event
 * only.
 */
async function openAndAskDir(redis: Redis): Promise<string | undefined> {
  let reason: Error | undefined;
  redis.on('error', (error: Error) => {
    reason ??= error;
  });
  try {
    await redis.connect();
    const reply: unknown = await redis.config('GET', 'dir');
    // RESP2 gives a list, RESP3 a map.
    const pairs = Array.isArray(reply) ? reply : Object.entries(reply as object).flat();
    return typeof pairs[1] === 'string' ? pairs[1] : undefined;
  } catch (error) {
    throw reason ?? error;
  }
}

async function serverPid(redis: Redis): Promise<number> {
  return Number(/process_id:(\d+)/.exec(await redis.info('server'))?.[1]);
}

/** The port that the server of `dir` was last given; null where there was none. It need not run any more. */
export async function embeddedPort(dir: string): Promise<number | null> {
  const port = Number(await readFile(join(dir, PORT_FILE), 'utf8').catch(() => ''));
  return Number.isInteger(port) && port >= 1 && port <= 65_535 ? port : null;
}

interface Running {
  readonly owner: Redis;
  readonly port: number;
}

/** The server that already runs on `dir`, if the port file names one and it really is that one. */
async function findRunning(dir: string): Promise<Running | undefined> {
  const port = await embeddedPort(dir);
  if (port === null) return undefined;
  const owner = connection(port);
  try {
    // The port may have gone to somebody else's Redis, or to something that is no Redis at all.
    if ((await openAndAskDir(owner)) !== dir) throw new Error('another server');
    const clients = String(await owner.client('LIST'));
    const other = new RegExp(`name=${OWNER_NAME}-(\\d+)`).exec(clients);
    if (other) {
      throw new SubitoError('REDIS_DIR_IN_USE', `process ${other[1]} runs an embedded Redis in ${dir}`);
    }
    return { owner, port };
  } catch (error) {
    owner.disconnect();
    if (error instanceof SubitoError) throw error;
    if (!/timed out|ETIMEDOUT/i.test(String(error))) return undefined;
    // It may be our own server, stopped or stuck; a second one would write into the same files.
    throw new SubitoError(
      'REDIS_START_FAILED',
      `port ${port}, which ${dir} names, is open but does not answer`,
      {
        cause: error,
        fix:
          'end the process that listens there; ' +
          `if it is not a redis-server, remove ${join(dir, PORT_FILE)}`,
      },
    );
  }
}

/** Starts a server and returns a connection to it; what it says goes to redis.log. */
async function launch(
  dir: string,
  port: number,
  options: EmbeddedOptions,
): Promise<{ readonly owner: Redis; readonly child: ChildProcess }> {
  // Before the server runs: an engine killed in between leaves a port file, never a server that nobody finds.
  await writeFile(join(dir, PORT_FILE), `${port}\n`);
  await rename(join(dir, LOG_FILE), join(dir, LAST_LOG_FILE)).catch(() => {});
  const appendonly = options.appendonly ?? true;
  const settings = {
    bind: '127.0.0.1',
    port: String(port),
    dir,
    appendonly: appendonly ? 'yes' : 'no',
    appendfsync: 'everysec',
    save: '',
    logfile: join(dir, LOG_FILE),
  };
  const args = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]);
  const binary = options.binary ?? 'redis-server';
  const child = spawn(binary, args, { detached: true, stdio: 'ignore' });
  let ended: { reason: string; cause?: NodeJS.ErrnoException } | undefined;
  const end = Promise.withResolvers<undefined>();
  child.once('error', (cause: NodeJS.ErrnoException) => {
    ended = { reason: cause.message, cause };
    end.resolve(undefined);
  });
  child.once('exit', (code, signal) => {
    ended ??= { reason: `it ended with ${signal ?? `exit code ${code}`}` };
    end.resolve(undefined);
  });
  child.unref();

  const startMsMax = options.startMsMax ?? START_MS_MAX;
  const giveUpAt = performance.now() + startMsMax;
  while (ended === undefined && performance.now() < giveUpAt && !options.signal?.aborted) {
    const owner = connection(port);
    // Something else may listen there and never answer, while Redis finds out that the port is taken.
    const served = await Promise.race([openAndAskDir(owner).catch(() => undefined), end.promise]);
    if (served === dir) return { owner, child };
    owner.disconnect();
    await sleep(POLL_MS);
  }
  if (ended === undefined) {
    child.kill('SIGKILL');
    const reason = options.signal?.aborted
      ? 'it was told to stop'
      : `it did not answer within ${startMsMax} ms`;
    ended = { reason };
  }
  throw await startFailure(binary, dir, port, ended.reason, ended.cause);
}

async function startFailure(
  binary: string,
  dir: string,
  port: number,
  reason: string,
  cause: NodeJS.ErrnoException | undefined,
): Promise<SubitoError> {
  if (cause?.code === 'ENOENT') {
    return new SubitoError('REDIS_MISSING', `${binary} is not installed or not on PATH`, { cause });
  }
  const log = await readFile(join(dir, LOG_FILE), 'utf8').catch(() => '');
  if (/Address already in use/i.test(log)) {
    return new SubitoError('REDIS_PORT_BUSY', `port ${port} of 127.0.0.1 is taken`, { detail: { port } });
  }
  const said = log.trim().split('\n').slice(-3).join(' | ');
  const message = `redis-server did not start in ${dir}: ${reason}${said === '' ? '' : `; it said: ${said}`}`;
  return new SubitoError('REDIS_START_FAILED', message, { cause });
}

/** Takes the server over: waits until it has loaded its data, then names the connection that says so. */
async function own(owner: Redis, child: ChildProcess | null, options: EmbeddedOptions): Promise<Served> {
  await owner.client('SETNAME', `${OWNER_NAME}-${process.pid}`);
  const startMsMax = options.startMsMax ?? START_MS_MAX;
  const giveUpAt = performance.now() + startMsMax;
  while (/loading:1/.test(await owner.info('persistence'))) {
    if (options.signal?.aborted) {
      await endServer(owner, await serverPid(owner), options.stopMsMax ?? STOP_MS_MAX);
      throw new SubitoError(
        'REDIS_START_FAILED',
        'the embedded Redis was told to stop while it loaded its data',
      );
    }
    if (performance.now() > giveUpAt) {
      owner.disconnect();
      const message = `the embedded Redis in ${options.dir} still loads its data after ${startMsMax} ms`;
      throw new SubitoError('REDIS_START_FAILED', message, { fix: 'start again: loading goes on meanwhile' });
    }
    await sleep(POLL_MS);
  }
  return { owner, pid: await serverPid(owner), child };
}

/**
 * SHUTDOWN writes and syncs the append-only file. An adopted server is no child of ours: its pid is polled.
 */
async function endServer(owner: Redis, pid: number, stopMsMax: number): Promise<void> {
  const giveUpAt = performance.now() + stopMsMax;
  // The reply to SHUTDOWN is the end of the connection; a server that hangs does not even give that.
  await Promise.race([owner.shutdown().catch(() => undefined), sleep(stopMsMax, undefined, { ref: false })]);
  owner.disconnect();
  while (isAlive(pid)) {
    if (performance.now() > giveUpAt) {
      process.kill(pid, 'SIGKILL');
      return;
    }
    await sleep(POLL_MS);
  }
}
