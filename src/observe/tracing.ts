/**
 * Spans of the events that carry a sampled traceparent, by the API of OpenTelemetry. Who wants them brings an
 * SDK, which registers itself before the engine starts (`node --import`); without one there is no tracer, no
 * traceparent is kept, and none of this runs.
 *
 *   subito.batch          dispatched to inferred, a trace of its own; linked to the events in it
 *   subito.event          entry id or arrival to settlement, a child of whoever sent the event
 *     subito.wait         until its bytes lay in a slab
 *     subito.queue        until a worker was given the slab
 *     subito.infer        until the worker's answer was there; not for an event that was never run
 *     subito.commit       until Redis had confirmed the settlement
 *
 * Spans are made when a batch is settled, from the times in its columns, so that nothing is kept open
 * meanwhile.
 */
import {
  type HrTime,
  type Link,
  ROOT_CONTEXT,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { nowMs } from '../clock.ts';
import { messageOf } from '../errors.ts';
import { type Batch, ORIGIN_DIRECT, resultOf } from '../schedule/batch.ts';
import { RESULT, RUNG } from '../schedule/slab.ts';
import { notice } from './channels.ts';

/**
 * Events per second of which spans are made; the rest of a second's are left out, with a notice. One costs 12
 * to 18 us of the main thread where the SDK batches its spans and exports them nowhere (on 2 cores): so about
 * a fiftieth of it goes to tracing, and what the exporter takes.
 */
const EVENTS_PER_SECOND_MAX = 1000;
const SECOND_MS = 1000;

const STATUS_NAMES = Object.keys(RESULT);
const RUNG_NAMES = Object.keys(RUNG);
/** What did not become what its sender had asked for. */
const ERRORS: ReadonlySet<string> = new Set(['invalid', 'failed', 'expired', 'overloaded']);

/** Sampled by whoever samples anything: a ratio is taken of the trace id, from below. */
const PROBE: SpanContext = {
  traceId: '00000000000000000000000000000001',
  spanId: '0000000000000001',
  traceFlags: TraceFlags.SAMPLED,
  isRemote: true,
};

/** A tracer whose spans go somewhere, or null. */
export function activeTracer(): Tracer | null {
  const tracer = trace.getTracer('subito');
  // Never ended, and so never exported.
  const span = tracer.startSpan('subito.start', {}, trace.setSpanContext(ROOT_CONTEXT, PROBE));
  return span.isRecording() ? tracer : null;
}

export interface TracingOptions {
  readonly tracer: Tracer;
  /** Input streams, in the order of the rows' origins. */
  readonly partitions: readonly { readonly name: string }[];
  readonly lanes: readonly { readonly label: string; readonly all: readonly Batch[] }[];
  /** Unix milliseconds. */
  readonly now?: () => number;
}

/** What is the same for all rows of a batch that is settled. */
interface Settled {
  readonly batch: Batch;
  readonly model: string;
  readonly settledMs: number;
  readonly links: Link[];
}

export class Tracing {
  readonly #options: TracingOptions;
  readonly #now: () => number;
  /** `name@version` by slab. */
  readonly #models: string[] = [];
  /** Events of the second that began at `#secondMs`. */
  #events = 0;
  #secondMs = 0;

  constructor(options: TracingOptions) {
    this.#options = options;
    this.#now = options.now ?? nowMs;
    for (const { label, all } of options.lanes) for (const { slab } of all) this.#models[slab] = label;
  }

  /** To be called before the batch is reset. */
  settled(batch: Batch): void {
    const { traces } = batch;
    if (traces === null || batch.traced === 0) return;
    const settledMs = this.#now();
    const rows: number[] = [];
    for (let row = 0; row < batch.rows; row += 1) {
      if (traces[row] !== null && this.#admits(settledMs)) rows.push(row);
    }
    try {
      this.#export(batch, traces as readonly string[], rows, settledMs);
    } catch (error) {
      // The SDK's trouble is not the events'.
      notice('error', 'TRACING_FAILED', messageOf(error));
    }
  }

  #admits(atMs: number): boolean {
    if (Math.abs(atMs - this.#secondMs) >= SECOND_MS) {
      this.#secondMs = atMs;
      this.#events = 0;
    }
    this.#events += 1;
    if (this.#events <= EVENTS_PER_SECOND_MAX) return true;
    const message = `more than ${EVENTS_PER_SECOND_MAX} sampled events in a second; sample fewer`;
    if (this.#events === EVENTS_PER_SECOND_MAX + 1) notice('warn', 'TRACES_LEFT_OUT', message);
    return false;
  }

  #export(batch: Batch, traces: readonly string[], rows: readonly number[], settledMs: number): void {
    if (rows.length === 0) return;
    const model = this.#models[batch.slab] ?? '';
    const links: Link[] = [];
    if (model !== '') {
      const attributes = { 'subito.model': model, 'subito.batch.rows': batch.rows };
      const senders = rows.map((row) => ({ context: remoteContext(traces[row] as string) }));
      const startTime = timeOf(batch.dispatchedMs);
      const options = { startTime, attributes, links: senders };
      const span = this.#options.tracer.startSpan('subito.batch', options, ROOT_CONTEXT);
      if (span.isRecording()) links.push({ context: span.spanContext() });
      span.end(timeOf(Math.max(batch.dispatchedMs, batch.inferredMs)));
    }
    for (const row of rows) this.#event({ batch, model, settledMs, links }, row, traces[row] as string);
  }

  #event({ batch, model, settledMs, links }: Settled, row: number, traceparent: string): void {
    const { tracer, partitions } = this.#options;
    const origin = batch.origin[row] as number;
    const isDirect = origin === ORIGIN_DIRECT;
    const result = resultOf(batch, row);
    const rung = batch.rungs[row] as number;
    const status = result === RESULT.ok && rung !== RUNG.none ? 'degraded' : STATUS_NAMES[result];
    const arrivedMs = batch.arrivedMs[row] as number;
    const context = trace.setSpanContext(ROOT_CONTEXT, remoteContext(traceparent));
    const attributes: Record<string, string | number> = {
      'subito.stream': isDirect ? 'direct' : (partitions[origin]?.name ?? ''),
      'subito.status': status ?? '',
      'subito.batch.rows': batch.rows,
    };
    if (model !== '') attributes['subito.model'] = model;
    if (!isDirect) attributes['subito.entry_id'] = batch.id(row);
    if (status === 'degraded') attributes['subito.rung'] = RUNG_NAMES[rung] ?? '';
    if (batch.deliveries > 1) attributes['subito.deliveries'] = batch.deliveries;
    // Which rows somebody else had settled before is not known.
    const duplicates = batch.duplicatesOk + batch.duplicatesDead;
    if (duplicates > 0) attributes['subito.batch.duplicates'] = duplicates;
    const kind = isDirect ? SpanKind.SERVER : SpanKind.CONSUMER;
    const startTime = timeOf(arrivedMs);
    const span = tracer.startSpan('subito.event', { kind, startTime, attributes, links }, context);
    const inner = trace.setSpan(context, span);
    let atMs = arrivedMs;
    // Redis's clock and ours may disagree: no stage ends before it began.
    const stage = (name: string, endMs: number): void => {
      const child = tracer.startSpan(name, { startTime: timeOf(atMs) }, inner);
      atMs = Math.max(atMs, endMs);
      child.end(timeOf(atMs));
    };
    if (span.isRecording()) {
      if (!isDirect) stage('subito.wait', batch.readMs[row] as number);
      stage('subito.queue', batch.dispatchedMs);
      if (batch.layout !== null && result < RESULT.expired) stage('subito.infer', batch.inferredMs);
      stage('subito.commit', settledMs);
      if (ERRORS.has(status ?? '')) span.setStatus({ code: SpanStatusCode.ERROR, message: status ?? '' });
    }
    span.end(timeOf(atMs));
  }
}

/** Of a traceparent whose form has been checked: version-traceid-spanid-flags. */
function remoteContext(traceparent: string): SpanContext {
  return {
    traceId: traceparent.slice(3, 35),
    spanId: traceparent.slice(36, 52),
    traceFlags: TraceFlags.SAMPLED,
    isRemote: true,
  };
}

/** Whole seconds and nanoseconds: a bare number may be taken for one of performance.now(). */
function timeOf(unixMs: number): HrTime {
  const seconds = Math.trunc(unixMs / 1000);
  return [seconds, Math.trunc((unixMs - seconds * 1000) * 1e6)];
}
