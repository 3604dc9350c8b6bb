/**
 * The control connection: everything said to Redis that is not hot. Reading, committing and following have
 * connections of their own, because a waiting XREADGROUP or a long script would hold up whatever comes behind
 * it.
 */
import { Redis } from 'ioredis';
import { messageOf, SubitoError } from '../errors.ts';
import { notice } from '../observe/channels.ts';
import type { StreamBacklog } from '../observe/sources.ts';
import type { RedisEndpoint } from './endpoint.ts';
import { loadScript } from './scripts.ts';

export interface Control {
  /**
   * Makes the stream and its consumer group where they are missing; a new group starts at the stream's
   * beginning.
   */
  createGroup(stream: string, group: string): Promise<void>;
  /** Id of the last entry; '0' for an empty or missing stream. */
  lastId(stream: string): Promise<string>;
  /**
   * Appends an entry; resolves with its id. Never sent twice: after a lost connection the outcome is an
   * error.
   */
  append(stream: string, fields: readonly (string | Buffer)[]): Promise<string>;
  backlog(stream: string, group: string): Promise<StreamBacklog>;
  /** One command on one key; resolves with what ioredis makes of the reply (RESP3), strings as UTF-8. */
  call(command: string, key: string, ...args: readonly (string | number | Buffer)[]): Promise<unknown>;
  /** The same with strings as Buffers. */
  callBuffer(command: string, key: string, ...args: readonly (string | number | Buffer)[]): Promise<unknown>;
  /** Runs lua/NAME.lua; all keys lie in one slot. */
  script(
    name: string,
    keys: readonly string[],
    args: readonly (string | number | Buffer)[],
  ): Promise<unknown>;
  unblock(clientId: string): void;
  close(): void;
}

export interface ControlOptions {
  readonly endpoint: RedisEndpoint;
  /** A command not answered by then is an error. */
  readonly commandMsMax: number;
  /** Aborted while it connects: that is given up. */
  readonly signal?: AbortSignal | undefined;
}

/** A connect, with its TLS handshake, that has not finished by then is given up. */
const CONNECT_MS_MAX = 5_000;

/**
 * Connects and checks that the server is one that Subito can use. Rejects with REDIS_UNREACHABLE or
 * REDIS_TOO_OLD.
 */
export async function connectControl({ endpoint, commandMsMax, signal }: ControlOptions): Promise<Control> {
  const { host, port, path, username, password, db, tls } = endpoint;
  const redis = new Redis({
    ...(path === null ? { host, port } : { path }),
    db,
    ...(username === '' ? {} : { username }),
    ...(password === '' ? {} : { password }),
    ...(tls === null ? {} : { tls }),
    connectionName: 'subito:control',
    lazyConnect: true,
    // An XADD whose answer was lost must not be sent again: the caller decides.
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    commandTimeout: commandMsMax,
    connectTimeout: CONNECT_MS_MAX,
    // It is a replica now: a new connection asks again where the name leads.
    reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
    retryStrategy: (attempt: number) => Math.min(1000, 20 * 2 ** attempt),
  });
  let reason: Error | undefined;
  let started = false;
  redis.on('error', (error: Error) => {
    reason = error;
    notice('warn', 'CONTROL_DISCONNECTED', error.message);
    // ioredis would go on in database 0, which is somebody else's.
    if (isSelectRefused(error)) redis.disconnect(started);
  });
  const giveUp = () => redis.disconnect();
  signal?.addEventListener('abort', giveUp);
  try {
    await redis.connect();
    await checkServer(redis);
    started = true;
  } catch (cause) {
    redis.disconnect();
    if (cause instanceof SubitoError) throw cause;
    const where = path ?? `${host}:${port}`;
    const text = unreachable(reason ?? cause, endpoint);
    throw new SubitoError('REDIS_UNREACHABLE', `cannot use Redis at ${where}: ${text}`, { cause });
  } finally {
    signal?.removeEventListener('abort', giveUp);
  }
  return controlOf(redis);
}

