// One schedule: producers, engines, a Redis, and what goes wrong with them, all from one seed; and what has
// to hold when everything works again.
import { followWallClock } from '../../src/clock.ts';
import { channels, type NoticeReport } from '../../src/observe/channels.ts';
import { loadScript } from '../../src/redis/scripts.ts';
import { Random } from '../support/random.ts';
import { Clock, Process } from './clock.ts';
import { type Partition, type Settings, SimEngine } from './engine.ts';
import { FAULTS, type FaultName } from './faults.ts';
import { type Kind, Ledger } from './outcomes.ts';
import { Server, type Trace } from './server.ts';
import type { Store } from './store.ts';

const QUIET_MS_MAX = 300_000;
/** After all is settled: late packets, late timers. */
const AFTERMATH_MS = 3_000;
const CHECK_EVERY = 40;

/** What a copy of the server's state knows. */
export interface Snapshot {
  readonly store: Store;
  readonly ledger: Ledger;
}

export interface Report {
  readonly faults: readonly string[];
  readonly events: number;
  readonly simulatedMs: number;
}

export class World {
  readonly seed: number;
  readonly random: Random;
  readonly clock = new Clock();
  readonly trace: Trace | null;
  readonly settings: Settings;
  readonly partitions: readonly Partition[];
  server: Server;
  /** Engines that run, stand still, or are stopping. */
  readonly engines = new Set<SimEngine>();
  /** By process: it reaches nobody. */
  readonly cutOff = new Set<Process>();
  ledger: Ledger;
  /** Nothing goes wrong any more. */
  isHealed = false;
  #processes = 0;
  #servers = 0;
  #produced = 0;
  /** Times that a delivery may have been counted without a fault of the event. */
  disruptions = 0;
  readonly #hosts: number;
  readonly #withOther: boolean;
  readonly #faults: string[] = [];
  /** Faults of the schedule are chosen among these; none: among all. */
  readonly #only: readonly FaultName[];

  constructor(seed: number, trace: Trace | null, only: readonly FaultName[] = []) {
    this.seed = seed;
    this.#only = only;
    this.random = new Random(seed);
    this.trace =
      trace === null ? null : (text) => trace(`${this.clock.nowMs.toFixed(2).padStart(10)} ${text}`);
    const { random } = this;
    this.#hosts = random.int(1, 2);
    this.#withOther = random.chance(0.2);
    this.partitions = Array.from({ length: random.chance(0.25) ? 2 : 1 }, (_, i) => ({
      name: `events:{${i}}`,
      group: 'subito',
      predictions: `predictions:{${i}}`,
      deadletters: `deadletters:{${i}}`,
    }));
    this.settings = {
      partitions: this.partitions,
      claimIdleMs: random.pick([1_000, 1_000, 3_000, 15_000]),
      deliveriesMax: 5,
      rowsMax: random.int(2, 8),
      batches: random.int(3, 6),
      workers: random.int(1, 2),
      blockMs: random.pick([200, 1_000]),
      countMax: random.pick([3, 16, 64]),
      entryBytesMax: 700,
      eventsKeepMs: random.pick([0, 0, 2_000, 60_000]),
      predictionsMax: 100_000,
      inferMs: random.pick([1, 10, 100]),
      hangChance: random.chance(0.3) ? 0.1 : 0,
      workerDeathChance: random.chance(0.3) ? 0.05 : 0,
    };
    this.ledger = new Ledger(this.partitions);
    this.server = this.newServer();
  }

  newServer(store?: Store): Server {
    this.#servers += 1;
    const server = new Server(`redis${this.#servers}`, this.clock, this.trace, store);
    const trimSha = loadScript('trim').sha;
    server.watch = (args, run) => {
      if (args[0] === 'EVAL' || args[1] === trimSha) this.ledger.watchTrim(server, args, run);
      else run();
    };
    return server;
  }

  log(text: string): void {
    this.trace?.(text);
  }

  note(fault: string): void {
    this.#faults.push(`${this.clock.nowMs.toFixed(0)} ms: ${fault}`);
    this.trace?.(`--- ${fault}`);
  }

  get faults(): readonly string[] {
    return this.#faults;
  }

