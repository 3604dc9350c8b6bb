/**
 * The engine: the four stages wired together in the order in which an event passes them, and stopped in that
 * order.
 *
 *   ingest (readers) -> schedule (intake, batcher, runner) -> infer (pool) -> publish (committer, tail) ->
 *   gateway
 *
 * The stages do not import one another; what one needs of another it is handed here.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { followWallClock, nowMs } from './clock.ts';
import type { Config } from './config.ts';
import { createAdvisor } from './engine/autoscale.ts';
import { createBackend } from './engine/backend.ts';
import { giveBack } from './engine/give-back.ts';
import { createGuard, guardModels } from './engine/guarded.ts';
import { hintProducers } from './engine/hints.ts';
import { buildLanes } from './engine/lanes.ts';
import { poolOptions, ServedModels } from './engine/models.ts';
import { openGateway, openRedis } from './engine/open.ts';
import { Parts } from './engine/parts.ts';
import { hung, stateOf } from './engine/state.ts';
import { intakeStream, partitionStreams, type StreamPartition, targetsOf } from './engine/streams.ts';
import { scaleWorkers } from './engine/workers.ts';
import { messageOf, SubitoError } from './errors.ts';
import type { Backend } from './gateway/backend.ts';
import type { Gateway } from './gateway/server.ts';
import { startPool } from './infer/pool.ts';
import type { ModelProblem } from './infer/protocol.ts';
import { takeConsumer } from './ingest/consumer.ts';
import { StreamReader } from './ingest/reader.ts';
import { startReaper } from './ingest/reaper.ts';
import { ensureGroup } from './ingest/regroup.ts';
import { ClockSkew, watchClock } from './ingest/skew.ts';
import { startTrimmer } from './ingest/trimmer.ts';
import { loadNative, nativeText } from './native.ts';
import { notice } from './observe/channels.ts';
import { createMetrics } from './observe/metrics.ts';
import type { EngineState, Sources, StreamBacklog } from './observe/sources.ts';
import { createStats } from './observe/stats.ts';
import { Totals } from './observe/totals.ts';
import { activeTracer, Tracing } from './observe/tracing.ts';
import { Committer } from './publish/committer.ts';
import { nativeWriteRows, writeRows } from './publish/rows.ts';
import { PredictionTail } from './publish/tail.ts';
import { connectControl } from './redis/control.ts';
import { faultOf } from './redis/faults.ts';
import { Fence } from './redis/fence.ts';
import { scanModels } from './repository/repository.ts';
import { Admission } from './schedule/admission.ts';
import type { Batch } from './schedule/batch.ts';
import { Batcher, type Lane } from './schedule/batcher.ts';
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
  const guarded = guardModels(specs, pool, limits);
  const allProblems = [...problems, ...guarded.problems];
  if (guarded.loaded.length === 0) throw noModel(config.models.path, allProblems);

  // Who we are in the consumer groups; given up last, for others may have it then.
  const taking = takeConsumer({ control, partitions, ttlMs: limits.claimIdleMs });
  const consumer = parts.add(await taking, (c) => c.stop());

  // schedule
  const batcher: Batcher<Batch> = new Batcher<Batch>(
    pool.threads,
    (lane, batch) => runner.run(lane, batch),
    (lane, rows) => admission.costMs(lane, rows),
  );
  const admission = new Admission<Batch>({ batcher, workers: () => pool.threads });
  const isLate = (lane: Lane<Batch>, batch: Batch) => admission.isLate(lane, batch, nowMs());
  const tracer = activeTracer();
  const memory = { specs, pool, loaded: guarded.loaded, limits, native, tracing: tracer !== null };
  const lanes = buildLanes({ batcher, admission, ...memory });
  const guard = createGuard(guarded, pool, limits);
  pool.onRowsMax = (slot, rowsMax) => lanes.limitRows(slot, rowsMax);
  const { models: served, rejects } = lanes;
  const intake = new Intake({ ...limits, native, batcher, admission, lanes: served, rejects });
  const runner: BatchRunner = new BatchRunner({
    batcher,
    streamNames: partitions.map(({ name }) => name),
    guard,
    infer: (task) => pool.run(task),
    settle: (batch, model, record) => committer.settle(batch, model, record),
    admission,
    onFreeRows: (lane, rows, ms) => {
      intake.released(lane, rows, ms);
      batcher.isLate = intake.shedding ? isLate : null;
      for (const reader of readers) reader.kick();
    },
  });
  for (const lane of [...lanes.models, lanes.rejects]) runner.addLane(lane);
  const tracing = tracer === null ? null : new Tracing({ tracer, partitions, lanes: lanes.models });

  // publish
  const fences = partitions.map(() => new Fence());
  const skews = partitions.map(() => new ClockSkew());
  const committer: Committer = parts.add(
    new Committer({
      consumer: () => consumer.name,
      streams: partitions.map((p) => ({
        ...p,
        endpoint: topology.where(p.name),
        fence: fences[p.index] as Fence,
      })),
      onSettled: (batch) => {
        tracing?.settled(batch);
        runner.settled(batch);
      },
      writeRows: native === null ? writeRows : nativeWriteRows(native),
    }),
    (c) => c.close(),
  );
  committer.start();

  // ingest
  const readers = partitions.map((partition) => {
    const stream = intakeStream(partition, lanes.models, skews[partition.index] as ClockSkew);
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

  const hinted = { control, partitions, lanes: lanes.models, limits, consumer, committer };
  const hints = parts.add(hintProducers(hinted), (h) => h.stop());

  // observe
  const backlogs = new Map<string, StreamBacklog>();
  const models = new ServedModels(specs, pool, guarded, guard);
  const sources: Sources = {
    state: () => stateOf(state, committer, readers, models, hung(lanes.models, batcher, admission, nowMs())),
    backlog: () => [...backlogs.values()],
    inflightRows: () => intake.rowsInFlight,
    connections: () => gateway?.connections ?? 0,
    workers: () => pool.threads,
    models: () => models.list(),
    sessions: () => models.sessions(),
    fallbacks: () => models.fallbacks(),
    targets: () => targetsOf(config, partitions, lanes.models),
    breakers: () => guard.breakers(),
    limits: () => admission.limits().map(({ lane, rows }) => ({ model: lane.name, rows })),
    desiredReplicas: () => advisor.report().desired_replicas,
  };
  const totals = parts.add(new Totals(), (t) => t.stop());
  const advisor = createAdvisor({ config, partitions, control, consumer, totals, sources });
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
    for (const { name, group, index } of partitions) {
      void watchClock(control, name, skews[index] as ClockSkew);
      void control.backlog(name, group).then((backlog) => {
        backlogs.set(name, backlog);
        return hints.tell(backlog);
      });
    }
    advisor.tick();
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
    refusal: () => committer.refusal,
    wantPredictions: (wanted) => {
      for (const tail of tails) tail.want(wanted);
    },
    metrics: () => metrics.render(),
    stats: () => stats.snapshot(),
    tracing: tracer !== null,
    autoscale: () => advisor.report(),
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

function noModel(path: string, problems: readonly ModelProblem[]): SubitoError {
  const reasons = problems.map(({ model, message }) => `\n  ${model}: ${message}`).join('');
  return new SubitoError('ENGINE_NO_MODEL', `no model to serve under ${path}${reasons}`, {
    detail: problems,
  });
}
