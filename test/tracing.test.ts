// Spans of events, as an SDK of OpenTelemetry gets them. The SDK is registered for the whole process, so what
// happens without one comes first.
import { type HrTime, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api';
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BasicTracerProvider,
  InMemorySpanExporter,
  ParentBasedSampler,
  type ReadableSpan,
  type Sampler,
  SimpleSpanProcessor,
  TraceIdRatioBasedSampler,
} from '@opentelemetry/sdk-trace-base';
import { afterEach, describe, expect, test } from 'vitest';
import { loadNative } from '../src/native.ts';
import { activeTracer, Tracing } from '../src/observe/tracing.ts';
import { Batch, ORIGIN_DIRECT } from '../src/schedule/batch.ts';
import { RESULT, ROW, ROW_COLUMNS, RUNG, slabLayout } from '../src/schedule/slab.ts';
import { collectNotices, until } from './support/core.ts';
import {
  entriesOf,
  FIXTURE_MODELS,
  modelsDir,
  predictionOf,
  startTestEngine,
  type TestEngine,
} from './support/engine.ts';

const exporter = new InMemorySpanExporter();
const models = modelsDir({ same: { from: `${FIXTURE_MODELS}same_float32` } });
const FEATURES = Buffer.from(new Float32Array([1, 2, 3]).buffer);

let running: TestEngine | undefined;
afterEach(async () => {
  await running?.stop();
  running = undefined;
  exporter.reset();
});

/** A sampled one that ends in these digits; `flags`: '00' for one that is not sampled. */
const traceparent = (n: number, flags = '01') =>
  `00-${String(n).padStart(32, '0')}-${String(n).padStart(16, '0')}-${flags}`;

function provider(sampler: Sampler = new AlwaysOnSampler()): BasicTracerProvider {
  return new BasicTracerProvider({ sampler, spanProcessors: [new SimpleSpanProcessor(exporter)] });
}

function register(sampler?: Sampler): void {
  trace.disable();
  trace.setGlobalTracerProvider(provider(sampler));
}

const ms = ([seconds, nanoseconds]: HrTime) => seconds * 1000 + nanoseconds / 1e6;
const named = (name: string) => exporter.getFinishedSpans().filter((span) => span.name === name);
const statuses = () => named('subito.event').map(({ attributes }) => attributes['subito.status']);
/** The stages below a span, in the order of their beginnings. */
const stagesOf = (parent: ReadableSpan) =>
  exporter
    .getFinishedSpans()
    .filter(({ parentSpanContext }) => parentSpanContext?.spanId === parent.spanContext().spanId);

async function send(fields: readonly (string | Buffer)[]): Promise<string> {
  return (await (running as TestEngine).client.xadd('events', '*', 'key', 'u1', ...fields)) as string;
}

test('without an SDK nothing is kept, and events with a trace are served like any other', async () => {
  expect(activeTracer()).toBeNull();
  running = await startTestEngine(models);
  const id = await send(['features', FEATURES, 'trace', traceparent(1)]);
  expect((await predictionOf(running.client, id)).outputs).toEqual({ y: [1, 2, 3] });
});

test('an SDK that records nothing is none; one that samples some, or what its callers do, is one', () => {
  const tracerOf = (sampler: Sampler) => {
    register(sampler);
    return activeTracer();
  };
  expect(tracerOf(new AlwaysOffSampler())).toBeNull();
  expect(tracerOf(new ParentBasedSampler({ root: new AlwaysOffSampler() }))).not.toBeNull();
  expect(tracerOf(new TraceIdRatioBasedSampler(0.01))).not.toBeNull();
  expect(exporter.getFinishedSpans()).toEqual([]);
});

