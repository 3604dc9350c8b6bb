// One engine of a simulation: the real reader, claimer, intake, batcher, runner, committer, heartbeat,
// trimmer and reaper, wired as in src/engine.ts; simulated are its connections, its workers, and the time.
import { nowMs } from '../../src/clock.ts';
import type { InferResult, InferTask } from '../../src/infer/protocol.ts';
import { type Consumer, takeConsumer } from '../../src/ingest/consumer.ts';
import type { Machine } from '../../src/ingest/machine.ts';
import { StreamReader } from '../../src/ingest/reader.ts';
import { startReaper } from '../../src/ingest/reaper.ts';
import { ensureGroup } from '../../src/ingest/regroup.ts';
import { releaseConsumer } from '../../src/ingest/release.ts';
import { startTrimmer, type Trimmer } from '../../src/ingest/trimmer.ts';
import { Committer } from '../../src/publish/committer.ts';
import { Fence } from '../../src/redis/fence.ts';
import type { Connect, Where } from '../../src/redis/socket.ts';
import { Admission } from '../../src/schedule/admission.ts';
import type { Batch } from '../../src/schedule/batch.ts';
import { Batcher } from '../../src/schedule/batcher.ts';
import { ENTRY_FIELDS } from '../../src/schedule/entry.ts';
import { Intake } from '../../src/schedule/intake.ts';
import { BatchRunner } from '../../src/schedule/runner.ts';
import { RESULT, ROW, ROW_COLUMNS } from '../../src/schedule/slab.ts';
import { addModelLane, addRejectLane, INTAKE_LIMITS, streamOf } from '../support/batches.ts';
import type { Random } from '../support/random.ts';
import type { Process } from './clock.ts';
import { type Route, SimConnection } from './connection.ts';
import { SimControl } from './control.ts';

export interface Partition {
  readonly name: string;
  readonly group: string;
  readonly predictions: string;
  readonly deadletters: string;
}

/** What all engines of a schedule have in common. */
export interface Settings {
  readonly partitions: readonly Partition[];
  readonly claimIdleMs: number;
  readonly deliveriesMax: number;
  readonly rowsMax: number;
  readonly batches: number;
  readonly workers: number;
  readonly blockMs: number;
  readonly countMax: number;
  readonly entryBytesMax: number;
  readonly eventsKeepMs: number;
  readonly predictionsMax: number;
  /** Longest time a worker takes for a batch, by chance much longer. */
  readonly inferMs: number;
  readonly hangChance: number;
  readonly workerDeathChance: number;
}

export interface SimEngineOptions {
  readonly process: Process;
  readonly machine: Machine;
  readonly route: Route;
  readonly settings: Settings;
  readonly random: Random;
  /** False from when nothing goes wrong any more. */
  readonly mayHang: () => boolean;
  /** The event in hand ends the process. */
  readonly onPoison: () => void;
}

const TICK_MS = 1000;
/** A worker that hangs does so for at most as many claim times. */
const HANG_TIMES_MAX = 6;
/** Parts of the engine that name the same place share a connection. */
const ENDPOINT: Where = {
  host: 'simulated',
  port: 0,
  path: null,
  username: '',
  password: '',
  db: 0,
  tls: null,
};

export class SimEngine {
  readonly process: Process;
  readonly #options: SimEngineOptions;
  readonly #connections: SimConnection[] = [];
  readonly #control: SimControl;
  readonly #batcher: Batcher<Batch>;
  readonly #batches: Map<number, Batch>;
  readonly intake: Intake;
  readonly committer: Committer;
  readonly #readers: StreamReader[];
  #consumer: Consumer | null = null;
  #trimmer: Trimmer | null = null;
  #stopping = false;

