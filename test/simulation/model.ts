// A model of one Redis 7.0 server: what the engine and its scripts use of it, with the same replies. Time is
// what `nowMs` says. test/conformance.test.ts holds it against a real server.
import { createHash } from 'node:crypto';
import { groupCommands } from './group-commands.ts';
import { hashCommands, keyCommands } from './key-commands.ts';
import { LuaMachine } from './lua.ts';
import { type Command, CommandError, type Commands, integer, Store, WAITS, type Waiting } from './store.ts';
import { compareIds, ID_MAX, nextId, type Stream } from './stream.ts';
import { entryValue, readNew, streamCommands } from './stream-commands.ts';
import { ErrorReply, NIL_ARRAY, OK, type Value } from './values.ts';

const COMMANDS: Commands = { ...keyCommands, ...hashCommands, ...streamCommands, ...groupCommands };
const READONLY = "READONLY You can't write against a read only replica.";
const OOM = "OOM command not allowed when used memory > 'maxmemory'.";

export const lua = await LuaMachine.start();

const shas = new Map<string, string>();

/** SHA-1 of a script; the same few come again and again. */
function shaOf(script: string): string {
  let sha = shas.get(script);
  if (sha === undefined) {
    sha = createHash('sha1').update(script, 'latin1').digest('hex');
    shas.set(script, sha);
  }
  return sha;
}

export interface ModelOptions {
  /** Unix milliseconds. */
  readonly nowMs: () => number;
  /** stream-node-max-entries: what `~` trims together. */
  readonly nodeEntries?: number;
  /** Calls back later; returns what takes that back. */
  readonly later: (ms: number, run: () => void) => () => void;
  readonly runId?: string;
  /** Of the replication history; the run id where it is left out, for each process begins one of its own. */
  readonly replicationId?: string;
}

/** A connection as the server sees it. */
export class Client {
  readonly id: number;
  readonly reply: (value: Value) => void;
  name = '';
  /** Who connected, for traces. */
  owner = '';
  /** Ends its wait. */
  waiting: ((value: Value) => void) | null = null;
  /** Commands that came while it waited. */
  readonly queue: (readonly string[])[] = [];

  constructor(id: number, reply: (value: Value) => void) {
    this.id = id;
    this.reply = reply;
  }

  get label(): string {
    return `${this.owner} ${this.name.replace(/^subito:(\w+).*/, '$1')}#${this.id}`;
  }
}

export class Model {
  readonly #options: ModelOptions;
  store: Store;
  /** Scripts that were loaded, by SHA-1. */
  readonly #scripts = new Map<string, string>();
  #clients = new Map<number, Client>();
  #nextClient = 1;
  #waiting: { readonly client: Client; readonly waiting: Waiting }[] = [];
  /** maxmemory is reached. */
  oom = false;
  /** What the server answers to every command but PING and CLIENT; '' while it serves. */
  refuses = '';
  /** It is a replica. */
  readonly = false;
  /** Commands that wrote something, for those who want to know whether to look again. */
  writes = 0;

  constructor(options: ModelOptions) {
    this.#options = options;
    this.store = new Store(options.nowMs, options.nodeEntries ?? 100);
  }

