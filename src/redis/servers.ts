/**
 * The clients (ioredis) of the control connection: one for the one server that serves all keys, or one for
 * each master of a cluster. None ever sends a command a second time whose answer was lost: the caller
 * decides. What a cluster refuses because a slot is elsewhere or on its way has not been carried out; that
 * is asked again where the slot went.
 */
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { AbstractConnector, Redis } from 'ioredis';
import { messageOf, SubitoError } from '../errors.ts';
import { notice } from '../observe/channels.ts';
import { type RedisEndpoint, spell } from './endpoint.ts';
import { faultOf } from './faults.ts';
import type { SlotMap } from './slots.ts';
import type { Topology } from './topology.ts';

export interface Servers {
  /** Connects, and checks that they can be used. Rejects with a SubitoError. */
  connect(): Promise<void>;
  /** Runs a job on the server that serves a key. The job may be run again when it was refused unheard. */
  on<T>(key: string, job: (redis: Redis) => Promise<T>): Promise<T>;
  close(): void;
}

/** A connect, with its TLS handshake, that has not finished by then is given up. */
const CONNECT_MS_MAX = 5_000;
const LOADING_RETRY_MS = 250;
/** A slot that is on its way arrives in milliseconds to seconds. */
const REFUSED_RETRY_MS = 50;

/** `commandMsMax`: a command not answered by then is an error. */
export function serversOf(topology: Topology, commandMsMax: number): Servers {
  return topology.slots === null
    ? new OneServer(topology, commandMsMax)
    : new ClusterServers(topology.name, topology.slots, commandMsMax);
}

class OneServer implements Servers {
  readonly #topology: Topology;
  readonly #commandMsMax: number;
  #client: Client | null = null;
  #closed = false;

  constructor(topology: Topology, commandMsMax: number) {
    this.#topology = topology;
    this.#commandMsMax = commandMsMax;
  }

