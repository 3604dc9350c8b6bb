// The simulated Redis and the ways to it: a model that can stand still, end, come back without what it had
// written last, or be replaced by a copy that lags behind.
import { readdirSync } from 'node:fs';
import { loadScript } from '../../src/redis/scripts.ts';
import type { Random } from '../support/random.ts';
import type { Clock } from './clock.ts';
import { type Client, Model } from './model.ts';
import type { Store } from './store.ts';
import { binary, CommandParser, ErrorReply, encodeValue, type Value } from './values.ts';

export type Trace = (text: string) => void;

const NODE_ENTRIES = 3;

/** A redis-server process, or what becomes of it. */
export class Server {
  readonly name: string;
  readonly model: Model;
  readonly #clock: Clock;
  readonly #trace: Trace | null;
  /** It answers nothing before; Infinity while it is down. */
  stalledUntilMs = 0;
  isDown = false;
  readonly wires = new Set<Wire>();
  /** Called before and after each command, for those who watch over what must not happen. */
  watch: (args: readonly string[], run: () => void) => void = (_, run) => run();

  constructor(name: string, clock: Clock, trace: Trace | null, store?: Store) {
    this.name = name;
    this.#clock = clock;
    this.#trace = trace;
    this.model = new Model({
      nowMs: () => clock.wallMs,
      nodeEntries: NODE_ENTRIES,
      later: (ms, run) => clock.later(ms, run, null),
      runId: name.replace('redis', '').padStart(40, 'a'),
    });
    if (store !== undefined) this.model.store = store;
  }

  /** Runs when the server has time for it, in order of arrival. */
  whenReady(run: () => void): void {
    if (this.stalledUntilMs <= this.#clock.nowMs) run();
    else this.#clock.at(this.stalledUntilMs, () => this.whenReady(run), null);
  }

  execute(client: Client, args: readonly string[]): void {
    this.#trace?.(`${this.name} <- ${client.label} ${shortCommand(args)}`);
    this.watch(args, () => this.model.execute(client, args));
  }

  replied(client: Client, value: Value): void {
    this.#trace?.(`${this.name} -> ${client.label} ${shortValue(value)}`);
  }

  /** Every connection ends; the process may be gone with them. */
  dropAll(random: Random): void {
    for (const wire of [...this.wires]) wire.reset(random);
  }
}

/** A TCP connection: bytes in order both ways, each some time on its way. */
export class Wire {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #server: Server;
  readonly client: Client;
  readonly #parser = new CommandParser();
  readonly #onBytes: (bytes: Buffer) => void;
  readonly #onClose: (reason: string) => void;
  readonly #owner = null as ReturnType<Clock['at']>['owner'];
  #toServerMs = 0;
  #toClientMs = 0;
  #clientOpen = true;
  #serverOpen = true;
  /** Nothing passes any more, and nobody is told. */
  #silent = false;
  /** What is on its way to the server does not arrive. */
  #lost = false;

  constructor(
    clock: Clock,
    random: Random,
    server: Server,
    onBytes: (bytes: Buffer) => void,
    onClose: (reason: string) => void,
  ) {
    this.#clock = clock;
    this.#random = random;
    this.#server = server;
    this.#owner = clock.owner;
    this.#onBytes = onBytes;
    this.#onClose = onClose;
    this.client = server.model.connect((value) => this.#reply(value));
    this.client.owner = clock.owner?.name ?? '';
    server.wires.add(this);
  }

  get isSilent(): boolean {
    return this.#silent;
  }

  /** Most take a fraction of a millisecond, some much longer. */
  #delayMs(): number {
    const { next } = this.#random;
    return next() < 0.95 ? 0.05 + next() * 0.4 : next() * 30;
  }

  send(bytes: Buffer): void {
    this.#toServerMs = Math.max(this.#toServerMs, this.#clock.nowMs + this.#delayMs());
    this.#clock.at(
      this.#toServerMs,
      () => {
        if (this.#silent || this.#lost) return;
        this.#server.whenReady(() => this.#arrived(bytes));
      },
      null,
    );
  }

  #arrived(bytes: Buffer): void {
    if (!this.#serverOpen || this.#silent || this.#lost) return;
    for (const args of this.#parser.push(bytes)) this.#server.execute(this.client, args);
  }

  #reply(value: Value): void {
    this.#server.replied(this.client, value);
    const bytes = Buffer.from(encodeValue(value), 'latin1');
    const pieces = this.#random.next() < 0.15 && bytes.length > 4 ? this.#random.int(2, 3) : 1;
    for (let i = 0, from = 0; i < pieces; i += 1) {
      const to = i === pieces - 1 ? bytes.length : this.#random.int(from, bytes.length);
      this.#toClient(bytes.subarray(from, to));
      from = to;
    }
  }

  #toClient(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.#toClientMs = Math.max(this.#toClientMs, this.#clock.nowMs + this.#delayMs());
    const arrive = () => {
      if (this.#clientOpen && !this.#silent) this.#onBytes(bytes);
    };
    this.#clock.at(this.#toClientMs, arrive, this.#owner);
  }

  /** The client closes. What it had sent is carried out all the same, unless it was lost on the way. */
  close(): void {
    if (!this.#clientOpen) return;
    this.#clientOpen = false;
    if (this.#random.chance(0.3)) this.#lost = true;
    const noticedMs = this.#silent ? this.#random.int(1_000, 20_000) : this.#delayMs();
    const end = () => this.#server.whenReady(() => this.#endAtServer());
    this.#clock.at(Math.max(this.#toServerMs, this.#clock.nowMs + noticedMs), end, null);
  }

  #endAtServer(): void {
    if (!this.#serverOpen) return;
    this.#serverOpen = false;
    this.#server.model.disconnect(this.client);
    this.#server.wires.delete(this);
  }

  /** Something between ends the connection: both ends learn of it, each at its time. */
  reset(random: Random): void {
    if (random.chance(0.5)) this.#lost = true;
    const tell = () => {
      if (!this.#clientOpen) return;
      this.#clientOpen = false;
      this.#onClose('connection closed');
    };
    this.#clock.later(random.next() * 20, tell, this.#owner);
    this.#clock.later(random.next() * (random.chance(0.3) ? 3_000 : 10), () => this.#endAtServer(), null);
  }

  /** Half open: neither end is told. */
  silence(): void {
    this.#silent = true;
  }

  /** The server's process is gone: it carries out nothing more. */
  serverDied(random: Random): void {
    this.#lost = true;
    this.#endAtServer();
    this.reset(random);
  }
}

const TEXT_MAX = 600;
/** Names of the engine's scripts, by their texts and by what EVALSHA calls them. */
const SCRIPTS = new Map(
  readdirSync(new URL('../../src/redis/lua/', import.meta.url)).flatMap((file) => {
    if (!file.endsWith('.lua')) return [];
    const { name, text, sha } = loadScript(file.replace('.lua', ''));
    return [
      [sha, name],
      [binary(text), name],
    ];
  }),
);

/** A command in a line; scripts by their name. */
function shortCommand(args: readonly string[]): string {
  const shown = args.map((arg) => SCRIPTS.get(arg) ?? arg);
  return shown
    .map((arg) => (arg.length > 100 ? `${arg.slice(0, 40)}..` : arg))
    .join(' ')
    .slice(0, TEXT_MAX);
}

function shortValue(value: Value): string {
  if (value instanceof ErrorReply) return `-${value.text}`;
  return JSON.stringify(value, (_, item) => (typeof item === 'symbol' ? null : item)).slice(0, TEXT_MAX);
}
