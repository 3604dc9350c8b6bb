/**
 * The engine: the four stages wired together in the order in which an event passes them, and stopped in that
 * order.
 *
 *   ingest (readers) -> schedule (intake, batcher, runner) -> infer (pool) -> publish (committer, tail) ->
 *   gateway
 *
 * The stages do not import one another; what one needs of another it is handed here.
 */
import { readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { followWallClock, nowMs } from './clock.ts';
import type { Config } from './config.ts';
import { createBackend } from './engine/backend.ts';
import { buildLanes } from './engine/lanes.ts';
import { poolOptions, ServedModels } from './engine/models.ts';
import { stateOf } from './engine/state.ts';
import { intakeStream, partitionStreams, type StreamPartition } from './engine/streams.ts';
import { scaleWorkers } from './engine/workers.ts';
import { messageOf, SubitoError } from './errors.ts';
import type { Backend } from './gateway/backend.ts';
import { type Gateway, startGateway } from './gateway/server.ts';
import { startPool } from './infer/pool.ts';
import type { ModelProblem } from './infer/protocol.ts';
import { type Consumer, takeConsumer } from './ingest/consumer.ts';
import { StreamReader } from './ingest/reader.ts';
import { startReaper } from './ingest/reaper.ts';
import { ensureGroup } from './ingest/regroup.ts';
import { releaseConsumer } from './ingest/release.ts';
import { startTrimmer } from './ingest/trimmer.ts';
import { loadNative, nativeText } from './native.ts';
import { notice } from './observe/channels.ts';
import { createMetrics } from './observe/metrics.ts';
import type { EngineState, Sources, StreamBacklog } from './observe/sources.ts';
import { createStats } from './observe/stats.ts';
import { Totals } from './observe/totals.ts';
import { Committer } from './publish/committer.ts';
import { nativeWriteRows, writeRows } from './publish/rows.ts';
import { PredictionTail } from './publish/tail.ts';
import { type Control, connectControl } from './redis/control.ts';
import { startEmbedded } from './redis/embedded.ts';
import { parseEndpoint } from './redis/endpoint.ts';
import { faultOf } from './redis/faults.ts';
import { Fence } from './redis/fence.ts';
import { plainTopology, type Topology, topologyOf } from './redis/topology.ts';
import { scanModels } from './repository/repository.ts';
import type { Batch } from './schedule/batch.ts';
import { Batcher } from './schedule/batcher.ts';
import { ENTRY_FIELDS } from './schedule/entry.ts';
import { Intake } from './schedule/intake.ts';
import { BatchRunner } from './schedule/runner.ts';

export interface EngineOptions {
  /** More figures for `/stats`, by section. */
  readonly sections?: Readonly<Record<string, () => unknown>>;
  /** More JSON routes of the gateway, by path. */
  readonly routes?: Readonly<Record<string, () => unknown>>;
  /** Aborted during the start: it is given up, and nothing of it is left behind. Later it means nothing. */
  readonly signal?: AbortSignal;
  /**
   * False: what other engines left behind is left alone, their entries and their consumers, and streams are
   * not trimmed; for measuring what that costs. Default true.
   */
  readonly upkeep?: boolean;
  /** A module whose `open` takes the place of InferenceSession.create: providers that are not there. */
  readonly opener?: string;
}

export interface Engine {
  readonly backend: Backend;
  /** Where the gateway listens. */
  readonly url: string;
  /**
   * The server in use; for an embedded one this is where redis-cli finds it. Of a cluster, and of sentinels:
   * those that are configured, joined by commas.
   */
  readonly redisUrl: string;
  /** Models that were found and are not served, with the reason. */
  readonly problems: readonly ModelProblem[];
  /**
   * Settles what has been read, then closes the sockets. Rejects with STOP_TIMEOUT when that took longer than
   * limits.stopMsMax: what is then unsettled stays pending in Redis, where others may take it at once.
   */
  stop(): Promise<void>;
}

const TICK_MS = 1000;
/** What the tail has not pushed this long after the last commit, it will not push. */
const LAST_PUSH_MS = 50;

/**
 * Starts everything, in flow order; resolves when the first event can be served. Rejects with a SubitoError.
 */
export async function startEngine(config: Config, options: EngineOptions = {}): Promise<Engine> {
  const parts = new Parts();
  const { signal } = options;
  const givenUp = Promise.withResolvers<never>();
  const giveUp = () => givenUp.reject(signal?.reason);
  signal?.addEventListener('abort', giveUp);
  try {
    signal?.throwIfAborted();
    return await Promise.race([wire(config, options, parts), givenUp.promise]);
  } catch (error) {
    await parts.abandon();
    throw ofRedis(error) ?? error;
  } finally {
    signal?.removeEventListener('abort', giveUp);
  }
}

/** Redis went away, or refused, in the middle of the start: the same to its caller as not being there. */
function ofRedis(error: unknown): SubitoError | null {
  const message = messageOf(error);
  if (error instanceof SubitoError || faultOf(message).prefix === '') return null;
  const why = faultOf(message).why;
  return new SubitoError('REDIS_UNREACHABLE', `during the start: ${message} (${why})`, { cause: error });
}

/** What has been started so far, so that a start that fails half-way leaves nothing behind. */
class Parts {
  readonly #closers: (() => unknown)[] = [];
  #abandoned = false;

  /** Throws when the start was given up meanwhile; the part is closed then. */
  add<T>(part: T, close: (part: T) => unknown): T {
    if (this.#abandoned) {
      close(part);
      throw new Error('the start was given up');
    }
    this.#closers.push(() => close(part));
    return part;
  }

  /** Last started, first closed. */
  async abandon(): Promise<void> {
    this.#abandoned = true;
    for (const close of this.#closers.reverse()) await close();
  }
}

// tidy: the whole flow in one function, so that it can be read in one sitting.
async function wire(config: Config, options: EngineOptions, parts: Parts): Promise<Engine> {
  const { limits } = config;
  const { upkeep = true } = options;
  const partitions = partitionStreams(config.streams);
  let state: EngineState = 'starting';

  const choice = loadNative(config.native);
  const { native } = choice;
  notice('info', 'NATIVE', nativeText(choice));
  // Redis and the models need each other's time, not each other.
  const { specs, problems } = scanModels(config.models.path, limits);
  const { opener = null } = options;
  const starting = startPool({ ...poolOptions(config), specs, native: native !== null, opener });
  parts.add(starting, async (started) => (await started.catch(() => null))?.stop());
  const { topology, redisUrl } = await openRedis(config, options, parts);
  const { redisCommandMsMax: commandMsMax } = limits;
  const connecting = connectControl({ topology, commandMsMax, signal: options.signal });
  const control = parts.add(await connecting, (c) => c.close());
  const makeGroup = (p: StreamPartition) => ensureGroup(control, { ...p, stream: p.name });
  for (const partition of partitions) await makeGroup(partition);
  const pool = await starting;
  const allProblems = [...problems, ...pool.problems];
  if (pool.loaded.length === 0) throw noModel(config.models.path, allProblems);

  // Who we are in the consumer groups; given up last, for others may have it then.
  const taking = takeConsumer({ control, partitions, ttlMs: limits.claimIdleMs });
  const consumer = parts.add(await taking, (c) => c.stop());

  // schedule
  const batcher = new Batcher<Batch>(pool.threads, (lane, batch) => runner.run(lane, batch));
  const lanes = buildLanes({ batcher, specs, pool, limits, native });
  pool.onRowsMax = (slot, rowsMax) => lanes.limitRows(slot, rowsMax);
  const intake = new Intake({ ...limits, native, batcher, lanes: lanes.models, rejects: lanes.rejects });
  const runner: BatchRunner = new BatchRunner({
    batcher,
    streamNames: partitions.map(({ name }) => name),
    infer: (task) => pool.run(task),
    settle: (batch, model, record) => committer.settle(batch, model, record),
    onRan: (rows, deliveries) => intake.ran(rows, deliveries),
    onFreeRows: (rows) => {
      intake.released(rows);
      for (const reader of readers) reader.kick();
    },
  });
  for (const lane of [...lanes.models, lanes.rejects]) runner.addLane(lane);

  // publish
  const fences = partitions.map(() => new Fence());
  const committer: Committer = parts.add(
    new Committer({
      consumer: () => consumer.name,
      streams: partitions.map((p) => ({
        ...p,
        endpoint: topology.where(p.name),
        fence: fences[p.index] as Fence,
      })),
      onSettled: (batch) => runner.settled(batch),
      writeRows: native === null ? writeRows : nativeWriteRows(native),
    }),
    (c) => c.close(),
  );
  committer.start();

  // ingest
  const readers = partitions.map((partition) => {
    const stream = intakeStream(partition, lanes.models);
    const reader = new StreamReader({
      endpoint: topology.where(partition.name),
      stream: partition.name,
      group: partition.group,
      consumer: () => consumer.name,
      fields: ENTRY_FIELDS,
      entryBytesMax: limits.entryBytesMax,
      countMax: limits.readCountMax,
      blockMs: limits.readBlockMs,
      claimIdleMs: upkeep ? limits.claimIdleMs : null,
      deliveriesMax: limits.deliveriesMax,
      fence: fences[partition.index] as Fence,
      demand: () => intake.demand(stream),
      demandAlone: () => intake.demandAlone(stream),
      alone: intake.alone,
      received: () => intake.received(nowMs()),
      take: (buffer, entry, mark) => intake.take(stream, buffer, entry, mark),
      takeMany: (buffer, start, end, max, mark) => intake.takeMany(stream, buffer, start, end, max, mark),
      isInHand: (id) => intake.isInHand(stream, id),
      reject: (id, deliveries, detail) =>
        intake.reject(stream, id, detail, deliveries > limits.deliveriesMax),
      flush: () => batcher.flush(),
      createGroup: () => makeGroup(partition),
      unblock: (clientId) => control.unblock(clientId, partition.name),
    });
    return parts.add(reader, (r) => r.close());
  });

  if (upkeep) {
    const [idleMs, everyMs] = [limits.claimIdleMs * 2, limits.claimIdleMs];
    const reaper = startReaper({ control, partitions, consumer: () => consumer.name, idleMs, everyMs });
    parts.add(reaper, (r) => r.stop());
    parts.add(startTrimmer({ control, partitions }), (t) => t.stop());
  }

  // observe
  const backlogs = new Map<string, StreamBacklog>();
  const models = new ServedModels(specs, pool);
  const sources: Sources = {
    state: () => stateOf(state, committer, readers, models),
    backlog: () => [...backlogs.values()],
    inflightRows: () => intake.rowsInFlight,
    connections: () => gateway?.connections ?? 0,
    workers: () => pool.threads,
    models: () => models.list(),
    sessions: () => models.sessions(),
    fallbacks: () => models.fallbacks(),
  };
  const totals = parts.add(new Totals(), (t) => t.stop());
  const metrics = createMetrics({ totals, sources, now: nowMs });
  const stats = parts.add(
    createStats({ totals, sources, now: nowMs, targetMs: config.latency.targetMs }),
    (s) => s.stop(),
  );
  const work = { batcher, lanes: lanes.models, totals, targetMs: config.latency.targetMs };
  const scaling = { ...work, pool, now: nowMs, isServing: () => state === 'running' };
  parts.add(scaleWorkers(scaling), (stopScaling) => stopScaling());
  for (const [name, section] of Object.entries(options.sections ?? {})) stats.addSection(name, section);
  const tick = () => {
    followWallClock();
    for (const reader of readers) reader.check();
    committer.check();
    for (const { name, group } of partitions) {
      void control.backlog(name, group).then((backlog) => backlogs.set(name, backlog));
    }
  };
  tick();
  parts.add(setInterval(tick, TICK_MS), clearInterval);

  // gateway
  let gateway: Gateway | null = null;
  const tails = [...new Set(partitions.map(({ predictions }) => predictions))].map((stream) => {
    const tail = new PredictionTail({
      endpoint: topology.where(stream),
      stream,
      entryBytesMax: limits.entryBytesMax,
      countMax: limits.readCountMax,
      blockMs: limits.readBlockMs,
      lastId: () => control.lastId(stream),
      interested: (key, model) => gateway?.hub.interested(key, model) ?? false,
      onPrediction: (prediction) => gateway?.publish(prediction),
    });
    tail.start();
    return parts.add(tail, (t) => t.close());
  });
  const backend = createBackend({
    lanes: lanes.models,
    infos: lanes.infos,
    intake,
    batcher,
    control,
    partitions,
    sources,
    served: models,
    problems: allProblems,
    wantPredictions: (wanted) => {
      for (const tail of tails) tail.want(wanted);
    },
    metrics: () => metrics.render(),
    stats: () => stats.snapshot(),
  });
  const opened = parts.add(await openGateway(config, backend, options), (g) => g.drain());
  gateway = opened;
  for (const reader of readers) reader.start();
  state = 'running';

  return {
    backend,
    url: opened.url,
    redisUrl,
    problems: allProblems,
    /** Intake, queue, inference, commits, sockets; then a hard stop by a deadline. */
    stop: async () => {
      state = 'draining';
      const lateMs = performance.now() + limits.stopMsMax;
      // A timer that is left over must not keep the process.
      const late = sleep(limits.stopMsMax, undefined, { ref: false });
      await Promise.race([Promise.all(readers.map((reader) => reader.stop())), late]);
      while (intake.rowsInFlight > 0 && performance.now() < lateMs) await sleep(1);
      if (opened.connections > 0) await sleep(LAST_PUSH_MS);
      const left = intake.rowsInFlight;
      state = 'stopped';
      // Whatever is read from here on would be given back by nobody.
      for (const reader of readers) reader.close();
      await giveBack(control, partitions, consumer, intake);
      await parts.abandon();
      if (left > 0)
        throw new SubitoError('STOP_TIMEOUT', `${left} events were not settled in ${limits.stopMsMax} ms`);
    },
  };
}

function packageVersion(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

async function openRedis(
  { redis }: Config,
  { signal }: EngineOptions,
  parts: Parts,
): Promise<{ topology: Topology; redisUrl: string }> {
  if (redis.kind !== 'embedded') {
    return { topology: topologyOf(redis), redisUrl: redis.kind === 'url' ? redis.url : redis.urls.join(',') };
  }
  const starting = startEmbedded({ ...redis, signal });
  // Before it runs: one that is still starting must not be left behind either.
  parts.add(starting, async (started) => (await started.catch(() => null))?.stop());
  const server = await starting;
  return { topology: plainTopology(parseEndpoint(server.url)), redisUrl: server.url };
}

function openGateway(config: Config, backend: Backend, { routes = {} }: EngineOptions): Promise<Gateway> {
  const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
  return startGateway({
    ...config.gateway,
    limits: config.limits,
    version: packageVersion(),
    backend,
    staticDir: here('./console/'),
    mounts: { '/vendor/uplot/': dirname(fileURLToPath(import.meta.resolve('uplot'))) },
    routes,
    now: nowMs,
  });
}

function noModel(path: string, problems: readonly ModelProblem[]): SubitoError {
  const reasons = problems.map(({ model, message }) => `\n  ${model}: ${message}`).join('');
  return new SubitoError('ENGINE_NO_MODEL', `no model to serve under ${path}${reasons}`, {
    detail: problems,
  });
}

/** So that the others need not wait for the claim time. Where it fails, they do. */
async function giveBack(
  control: Control,
  partitions: readonly StreamPartition[],
  { name: consumer, token }: Consumer,
  intake: Intake,
): Promise<void> {
  const releasing = partitions.map(({ name: stream, group, index }) =>
    releaseConsumer(control, { stream, group, consumer, token }, intake.runningIds(index)),
  );
  for (const answer of await Promise.allSettled(releasing)) {
    if (answer.status === 'rejected') notice('warn', 'RELEASE_FAILED', messageOf(answer.reason));
  }
}