  async connect(): Promise<void> {
    const where = this.#topology.where('');
    let endpoint: RedisEndpoint;
    try {
      endpoint = typeof where === 'function' ? await where() : where;
    } catch (cause) {
      throw unreachable(this.#topology.name, messageOf(cause), cause);
    }
    const locate = typeof where === 'function' ? where : null;
    this.#client = new Client(endpoint, locate, this.#commandMsMax);
    if (this.#closed) this.#client.close();
    await this.#client.connect('standalone');
  }

  on<T>(_key: string, job: (redis: Redis) => Promise<T>): Promise<T> {
    return job((this.#client as Client).redis);
  }

  close(): void {
    this.#closed = true;
    this.#client?.close();
  }
}

class ClusterServers implements Servers {
  readonly #name: string;
  readonly #slots: SlotMap;
  readonly #commandMsMax: number;
  /** By address, made when first needed. */
  readonly #clients = new Map<string, Client>();
  #closed = false;

  constructor(name: string, slots: SlotMap, commandMsMax: number) {
    this.#name = name;
    this.#slots = slots;
    this.#commandMsMax = commandMsMax;
  }

  async connect(): Promise<void> {
    try {
      await this.#slots.refresh();
    } catch (cause) {
      throw unreachable(this.#name, messageOf(cause), cause);
    }
    await Promise.all(this.#slots.masters.map((node) => this.#client(node).connect('cluster')));
  }

  async on<T>(key: string, job: (redis: Redis) => Promise<T>): Promise<T> {
    const giveUpAt = performance.now() + this.#commandMsMax;
    for (;;) {
      try {
        return await job(this.#client(await this.#slots.masterOf(key)).redis);
      } catch (error) {
        const message = messageOf(error);
        const unheard = /^(MOVED|ASK|TRYAGAIN|CLUSTERDOWN)\b/.test(message);
        const again = unheard && performance.now() < giveUpAt && !this.#closed;
        if (!again) {
          // A node that was lost may have left its slots to another.
          if (faultOf(message).action === 'reconnect') void this.#refresh();
          throw error;
        }
      }
      await sleep(REFUSED_RETRY_MS);
      await this.#refresh();
    }
  }

  close(): void {
    this.#closed = true;
    for (const client of this.#clients.values()) client.close();
  }

  #client(node: RedisEndpoint): Client {
    const name = spell(node);
    let client = this.#clients.get(name);
    if (client === undefined) {
      client = new Client(node, null, this.#commandMsMax);
      if (this.#closed) client.close();
      this.#clients.set(name, client);
    }
    return client;
  }

  /** Nodes without slots are left, or their clients would try to reach them for ever. */
  async #refresh(): Promise<void> {
    // Nobody can say now: the next refusal asks again.
    await this.#slots.refresh().catch(() => {});
    const present = new Set(this.#slots.masters.map(spell));
    for (const [name, client] of this.#clients) {
      if (present.has(name)) continue;
      this.#clients.delete(name);
      client.close();
    }
  }
}

/** A client of one server, which may be another one at each connect. */
class Client {
  readonly redis: Redis;
  readonly #endpoint: RedisEndpoint;
  #reason: Error | undefined;
  #started = false;
  /**
   * The last connect came as far as a TCP connection, and with TLS to the end of the handshake on our side.
   */
  #shookHands = false;

  /** `locate` is asked before each connect; null: it is always the same. */
  constructor(endpoint: RedisEndpoint, locate: (() => Promise<RedisEndpoint>) | null, commandMsMax: number) {
    this.#endpoint = endpoint;
    const { host, port, path, username, password, db, tls } = endpoint;
    this.redis = new Redis({
      ...(path === null ? { host, port } : { path }),
      db,
      ...(username === '' ? {} : { username }),
      ...(password === '' ? {} : { password }),
      ...(tls === null ? {} : { tls }),
      ...(locate === null ? {} : { Connector: connectorTo(locate) }),
      // A peer that vanished ends no connection, and is not found out by asking it again.
      socketTimeout: commandMsMax,
      connectionName: 'subito:control',
      // A right less that the user needs.
      disableClientInfo: true,
      lazyConnect: true,
      // An XADD whose answer was lost must not be sent again: the caller decides.
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 0,
      commandTimeout: commandMsMax,
      connectTimeout: CONNECT_MS_MAX,
      // Redis guesses how long it will load; it is asked again before that.
      maxLoadingRetryTime: LOADING_RETRY_MS,
      // It is a replica now: a new connection asks again where the name leads.
      reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
      retryStrategy: (attempt: number) => Math.min(1000, 20 * 2 ** attempt),
    });
    this.redis.on('connect', () => {
      this.#shookHands = true;
    });
    this.redis.on('error', (error: Error) => {
      this.#reason = error;
      notice('warn', 'CONTROL_DISCONNECTED', error.message);
      // ioredis would go on in database 0, which is somebody else's.
      if (isSelectRefused(error)) this.redis.disconnect(this.#started);
    });
  }

  async connect(mode: 'standalone' | 'cluster'): Promise<void> {
    try {
      await this.redis.connect();
      await checkServer(this.redis, mode);
      this.#started = true;
    } catch (cause) {
      this.redis.disconnect();
      if (cause instanceof SubitoError) throw cause;
      const text = whyUnreachable(this.#reason ?? cause, this.#endpoint, this.#shookHands);
      throw unreachable(spell(this.#endpoint), text, cause);
    }
  }

  close(): void {
    this.redis.disconnect();
  }
}

type Locate = () => Promise<RedisEndpoint>;

/** Makes ioredis ask where to go before each connect. */
function connectorTo(locate: Locate): new (options: unknown) => AbstractConnector {
  return class extends AbstractConnector {
    constructor() {
      super(CONNECT_MS_MAX);
    }

    async connect(): Promise<Socket> {
      this.connecting = true;
      const socket = await locate().then(openSocket, brokenSocket);
      // Closed meanwhile: nobody else would end it.
      if (!this.connecting) socket.destroy();
      socket.once('error', (error) => {
        this.firstError = error;
      });
      this.stream = socket;
      return socket;
    }
  };
}

function openSocket({ host, port, tls }: RedisEndpoint): Socket {
  return tls === null ? new Socket().connect({ host, port }) : connectTls({ host, port, ...tls });
}

/** As if the connect had failed: a rejection would end the client for good. */
function brokenSocket(error: Error): Socket {
  return new Socket().destroy(error);
}

function unreachable(where: string, text: string, cause: unknown): SubitoError {
  return new SubitoError('REDIS_UNREACHABLE', `cannot use Redis at ${where}: ${text}`, { cause });
}

/** An error reply names its command. */
function isSelectRefused(error: Error & { readonly command?: { readonly name: string } }): boolean {
  return error.command?.name === 'select';
}

function whyUnreachable(reason: unknown, { db, tls }: RedisEndpoint, shookHands: boolean): string {
  const text = messageOf(reason);
  if (reason instanceof Error && isSelectRefused(reason)) return `database ${db}: ${text}`;
  const code = String((reason as NodeJS.ErrnoException).code);
  if (tls === null || !/^(ETIMEDOUT|ECONNRESET|EPIPE|EPROTO|ERR_SSL_)/.test(code)) return text;
  // In TLS 1.3 the server looks at the client's certificate when the client is done.
  return shookHands || /alert/i.test(text)
    ? `${text}; it may want a client certificate that it trusts: redis.tls.cert and redis.tls.key`
    : // A server without TLS waits for the end of what it takes for a command, or hangs up.
      `${text}; it may not speak TLS there, which rediss:// asks for`;
}

/**
 * Scripts rely on `#!lua` (refused as a whole under OOM), and backlog on a group's lag: both came with 7.0.
 */
const SERVER_MAJOR_MIN = 7;

async function checkServer(redis: Redis, wanted: 'standalone' | 'cluster'): Promise<void> {
  const info = await redis.info('server');
  const version = /redis_version:(\S+)/.exec(info)?.[1] ?? '';
  if (Number.parseInt(version, 10) < SERVER_MAJOR_MIN || version === '') {
    throw new SubitoError(
      'REDIS_TOO_OLD',
      `Redis is version ${version || 'unknown'}; ${SERVER_MAJOR_MIN}.0 is needed`,
    );
  }
  const mode = /redis_mode:(\S+)/.exec(info)?.[1] ?? wanted;
  if (mode === wanted) return;
  const { host, port } = redis.options;
  throw new SubitoError('REDIS_MODE', `the server at ${host}:${port} runs as ${mode}, not as ${wanted}`);
}