/** An error reply names its command. */
function isSelectRefused(error: Error & { readonly command?: { readonly name: string } }): boolean {
  return error.command?.name === 'select';
}

function unreachable(reason: unknown, { db, tls }: RedisEndpoint): string {
  const text = messageOf(reason);
  if (reason instanceof Error && isSelectRefused(reason)) return `database ${db}: ${text}`;
  const code = String((reason as NodeJS.ErrnoException).code);
  // A server without TLS waits for the end of what it takes for a command, or hangs up.
  const noHandshake = tls !== null && /^(ETIMEDOUT|ECONNRESET|EPROTO|ERR_SSL_)/.test(code);
  return noHandshake ? `${text}; it may not speak TLS there, which rediss:// asks for` : text;
}

/**
 * Scripts rely on `#!lua` (refused as a whole under OOM), and backlog on a group's lag: both came with 7.0.
 */
const SERVER_MAJOR_MIN = 7;

async function checkServer(redis: Redis): Promise<void> {
  const version = /redis_version:(\S+)/.exec(await redis.info('server'))?.[1] ?? '';
  if (Number.parseInt(version, 10) >= SERVER_MAJOR_MIN) return;
  throw new SubitoError(
    'REDIS_TOO_OLD',
    `Redis is version ${version || 'unknown'}; ${SERVER_MAJOR_MIN}.0 is needed`,
  );
}

// tidy: one small function per command, in one table.
function controlOf(redis: Redis): Control {
  return {
    async createGroup(stream, group) {
      try {
        await redis.xgroup('CREATE', stream, group, '0', 'MKSTREAM');
      } catch (error) {
        const message = messageOf(error);
        if (message.startsWith('BUSYGROUP')) return;
        // What passes (a lost connection, LOADING) is retryable; a key of the wrong type or a missing right
        // is not.
        if (!/^(WRONGTYPE|NOPERM)/.test(message)) throw error;
        throw new SubitoError('STREAM_UNUSABLE', `${stream}: ${message}`, { cause: error });
      }
    },
    async lastId(stream) {
      const [last] = await redis.xrevrange(stream, '+', '-', 'COUNT', 1);
      return last?.[0] ?? '0';
    },
    async append(stream, fields) {
      try {
        return (await redis.xadd(stream, '*', ...fields)) as string;
      } catch (cause) {
        throw new SubitoError('APPEND_FAILED', `${stream}: ${(cause as Error).message}`, { cause });
      }
    },
    async backlog(stream, group) {
      try {
        const groups = (await redis.xinfo('GROUPS', stream)) as unknown[];
        for (const found of groups) {
          const info = asRecord(found);
          if (info['name'] !== group) continue;
          return { stream, unread: asCount(info['lag']), pending: asCount(info['pending']) };
        }
      } catch {
        // Not known is an answer too: the gauge is then absent.
      }
      return { stream, unread: null, pending: null };
    },
    call: (command, key, ...args) => redis.call(command, key, ...args),
    callBuffer: (command, key, ...args) => redis.callBuffer(command, key, ...args),
    async script(name, keys, args) {
      const { sha, text } = loadScript(name);
      try {
        return await redis.evalsha(sha, keys.length, ...keys, ...args);
      } catch (error) {
        if (!messageOf(error).startsWith('NOSCRIPT')) throw error;
        return redis.eval(text, keys.length, ...keys, ...args);
      }
    },
    unblock(clientId) {
      redis.client('UNBLOCK', clientId).catch(() => {});
    },
    close() {
      redis.disconnect();
    },
  };
}

function asCount(value: unknown): number | null {
  return typeof value === 'number' ? value : null;
}

/** RESP2 sends a map as a flat list, RESP3 as a map. */
function asRecord(value: unknown): Record<string, unknown> {
  if (!Array.isArray(value)) return value as Record<string, unknown>;
  const record: Record<string, unknown> = {};
  for (let i = 0; i + 1 < value.length; i += 2) record[String(value[i])] = value[i + 1];
  return record;
}