  connect(reply: (value: Value) => void): Client {
    const client = new Client(this.#nextClient, reply);
    this.#nextClient += 1;
    this.#clients.set(client.id, client);
    return client;
  }

  disconnect(client: Client): void {
    this.#clients.delete(client.id);
    this.#waiting = this.#waiting.filter((one) => one.client !== client);
    client.waiting = null;
    client.queue.length = 0;
  }

  get clients(): readonly Client[] {
    return [...this.#clients.values()];
  }

  /** The process ended: connections, scripts and waits are gone; `store` is what it comes back with. */
  restart(store: Store): void {
    this.#clients = new Map();
    this.#waiting = [];
    this.#scripts.clear();
    this.store = store;
  }

  /** Runs a command of a client; the reply comes at once, or when its wait ends. */
  execute(client: Client, args: readonly string[]): void {
    if (client.waiting !== null) {
      client.queue.push(args);
      return;
    }
    const value = this.#run(client, args);
    if (value !== WAITS) client.reply(value);
    this.#serve();
  }

  /** The same for those who ask without a connection; waits time out at once. */
  call(...args: readonly (string | number)[]): Value {
    const strings = args.map(String);
    const value = this.#run(null, strings);
    this.#serve();
    return value as Value;
  }

  #run(client: Client | null, args: readonly string[]): Value | typeof WAITS {
    const name = (args[0] ?? '').toUpperCase();
    const own = this.#own(client, name, args);
    if (own !== undefined) return own;
    const command = COMMANDS[name];
    if (command === undefined) {
      const rest = args.slice(1).map((arg) => `'${arg}' `);
      return new ErrorReply(`ERR unknown command '${args[0]}', with args beginning with: ${rest.join('')}`);
    }
    const { arity } = command;
    if (arity > 0 ? args.length !== arity : args.length < -arity)
      return new ErrorReply(`ERR wrong number of arguments for '${name.toLowerCase()}' command`);
    if (this.refuses !== '' && name !== 'PING') return new ErrorReply(this.refuses);
    if (this.oom && this.#growing(command, args)) return new ErrorReply(OOM);
    if (this.readonly && command.write) return new ErrorReply(READONLY);
    return this.#carryOut(command, args, client, false);
  }

  #growing(command: Command, args: readonly string[]): boolean {
    if (command === COMMANDS['XGROUP']) return /^create/i.test(args[1] as string);
    return command.denyOom === true;
  }

  #carryOut(command: Command, args: readonly string[], client: Client | null, inScript: boolean) {
    if (command.write) this.writes += 1;
    const wait = client === null ? null : (waiting: Waiting) => this.#wait(client, waiting);
    try {
      return command.run({ store: this.store, inScript, wait }, args);
    } catch (error) {
      if (error instanceof CommandError) return error.reply;
      throw error;
    }
  }