  // tidy: the wiring of src/engine.ts in the same order, so that the two can be compared.
  constructor(options: SimEngineOptions) {
    this.#options = options;
    this.process = options.process;
    const { settings, route, random } = options;
    const { partitions, rowsMax } = settings;
    this.#control = new SimControl(route);
    const connect: Connect = (socket) => {
      const connection = new SimConnection(socket, route);
      this.#connections.push(connection);
      return connection;
    };
    const consumer = () => (this.#consumer as Consumer).name;
    this.#batcher = new Batcher<Batch>(settings.workers, (lane, batch) => runner.run(lane, batch));
    const batcher = this.#batcher;
    const lane = addModelLane(batcher, { name: 'm', rowsMax, batches: settings.batches, arenaBytes: 600 });
    const rejects = addRejectLane(batcher, rowsMax, 2);
    this.#batches = new Map(lane.free.map((batch) => [batch.slab, batch]));
    const admission = new Admission<Batch>({ batcher, workers: () => settings.workers });
    const parts = { batcher, admission, lanes: [lane], rejects, payloadBytesMax: 600 };
    this.intake = new Intake({ ...INTAKE_LIMITS, ...parts });
    const { intake } = this;
    const runner: BatchRunner = new BatchRunner({
      batcher,
      streamNames: partitions.map(({ name }) => name),
      infer: (task) => this.#infer(task),
      settle: (batch, model, record) => this.committer.settle(batch, model, record),
      admission,
      onFreeRows: (of, rows, ms) => {
        intake.released(of, rows, ms);
        for (const reader of this.#readers) reader.kick();
      },
    });
    for (const one of [lane, rejects]) runner.addLane(one);
    const fences = partitions.map(() => new Fence());
    this.committer = new Committer({
      consumer,
      streams: partitions.map((partition, i) => ({
        ...partition,
        predictionsMax: settings.predictionsMax,
        endpoint: ENDPOINT,
        fence: fences[i] as Fence,
      })),
      onSettled: (batch) => runner.settled(batch),
      connect,
    });
    this.#readers = partitions.map((partition, i) => {
      const stream = streamOf(lane, i);
      return new StreamReader({
        endpoint: ENDPOINT,
        stream: partition.name,
        group: partition.group,
        consumer,
        fields: ENTRY_FIELDS,
        entryBytesMax: settings.entryBytesMax,
        countMax: settings.countMax,
        blockMs: settings.blockMs,
        claimIdleMs: settings.claimIdleMs,
        deliveriesMax: settings.deliveriesMax,
        fence: fences[i] as Fence,
        demand: () => intake.demand(stream),
        demandAlone: () => intake.demandAlone(stream),
        alone: intake.alone,
        received: () => intake.received(nowMs()),
        take: (buffer, entry, mark) => intake.take(stream, buffer, entry, mark),
        isInHand: (id) => intake.isInHand(stream, id),
        reject: (id, deliveries, detail) =>
          intake.reject(stream, id, detail, deliveries > settings.deliveriesMax),
        flush: () => batcher.flush(),
        createGroup: () => ensureGroup(this.#control, { ...partition, stream: partition.name }),
        unblock: (clientId) => this.#control.unblock(clientId),
        connect,
        random: () => random.next(),
      });
    });
  }

  /** As a process that is started again and again until it comes up. */
  async start(): Promise<void> {
    const { settings, machine, process, random } = this.#options;
    const { partitions, claimIdleMs, eventsKeepMs } = settings;
    const control = this.#control;
    for (;;) {
      try {
        for (const partition of partitions)
          await ensureGroup(control, { ...partition, stream: partition.name });
        this.#consumer ??= await takeConsumer({
          control,
          partitions,
          ttlMs: claimIdleMs,
          machine,
          nonce: String(process.pid),
        });
        break;
      } catch {
        await sleep(200);
      }
    }
    const consumer = () => (this.#consumer as Consumer).name;
    this.committer.start();
    const own = { control, random: () => random.next() };
    startReaper({ ...own, partitions, consumer, idleMs: claimIdleMs * 2, everyMs: claimIdleMs });
    this.#trimmer = startTrimmer({ ...own, partitions: partitions.map((p) => ({ ...p, eventsKeepMs })) });
    setInterval(() => {
      for (const reader of this.#readers) reader.check();
    }, TICK_MS);
    for (const reader of this.#readers) reader.start();
  }

  /** As the engine's own stop does it. */
  async stop(msMax: number): Promise<void> {
    this.#stopping = true;
    const { clock } = this.#options.route;
    const lateMs = clock.nowMs + msMax;
    await Promise.race([Promise.all(this.#readers.map((reader) => reader.stop())), sleep(msMax)]);
    while (this.intake.rowsInFlight > 0 && clock.nowMs < lateMs) await sleep(10);
    for (const reader of this.#readers) reader.close();
    const consumer = this.#consumer;
    if (consumer !== null) {
      const { name, token } = consumer;
      const releasing = this.#options.settings.partitions.map(({ name: stream, group }) =>
        releaseConsumer(this.#control, { stream, group, consumer: name, token }, []),
      );
      await Promise.allSettled(releasing);
      await consumer.stop();
    }
    await this.#trimmer?.stop();
    this.committer.close();
  }

  get isStopping(): boolean {
    return this.#stopping;
  }

  get wires(): readonly NonNullable<SimConnection['wire']>[] {
    const wires = [this.#control, ...this.#connections].map(({ wire }) => wire);
    return wires.filter((wire) => wire !== null);
  }

  get isIdle(): boolean {
    return this.intake.rowsInFlight === 0 && this.committer.unsettledCommands === 0;
  }

  /** Predicts, refuses and dies as the data says; and now and then for no reason. */
  async #infer({ slab, first, rows }: InferTask): Promise<InferResult> {
    const { random, settings, mayHang, onPoison } = this.#options;
    const { next } = random;
    const isHanging = random.chance(settings.hangChance) && mayHang();
    await sleep(isHanging ? next() * settings.claimIdleMs * HANG_TIMES_MAX : 0.1 + next() * settings.inferMs);
    const { table, memory, layout } = this.#batches.get(slab) as Batch;
    const parts: Buffer[] = [];
    let bytes = 0;
    for (let row = first; row < first + rows; row += 1) {
      const at = row * ROW_COLUMNS;
      const from = layout!.arenaInOffset + (table[at + ROW.inOffset] as number);
      const data = memory.toString('latin1', from, from + (table[at + ROW.inLength] as number));
      if (data.startsWith('poison')) {
        onPoison();
        return new Promise(() => {});
      }
      if (data.startsWith('killer')) throw new Error('died of its event');
      table[at + ROW.result] = data.startsWith('bad') ? RESULT.invalid : RESULT.ok;
      const part = Buffer.from(`about ${data}`);
      table[at + ROW.outOffset] = bytes;
      table[at + ROW.outLength] = part.length;
      bytes += part.length;
      parts.push(part);
    }
    if (rows > 1 && random.chance(settings.workerDeathChance)) throw new Error('died of nothing');
    return { inferUs: 5, runUs: 3, spill: Buffer.concat(parts) };
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