const ways = loadNative('auto').native === null ? (['off'] as const) : (['off', 'on'] as const);
describe.each(ways)('native: %s', (native) => {
  test('sampled events of a stream have spans with their real times; others have none', async () => {
    register();
    running = await startTestEngine(models, { native });
    const { client } = running;
    const all = client.multi();
    const base = ['events', '*', 'key', 'secret-user', 'features', FEATURES] as const;
    all.xadd(...base);
    all.xadd(...base, 'trace', traceparent(11));
    all.xadd(...base, 'trace', traceparent(12, '00'));
    all.xadd(...base, 'trace', traceparent(13, '03'));
    all.xadd(...base);
    const ids = ((await all.exec()) ?? []).map(([, id]) => id as string);
    for (const id of ids) await predictionOf(client, id);
    await until('two events are traced', () => named('subito.event').length === 2);

    const [event] = named('subito.event');
    expect(event?.spanContext().traceId).toBe('11'.padStart(32, '0'));
    expect(event?.parentSpanContext).toMatchObject({ spanId: '11'.padStart(16, '0'), isRemote: true });
    expect(event?.kind).toBe(SpanKind.CONSUMER);
    expect(event?.status.code).toBe(SpanStatusCode.UNSET);
    const entryId = ids[1] as string;
    expect(event?.attributes).toMatchObject({
      'subito.stream': 'events',
      'subito.model': 'same@1',
      'subito.status': 'ok',
      'subito.entry_id': entryId,
    });
    expect(ms(event!.startTime)).toBeCloseTo(Number.parseInt(entryId, 10), 3);
    const stages = stagesOf(event!);
    expect(stages.map(({ name }) => name)).toEqual([
      'subito.wait',
      'subito.queue',
      'subito.infer',
      'subito.commit',
    ]);
    expect(stages[0]?.startTime).toEqual(event?.startTime);
    expect(stages.at(-1)?.endTime).toEqual(event?.endTime);
    for (const [i, stage] of stages.slice(1).entries()) expect(stage.startTime).toEqual(stages[i]?.endTime);
    const { fields } = await predictionOf(client, entryId);
    const waitedMs = ms(stages[2]!.startTime) - ms(event!.startTime);
    expect(waitedMs).toBeCloseTo(Number(fields['wait_us']) / 1000, 1);
    const inferMs = ms(stages[2]!.endTime) - ms(stages[2]!.startTime);
    expect(inferMs).toBeGreaterThanOrEqual(Number(fields['infer_us']) / 1000 - 0.1);

    const batches = named('subito.batch');
    expect(batches.flatMap(({ links }) => links.map(({ context }) => context.traceId)).sort()).toEqual(
      [11, 13].map((n) => String(n).padStart(32, '0')),
    );
    expect(event?.links[0]?.context.spanId).toBe(batches[0]?.spanContext().spanId);
    expect(JSON.stringify(exporter.getFinishedSpans().map((span) => span.attributes))).not.toContain(
      'secret',
    );
  });

  test('what is dead-lettered is an error, whether it was run or not', async () => {
    register();
    running = await startTestEngine(models, { native });
    await send(['data', '{"x":"no numbers"}', 'trace', traceparent(21)]);
    await send(['features', 'short', 'trace', traceparent(22)]);
    await send(['features', FEATURES, 'trace', 'no traceparent']);
    await until('all are dead letters', async () => {
      return (await entriesOf((running as TestEngine).client, 'deadletters')).length === 3;
    });
    await until('two are traced', () => named('subito.event').length === 2);
    expect(statuses()).toEqual(['invalid', 'invalid']);
    for (const event of named('subito.event')) {
      expect(event.status).toEqual({ code: SpanStatusCode.ERROR, message: 'invalid' });
      const isRun = event.spanContext().traceId.endsWith('21');
      expect(stagesOf(event).some(({ name }) => name === 'subito.infer')).toBe(isRun);
    }
  });
});