  startEngine(host = this.random.int(1, this.#hosts)): void {
    const { clock, cutOff } = this;
    this.#processes += 1;
    const pid = this.#processes;
    const process = new Process(`engine${pid}`, pid);
    const random = new Random(this.random.int(1, 1e9));
    const engine: SimEngine = clock.as(process, () => {
      return new SimEngine({
        process,
        machine: {
          host: `host${host}`,
          bootId: '00000000-0000',
          pid,
          start: String(pid),
          pidNamespace: String(host),
          startOf: (other) => (this.#isAlive(other) ? String(other) : null),
        },
        route: { clock, random, server: () => (cutOff.has(process) ? null : this.server) },
        settings: this.settings,
        random,
        mayHang: () => !this.isHealed,
        onPoison: () => {
          this.note(`${process.name} dies of a poisonous event`);
          this.kill(engine);
          clock.later(random.int(50, 1_000), () => this.startEngine(host), null);
        },
      });
    });
    this.engines.add(engine);
    this.log(`${process.name} starts on host${host}`);
    clock.as(process, () => void engine.start());
  }

  #isAlive(pid: number): boolean {
    for (const { process } of this.engines) if (process.pid === pid) return true;
    return false;
  }

  kill(engine: SimEngine): void {
    this.engines.delete(engine);
    engine.process.isDead = true;
    for (const wire of engine.wires) wire.close();
  }

  stop(engine: SimEngine): void {
    this.clock.as(engine.process, () => {
      void engine.stop(10_000).then(() => {
        this.log(`${engine.process.name} has stopped`);
        this.engines.delete(engine);
        engine.process.isDead = true;
        for (const wire of engine.wires) wire.close();
      });
    });
  }

  snapshot(): Snapshot {
    return { store: this.server.model.store.clone(), ledger: this.ledger.clone() };
  }

  restore({ store, ledger }: Snapshot): Store {
    this.ledger = ledger.clone();
    // After a restart from disk Redis has lost count.
    for (const [, stream] of store.streams()) for (const group of stream.groups.values()) group.read = null;
    return store;
  }

  produce(): void {
    const { random, server } = this;
    if (server.isDown || server.model.oom || server.model.refuses !== '' || server.model.readonly) return;
    const { name } = random.pick(this.partitions);
    for (let left = random.chance(0.3) ? random.int(2, 15) : 1; left > 0; left -= 1) {
      this.#produced += 1;
      const at = random.next();
      const kind: Kind =
        at < 0.001
          ? 'poison'
          : at < 0.01
            ? 'killer'
            : at < 0.04
              ? 'bad'
              : at < 0.06
                ? 'malformed'
                : at < 0.07
                  ? 'large'
                  : 'good';
      const data = `${kind}-${this.#produced}`.padEnd(kind === 'large' ? 1_000 : random.int(8, 80), '.');
      const more = kind === 'malformed' ? ['colour', 'red'] : [];
      const id = server.model.call('XADD', name, '*', 'key', `k${random.int(0, 5)}`, ...more, 'data', data);
      this.ledger.produced(name, id as string, kind, data);
      this.trace?.(`produced ${name} ${String(id)} ${data.slice(0, 20)}`);
    }
  }

  /** A group of somebody else's, which reads slowly. */
  #other(): void {
    const { server, random } = this;
    const { name } = random.pick(this.partitions);
    server.model.call('XGROUP', 'CREATE', name, 'other', '0', 'MKSTREAM');
    server.model.call('XREADGROUP', 'GROUP', 'other', 'o', 'COUNT', random.int(1, 5), 'STREAMS', name, '>');
    for (const id of this.ledger.pendingOf(server, name, 'other'))
      if (random.chance(0.5)) server.model.call('XACK', name, 'other', id);
  }

  async run(): Promise<Report> {
    const restore = this.clock.install(new Random(this.seed + 1).next);
    const notices = (report: unknown) => {
      const { level, code, message } = report as NoticeReport;
      if (level !== 'info') this.trace?.(`    ${this.clock.owner?.name} ${code}: ${message}`);
    };
    if (this.trace !== null) channels.notice.subscribe(notices);
    try {
      followWallClock();
      await this.#run();
      return { faults: this.#faults, events: this.clock.events, simulatedMs: this.clock.nowMs };
    } finally {
      channels.notice.unsubscribe(notices);
      restore();
    }
  }

  async #run(): Promise<void> {
    const { random, clock } = this;
    const lengthMs = random.pick([200, 500, 2_000, 2_000, 8_000]);
    for (let left = random.int(1, 3); left > 0; left -= 1)
      clock.at(random.chance(0.5) ? 0 : (random.next() * lengthMs) / 2, () => this.startEngine(), null);
    for (let left = random.int(3, 40); left > 0; left -= 1)
      clock.at(random.next() * lengthMs, () => this.produce(), null);
    if (this.#withOther) {
      for (let left = 20; left > 0; left -= 1) clock.at(random.next() * lengthMs, () => this.#other(), null);
    }
    const names = this.#only.length > 0 ? this.#only : (Object.keys(FAULTS) as FaultName[]);
    const chosen = Array.from({ length: random.int(1, 3) }, () => random.pick(names));
    for (let left = random.int(0, 8); left > 0; left -= 1) {
      const fault = FAULTS[random.pick(chosen)];
      clock.at(random.next() * lengthMs, () => fault(this), null);
    }
    await clock.run(lengthMs, () => false);
    this.#heal();
    let events = 0;
    await clock.run(clock.nowMs + QUIET_MS_MAX, () => {
      events += 1;
      return events % CHECK_EVERY === 0 && this.#isQuiet();
    });
    if (!this.#isQuiet())
      throw new Error(`not settled ${QUIET_MS_MAX} ms after all faults: ${this.#state()}`);
    await clock.run(clock.nowMs + AFTERMATH_MS, () => false);
    if (!this.#isQuiet()) throw new Error(`settled, and then not any more: ${this.#state()}`);
    this.ledger.check(this.server.model, this.disruptions + (this.settings.hangChance > 0 ? 10 : 0));
  }

  /** Whatever faults have not ended by themselves end now. */
  #heal(): void {
    const { server, clock, random } = this;
    this.note('all faults end');
    this.isHealed = true;
    server.isDown = false;
    server.stalledUntilMs = Math.min(server.stalledUntilMs, clock.nowMs);
    server.model.oom = false;
    server.model.refuses = '';
    server.model.readonly = false;
    this.cutOff.clear();
    for (const engine of this.engines) {
      if (engine.process.isPaused) clock.resume(engine.process);
    }
    if (![...this.engines].some((engine) => !engine.isStopping)) this.startEngine();
    else if (random.chance(0.2)) this.startEngine();
  }

  #isQuiet(): boolean {
    if (this.server.isDown || this.server.stalledUntilMs > this.clock.nowMs) return false;
    for (const engine of this.engines) if (!engine.isIdle || engine.isStopping) return false;
    return this.engines.size > 0 && this.ledger.isServed(this.server.model);
  }

  #state(): string {
    const engines = [...this.engines].map((engine) => {
      const { intake, committer, process } = engine;
      return `${process.name}: ${intake.rowsInFlight} rows, ${committer.unsettledCommands} commands`;
    });
    return `${engines.join('; ')}; ${this.ledger.state(this.server.model)}`;
  }
}
