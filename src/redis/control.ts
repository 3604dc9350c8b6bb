/**
 * The control connection: everything said to Redis that is not hot. Reading, committing and following have
 * connections of their own, because a waiting XREADGROUP or a long script would hold up whatever comes behind
 * it.
 */
import { messageOf, SubitoError } from '../errors.ts';
import type { StreamBacklog } from '../observe/sources.ts';
import type { RedisEndpoint } from './endpoint.ts';
import { ledgerKey } from './keys.ts';
import { loadScript } from './scripts.ts';
import { type Servers, serversOf } from './servers.ts';
import { plainTopology, type Topology } from './topology.ts';

export interface Control {
  /** Id of the last entry; '0' for an empty or missing stream. */
  lastId(stream: string): Promise<string>;
  /**
   * Appends an entry; resolves with its id. Never sent twice: after a lost connection the outcome is an
   * error.
   */
  append(stream: string, fields: readonly (string | Buffer)[]): Promise<string>;
  /** Never rejects; all is null while it is not known. */
  backlog(stream: string, group: string): Promise<StreamBacklog>;
  /** Unix milliseconds by the clock of the server that has the stream; with fractions. */
  serverMs(stream: string): Promise<number>;
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
  /** Ends the wait of a connection at the server of the stream that it reads. */
  unblock(clientId: string, stream: string): void;
  close(): void;
}

/** One server, or whatever the topology leads to. */
export type ControlOptions = ({ readonly endpoint: RedisEndpoint } | { readonly topology: Topology }) & {
  /** A command not answered by then is an error. */
  readonly commandMsMax: number;
  /** Aborted while it connects: that is given up. */
  readonly signal?: AbortSignal | undefined;
};

/** What lua/backlog.lua answers. */
type BacklogReply = readonly [
  unread: number,
  pending: number,
  oldestUnread: string,
  oldestPending: string,
  epoch: string,
  how: 'exact' | 'estimate' | 'group' | 'stream',
];
/** Where Redis has lost count, so many entries are counted in one call: it answers nobody else meanwhile. */
const COUNTED_MAX = 500;
/** So many calls more make one answer; the next one goes on from there. */
const COUNTS_MAX = 25;

/**
 * Connects and checks that the servers are ones that Subito can use. Rejects with REDIS_UNREACHABLE,
 * REDIS_TOO_OLD or REDIS_MODE.
 */
export async function connectControl(options: ControlOptions): Promise<Control> {
  const { commandMsMax, signal } = options;
  const topology = 'topology' in options ? options.topology : plainTopology(options.endpoint);
  const servers = serversOf(topology, commandMsMax);
  const giveUp = () => servers.close();
  signal?.addEventListener('abort', giveUp);
  try {
    await servers.connect();
  } catch (error) {
    servers.close();
    throw error;
  } finally {
    signal?.removeEventListener('abort', giveUp);
  }
  return controlOf(servers);
}

// tidy: one small function per command, in one table.
function controlOf(servers: Servers): Control {
  const script: Control['script'] = (name, keys, args) => {
    const { sha, text } = loadScript(name);
    // As one array: more arguments than some ten thousand do not fit on the stack.
    const rest = [keys.length, ...keys, ...args];
    return servers.on(keys[0] ?? '', async (redis) => {
      const run = (command: string, script: string) => redis.call(command, [script, ...rest]);
      try {
        return await run('EVALSHA', sha);
      } catch (error) {
        if (!messageOf(error).startsWith('NOSCRIPT')) throw error;
        return run('EVAL', text);
      }
    });
  };
  return {
    async lastId(stream) {
      const [last] = await servers.on(stream, (redis) => redis.xrevrange(stream, '+', '-', 'COUNT', 1));
      return last?.[0] ?? '0';
    },
    async append(stream, fields) {
      try {
        return (await servers.on(stream, (redis) => redis.xadd(stream, '*', ...fields))) as string;
      } catch (cause) {
        throw new SubitoError('APPEND_FAILED', `${stream}: ${(cause as Error).message}`, { cause });
      }
    },
    async backlog(stream, group) {
      const keys = [stream, ledgerKey(stream)];
      const ask = () => script('backlog', keys, [group, COUNTED_MAX]) as Promise<BacklogReply>;
      try {
        let reply = await ask();
        for (let more = 0; more < COUNTS_MAX && reply[5] === 'estimate'; more += 1) reply = await ask();
        const [unread, pending, oldestUnread, oldestPending] = reply;
        return {
          stream,
          unread,
          pending,
          oldestUnreadMs: msOf(oldestUnread),
          oldestPendingMs: msOf(oldestPending),
        };
      } catch {
        // Not known is an answer too: the gauges are then absent.
        return { stream, unread: null, pending: null, oldestUnreadMs: null, oldestPendingMs: null };
      }
    },
    async serverMs(stream) {
      const [seconds, us] = await servers.on(stream, (redis) => redis.time());
      return Number(seconds) * 1000 + Number(us) / 1000;
    },
    call: (command, key, ...args) => servers.on(key, (redis) => redis.call(command, key, ...args)),
    callBuffer: (command, key, ...args) =>
      servers.on(key, (redis) => redis.callBuffer(command, key, ...args)),
    script,
    unblock(clientId, stream) {
      servers.on(stream, (redis) => redis.client('UNBLOCK', clientId)).catch(() => {});
    },
    close() {
      servers.close();
    },
  };
}

/** The milliseconds of an entry id; null where there is no entry. */
function msOf(id: string): number | null {
  return id === '' ? null : Number(id.split('-')[0]);
}