test('over HTTP the header is the parent, of the first row; a bad header is ignored', async () => {
  register();
  running = await startTestEngine(models);
  const { url } = running.engine;
  const post = async (header: string, body: object) => {
    const response = await fetch(`${url}/v2/models/same/infer`, {
      method: 'POST',
      headers: { traceparent: header, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    expect(response.status).toBe(200);
  };
  await post(traceparent(31), { data: { x: [1, 2, 3] } });
  const tensor = { name: 'x', datatype: 'FP32', shape: [2, 3], data: [1, 2, 3, 4, 5, 6] };
  await post(traceparent(32), { inputs: [tensor] });
  await post('00-nonsense', { data: { x: [1, 2, 3] } });
  await post(traceparent(33, '00'), { data: { x: [1, 2, 3] } });
  await until('both are traced', () => named('subito.event').length === 2);
  const events = named('subito.event');
  expect(events.map((span) => span.spanContext().traceId.slice(-2))).toEqual(['31', '32']);
  for (const event of events) {
    expect(event.kind).toBe(SpanKind.SERVER);
    expect(event.attributes['subito.stream']).toBe('direct');
    expect(event.attributes).not.toHaveProperty('subito.entry_id');
    expect(stagesOf(event).map(({ name }) => name)).toEqual([
      'subito.queue',
      'subito.infer',
      'subito.commit',
    ]);
  }
});

describe('by hand', () => {
  const layout = slabLayout([], [], 1200, 64);
  const newBatch = () =>
    new Batch({ rowsMax: 1200, layout, slab: 0, keyBytesMax: 8, eventIdBytesMax: 8, tracing: true });

  function tracingOf(batch: Batch, nowMs: () => number): Tracing {
    const tracer = provider().getTracer('test');
    const lanes = [{ label: 'm@1', all: [batch] }];
    return new Tracing({ tracer, partitions: [{ name: 'events' }], lanes, now: nowMs });
  }

  function fill(batch: Batch, results: readonly number[]): void {
    for (const result of results) {
      const row = batch.rows;
      batch.table[row * ROW_COLUMNS + ROW.result] = result;
      batch.origin[row] = row % 2 === 0 ? 0 : ORIGIN_DIRECT;
      // The clock of Redis is ahead of ours.
      batch.arrivedMs[row] = 5000;
      batch.readMs[row] = 4990;
      batch.keepTrace(row, traceparent(row + 1));
      batch.rows += 1;
    }
    batch.dispatchedMs = 4991;
    batch.inferredMs = 4995;
  }

  test('each outcome by its name; no stage ends before it began; a reset batch keeps no trace', () => {
    const batch = newBatch();
    fill(batch, [0, 0, 1, 2, 3, 4, 5, 6]);
    batch.rungs[1] = RUNG.last_known;
    batch.duplicatesDead = 2;
    batch.deliveries = 3;
    tracingOf(batch, () => 5003).settled(batch);
    expect(statuses()).toEqual(['ok', 'degraded', ...Object.keys(RESULT).slice(1)]);
    expect(named('subito.event')[1]?.attributes).toMatchObject({
      'subito.rung': 'last_known',
      'subito.batch.duplicates': 2,
      'subito.deliveries': 3,
    });
    for (const span of named('subito.event')) {
      expect([ms(span.startTime), ms(span.endTime)]).toEqual([5000, 5003]);
      const [status, name] = [span.status.code, span.attributes['subito.status'] as string];
      const isError = ['invalid', 'failed', 'expired', 'overloaded'].includes(name);
      expect(status === SpanStatusCode.ERROR, name).toBe(isError);
    }
    batch.reset();
    expect([batch.traced, batch.traces?.every((one) => one === null)]).toEqual([0, true]);
  });

  test('more events in a second than are made spans of: the rest is left out, and said', () => {
    const batch = newBatch();
    fill(batch, new Array<number>(1100).fill(0));
    const notices = collectNotices();
    let nowMs = 5003;
    const tracing = tracingOf(batch, () => nowMs);
    for (let i = 0; i < 2; i += 1) tracing.settled(batch);
    expect(named('subito.event')).toHaveLength(1000);
    nowMs += 1000;
    tracing.settled(batch);
    notices.stop();
    expect(named('subito.event')).toHaveLength(2000);
    expect(notices.codes()).toEqual(['TRACES_LEFT_OUT', 'TRACES_LEFT_OUT']);
  });

  test('an SDK that throws is its own trouble', () => {
    const batch = newBatch();
    fill(batch, [0]);
    const notices = collectNotices();
    const tracer = { startSpan: () => expect.unreachable('no span'), startActiveSpan: () => null };
    const options = { tracer: tracer as never, partitions: [], lanes: [] };
    new Tracing(options).settled(batch);
    notices.stop();
    expect(notices.codes()).toEqual(['TRACING_FAILED']);
  });
});
