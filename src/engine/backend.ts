/** The engine as the gateway sees it. */
import { nowMs } from '../clock.ts';
import { SubitoError } from '../errors.ts';
import type { Backend, ModelInfo, StreamEvent } from '../gateway/backend.ts';
import type { ModelProblem } from '../infer/protocol.ts';
import type { Sources } from '../observe/sources.ts';
import type { Control } from '../redis/control.ts';
import { faultOf } from '../redis/faults.ts';
import type { Batch } from '../schedule/batch.ts';
import type { Batcher } from '../schedule/batcher.ts';
import type { Answer, DirectEvent } from '../schedule/direct.ts';
import { PRIORITY_DEFAULT } from '../schedule/entry.ts';
import type { Intake, ModelLane } from '../schedule/intake.ts';
import { RESULT } from '../schedule/slab.ts';
import type { ServedModels } from './models.ts';
import type { StreamPartition } from './streams.ts';

export interface BackendOptions {
  readonly lanes: readonly ModelLane[];
  readonly infos: readonly ModelInfo[];
  readonly intake: Intake;
  readonly batcher: Batcher<Batch>;
  readonly control: Control;
  readonly partitions: readonly StreamPartition[];
  readonly sources: Sources;
  readonly wantPredictions: (wanted: boolean) => void;
  /** What Redis says against settlements that it refuses now; '' while it refuses none. */
  readonly refusal: () => string;
  readonly served: ServedModels;
  /** Models that are not served. */
  readonly problems: readonly ModelProblem[];
  readonly metrics: () => Promise<string>;
  readonly stats: () => unknown;
  readonly tracing: boolean;
  readonly autoscale: () => unknown;
}

/** Rows are free again, and estimates new, within some milliseconds. */
const OVERLOADED_RETRY_MS_MIN = 50;
const UNAVAILABLE_RETRY_MS = 1000;
const NO_OUTPUTS = new Uint8Array(0);

export function createBackend(options: BackendOptions): Backend {
  const { lanes, infos, intake, batcher, control, partitions, sources } = options;
  const defaultModel = partitions[0]?.model ?? (lanes.length === 1 ? (lanes[0] as ModelLane).name : '');
  const laneOf = (name: string) => lanes.find((lane) => lane.name === name || lane.label === name);
  const first = partitions.filter(({ stream }) => stream === partitions[0]?.stream);
  let flushing = false;
  /**
   * Frames that arrive together make one batch: the workers are given work once the sockets have been read.
   */
  const flushSoon = () => {
    if (flushing) return;
    flushing = true;
    setImmediate(() => {
      flushing = false;
      batcher.flush();
    });
  };
  return {
    models: () => infos,
    model: (name) => infos.find((info) => info.name === name || `${info.name}@${info.version}` === name),
    infer(event, answer) {
      const { state, reasons } = sources.state();
      if (state === 'draining' || state === 'stopped' || state === 'starting') {
        answer(refusal('unavailable', reasons[0] ?? `the engine is ${state}`, UNAVAILABLE_RETRY_MS));
        return;
      }
      const lane = laneOf(event.model || defaultModel);
      if (lane === undefined) {
        answer(refusal('unknown_model', unknownModel(event, infos), 0));
        return;
      }
      const why = lane.record ? options.refusal() : '';
      if (why !== '') {
        const detail = `its answers are recorded, which Redis refuses now: ${faultOf(why).why}`;
        answer(refusal('unavailable', detail, UNAVAILABLE_RETRY_MS));
        return;
      }
      const now = nowMs();
      const verdict = intake.takeDirect(lane, event, now, answer);
      if (verdict !== RESULT.ok) {
        answer(refusalOf(verdict, lane, intake.retryMs(lane, now)));
        return;
      }
      flushSoon();
    },
    append(event) {
      const partition = first[partitionOf(event.key, first.length)];
      if (partition === undefined) throw new SubitoError('APPEND_FAILED', 'no input stream is configured');
      return control.append(partition.name, entryFields(event));
    },
    wantPredictions: options.wantPredictions,
    health() {
      const { state, reasons } = sources.state();
      const ready = state === 'running';
      return { live: state !== 'stopped', ready, reasons: ready ? options.served.compromises() : reasons };
    },
    problem: (name) => problemOf(options.problems, name),
    metrics: options.metrics,
    stats: options.stats,
    tracing: options.tracing,
    autoscale: options.autoscale,
  };
}

/** By `name` or `name@version`. */
function problemOf(problems: readonly ModelProblem[], name: string): string | undefined {
  return problems.find(({ model }) => model === name || model.split('@')[0] === name)?.message;
}

function refusal(status: Answer['status'], detail: string, retryMs: number): Answer {
  return { status, model: '', outputs: NO_OUTPUTS, detail, retryMs, waitUs: 0, inferUs: 0 };
}

function refusalOf(verdict: number, { label }: ModelLane, retryMs: number): Answer {
  if (verdict === RESULT.expired)
    return { ...refusal('expired', 'its deadline has passed', 0), model: label };
  const detail = 'more is waiting than can be answered before its deadline';
  return { ...refusal('overloaded', detail, Math.max(OVERLOADED_RETRY_MS_MIN, retryMs)), model: label };
}

function unknownModel({ model }: DirectEvent, infos: readonly ModelInfo[]): string {
  const names = infos.map(({ name }) => name).join(', ') || 'none';
  return model === ''
    ? `model: missing; served are ${names}`
    : `model: "${model}" is not served; served are ${names}`;
}

function entryFields({ key, model, event, data, deadlineMs, priority }: StreamEvent): (string | Buffer)[] {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const fields: (string | Buffer)[] = ['key', key, 'data', bytes];
  if (model !== '') fields.push('model', model);
  if (event !== '') fields.push('event', event);
  if (deadlineMs > 0) fields.push('deadline_ms', String(Math.ceil(deadlineMs)));
  if (priority !== PRIORITY_DEFAULT) fields.push('priority', String(priority));
  return fields;
}

/** FNV-1a: events of one key stay in one partition, and so in order. */
function partitionOf(key: string, partitions: number): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(key)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return partitions === 0 ? 0 : hash % partitions;
}