  /** Commands about connections and scripts; undefined for the others. */
  #own(client: Client | null, name: string, args: readonly string[]): Value | undefined {
    if (name === 'CLIENT') return this.#client(client, args);
    if (name === 'AUTH' || name === 'HELLO') return OK;
    if (name === 'SCRIPT') return this.#script(args);
    if (name === 'INFO') return this.#info();
    if (name === 'EVAL' || name === 'EVALSHA') {
      if (args.length < 3)
        return new ErrorReply(`ERR wrong number of arguments for '${name.toLowerCase()}' command`);
      if (this.refuses !== '') return new ErrorReply(this.refuses);
      try {
        return this.#eval(name, args);
      } catch (error) {
        if (error instanceof CommandError) return error.reply;
        throw error;
      }
    }
    return undefined;
  }

  #info(): Value {
    const runId = this.#options.runId ?? 'a'.repeat(40);
    return (
      `# Server\r\nredis_version:7.0.15\r\nrun_id:${runId}\r\n` +
      `# Replication\r\nrole:master\r\nmaster_replid:${this.#options.replicationId ?? runId}\r\n`
    );
  }

  #client(client: Client | null, args: readonly string[]): Value {
    const subcommand = (args[1] ?? '').toUpperCase();
    if (subcommand === 'ID') return client?.id ?? 0;
    if (subcommand === 'SETNAME') {
      if (client !== null) client.name = args[2] as string;
      return OK;
    }
    if (subcommand === 'GETNAME') return client?.name ?? null;
    if (subcommand === 'UNBLOCK') {
      const other = this.#clients.get(integer(args[2] as string));
      if (other === undefined || other.waiting === null) return 0;
      const isError = (args[3] ?? '').toUpperCase() === 'ERROR';
      other.waiting(isError ? new ErrorReply('UNBLOCKED client unblocked via CLIENT UNBLOCK') : NIL_ARRAY);
      return 1;
    }
    return new ErrorReply(`ERR unknown subcommand '${args[1]}'. Try CLIENT HELP.`);
  }

  #script(args: readonly string[]): Value {
    const subcommand = (args[1] ?? '').toUpperCase();
    if (this.refuses !== '') return new ErrorReply(this.refuses);
    if (subcommand === 'LOAD' && args.length === 3) {
      const script = args[2] as string;
      const error = lua.check(script);
      if (error !== null) return error;
      const sha = shaOf(script);
      this.#scripts.set(sha, script);
      return sha;
    }
    if (subcommand === 'FLUSH') {
      this.#scripts.clear();
      return OK;
    }
    if (subcommand === 'EXISTS') return args.slice(2).map((sha) => (this.#scripts.has(sha) ? 1 : 0));
    return new ErrorReply(`ERR unknown subcommand '${args[1]}'. Try SCRIPT HELP.`);
  }

  #eval(name: string, args: readonly string[]): Value {
    const keys = integer(args[2] as string);
    if (keys > args.length - 3)
      return new ErrorReply("ERR Number of keys can't be greater than number of args");
    if (keys < 0) return new ErrorReply("ERR Number of keys can't be negative");
    const sha = name === 'EVAL' ? shaOf(args[1] as string) : (args[1] as string).toLowerCase();
    const script = name === 'EVAL' ? (args[1] as string) : this.#scripts.get(sha);
    if (script === undefined) return new ErrorReply('NOSCRIPT No matching script. Please use EVAL.');
    this.#scripts.set(sha, script);
    const shebang = /^#!lua([^\n]*)\n/.exec(script);
    const flags = shebang === null ? '' : (shebang[1] as string);
    const readOnly = flags.includes('no-writes');
    if (shebang !== null && !readOnly) {
      if (this.readonly) return new ErrorReply(READONLY);
      if (this.oom && !flags.includes('allow-oom')) return new ErrorReply(OOM);
    }
    const isFrozen = shebang === null && this.oom;
    let dirty = false;
    return lua.run(script, sha, args.slice(3, 3 + keys), args.slice(3 + keys), (called) => {
      const name = (called[0] ?? '').toUpperCase();
      if (name === 'INFO') return this.#info();
      const command = COMMANDS[name];
      if (command === undefined) return new ErrorReply('ERR Unknown Redis command called from script');
      const { arity } = command;
      if (arity > 0 ? called.length !== arity : called.length < -arity)
        return new ErrorReply('ERR Wrong number of args calling Redis command from script');
      if (command.write && readOnly)
        return new ErrorReply('ERR Write commands are not allowed from read-only scripts.');
      if (command.write && !dirty && this.readonly) return new ErrorReply(READONLY);
      if (isFrozen && !dirty && this.#growing(command, called)) return new ErrorReply(OOM);
      dirty ||= command.write === true;
      return this.#carryOut(command, called, null, true) as Value;
    });
  }

  #wait(client: Client, waiting: Waiting): void {
    const end = (value: Value) => {
      cancel();
      this.#waiting = this.#waiting.filter((one) => one.client !== client);
      client.waiting = null;
      client.reply(value);
      for (const args of client.queue.splice(0)) this.execute(client, args);
    };
    const timeOut = () => {
      if (client.waiting === end) end(NIL_ARRAY);
    };
    const cancel = waiting.timeoutMs === 0 ? () => {} : this.#options.later(waiting.timeoutMs, timeOut);
    client.waiting = end;
    this.#waiting.push({ client, waiting });
  }

  /** Serves those who wait for a stream that has changed, first come, first served. */
  #serve(): void {
    const { store } = this;
    while (store.changed.size > 0) {
      const changed = new Set(store.changed);
      store.changed.clear();
      for (const { client, waiting } of [...this.#waiting]) {
        if (client.waiting === null || !changed.has(waiting.key)) continue;
        const value = this.#served(waiting);
        if (value !== undefined) client.waiting(value);
      }
    }
  }

  #served({ key, group: groupName, consumer, count, after }: Waiting): Value | undefined {
    const { store } = this;
    const stream = store.typeOf(key) === 'stream' ? (store.get(key) as Stream) : undefined;
    if (stream === undefined)
      return groupName === null ? undefined : new ErrorReply('UNBLOCKED the stream key no longer exists');
    if (groupName === null) {
      if (compareIds(stream.last, after) <= 0) return undefined;
      return [[key, stream.range(nextId(after), ID_MAX, count).map(entryValue)]];
    }
    const group = stream.groups.get(groupName);
    if (group === undefined)
      return new ErrorReply('NOGROUP the consumer group this client was blocked on no longer exists');
    if (compareIds(stream.last, group.last) <= 0) return undefined;
    const nowMs = store.nowMs();
    const values = readNew(stream, group, group.consumer(consumer, nowMs), group.last, count, nowMs);
    return [[key, values]];
  }
}
