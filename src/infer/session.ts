/**
 * An ONNX Runtime session over slab memory: tensors are views of the slab, nothing is copied in or out. On
 * other providers than the CPU, batches that are no bucket's size are padded, and copied for it (padding.ts).
 */
import { type InferenceSession, Tensor } from 'onnxruntime-node';
import { ROW_COLUMNS, type SlabLayout, type TensorSpec } from '../schedule/slab.ts';
import { OutputColumn } from './columns.ts';
import type { RowView } from './handler.ts';
import { inNative, NativeHalted } from './native.ts';
import type { Padding } from './padding.ts';
import type { ProviderName } from './protocol.ts';
import { sliceOf, type TensorData, viewOf } from './tensors.ts';

/** Of the model's tensors, all that running it needs. */
export interface SessionShape {
  readonly inputs: readonly TensorSpec[];
  readonly outputs: readonly TensorSpec[];
  /** The graph's tensors have a batch dimension in front of the row's shape. */
  readonly leading: boolean;
  /** Several rows may run at once. */
  readonly batched: boolean;
}

/** A batch's tensors over the memory of its rows. */
interface Binding {
  readonly feeds: Record<string, Tensor>;
  /** A tensor over the slab's region, or null where ONNX Runtime allocates. */
  readonly fetches: Record<string, Tensor | null>;
}

/** A slab as this worker sees it, with the views that are made once and kept. */
export class SlabView {
  readonly table: Int32Array;
  readonly bytes: Buffer<ArrayBufferLike>;
  readonly view: DataView;
  readonly layout: SlabLayout;
  /** Regions of the inputs; text has none and lies in an array of this worker's own. */
  readonly inputs: readonly TensorData[];
  readonly columns: readonly OutputColumn[];
  /** Of batches from row 0 on, by number of rows. */
  readonly bindings = new Map<number, Binding>();
  readonly #rows: (Record<string, RowView> | undefined)[] = [];
  readonly #specs: readonly TensorSpec[];

  constructor(shape: SessionShape, layout: SlabLayout, shared: SharedArrayBuffer) {
    if (shared.byteLength < layout.bytes) {
      throw new RangeError(`the slab has ${shared.byteLength} bytes, its layout needs ${layout.bytes}`);
    }
    this.layout = layout;
    this.table = new Int32Array(shared, 0, layout.rows * ROW_COLUMNS);
    this.bytes = Buffer.from(shared);
    this.view = new DataView(shared);
    this.#specs = shape.inputs;
    const region = (spec: TensorSpec, offset: number) =>
      viewOf(spec.dtype, shared, offset, layout.rows * spec.elements);
    this.inputs = shape.inputs.map((spec, i) =>
      spec.dtype === 'string'
        ? new Array<string>(layout.rows * spec.elements).fill('')
        : region(spec, layout.inputOffsets[i]!),
    );
    this.columns = shape.outputs.map((spec, i) => {
      const offset = layout.outputOffsets[i]!;
      return new OutputColumn(spec, offset === -1 ? null : region(spec, offset));
    });
  }

  /** Row `row` of every input, by name, for a handler to fill. Text is written back with `keepText`. */
  row(row: number): Record<string, RowView> {
    let views = this.#rows[row];
    if (views === undefined) {
      views = {};
      for (let i = 0; i < this.#specs.length; i++) {
        const { name, elements } = this.#specs[i]!;
        views[name] = sliceOf(this.inputs[i]!, row * elements, (row + 1) * elements);
      }
      this.#rows[row] = views;
    }
    return views;
  }

  /** Copies the text that a handler put into `row`'s plain arrays to where the run reads it. */
  keepText(row: number, views: Record<string, RowView>): void {
    for (let i = 0; i < this.#specs.length; i++) {
      const { name, elements } = this.#specs[i]!;
      const target = this.inputs[i]!;
      if (!Array.isArray(target)) continue;
      const text = views[name] as string[];
      for (let k = 0; k < elements; k++) target[row * elements + k] = String(text[k] ?? '');
    }
  }
}

/** A session on one provider. */
export interface OpenedSession {
  readonly session: InferenceSession;
  readonly provider: ProviderName;
  /** null: batches run as they are. */
  readonly padding: Padding | null;
}

/**
 * Asked when a run failed on a provider other than the CPU. Resolves with a session on another provider when
 * this one is at fault; with null when it is well, so that it must be the rows. Rejects when the provider is
 * at fault and there is no other.
 */
export type Rescue = (failed: OpenedSession, error: unknown) => Promise<OpenedSession | null>;

export class ModelSession {
  readonly #shape: SessionShape;
  readonly #rescue: Rescue | null;
  /** Some output is allocated by ONNX Runtime and must be fetched from its answer. */
  readonly #allocates: boolean;
  #opened: OpenedSession;
  #rescuing: Promise<OpenedSession | null> | null = null;

  constructor(opened: OpenedSession, shape: SessionShape, rescue: Rescue | null = null) {
    this.#opened = opened;
    this.#shape = shape;
    this.#rescue = rescue;
    this.#allocates = shape.outputs.some((spec) => spec.rowBytes === 0);
  }

  /** What it runs on now. */
  get provider(): ProviderName {
    return this.#opened.provider;
  }

  /** Runs `rows` rows from `first` on at once. Rejects with ONNX Runtime's error. */
  async run(slab: SlabView, first: number, rows: number): Promise<void> {
    await this.#orElsewhere(async ({ session, padding }) => {
      const ranAs = padding?.rowsFor(rows) ?? rows;
      const isPadded = padding !== null && ranAs !== rows;
      const { feeds, fetches } = isPadded ? padding.take(slab, first, rows) : this.#bound(slab, first, rows);
      const results = await inNative(() => runAtOnce(session, feeds, fetches));
      if (isPadded) padding.give(slab, first, rows);
      if (this.#allocates) collect(slab, results, first, ranAs);
    });
  }

  /** Runs row `row` alone. */
  async runAlone(slab: SlabView, row: number): Promise<void> {
    await this.#orElsewhere(async ({ session }) => {
      const binding = this.#bind(slab, row, 1);
      this.#feedText(binding, slab, row, 1);
      const results = await inNative(() => runAtOnce(session, binding.feeds, binding.fetches));
      for (const column of slab.columns) {
        if (column.region !== null) continue;
        const { data, dims } = results[column.spec.name]!;
        column.alone(row, data as TensorData, this.#shape.batched ? dims.slice(1) : dims);
      }
    });
  }

  /** When the provider is at fault, once more on the next one. */
  async #orElsewhere(run: (opened: OpenedSession) => Promise<void>): Promise<void> {
    const opened = this.#opened;
    try {
      await run(opened);
    } catch (error) {
      if (error instanceof NativeHalted || !(await this.#moved(opened, error))) throw error;
      await run(this.#opened);
    }
  }

  /** True: the session is another one than `failed` by now. Rows that run alone may fail side by side. */
  async #moved(failed: OpenedSession, error: unknown): Promise<boolean> {
    if (failed !== this.#opened) return true;
    if (this.#rescue === null || failed.provider === 'cpu') return false;
    this.#rescuing ??= this.#rescue(failed, error).finally(() => {
      this.#rescuing = null;
    });
    const found = await this.#rescuing;
    if (found !== null) this.#opened = found;
    return found !== null;
  }

  /** Feeds and fetches over the slab's memory; those of a batch from row 0 on are kept. */
  #bound(slab: SlabView, first: number, rows: number): Binding {
    let binding = first === 0 ? slab.bindings.get(rows) : undefined;
    if (binding === undefined) {
      binding = this.#bind(slab, first, rows);
      if (first === 0) slab.bindings.set(rows, binding);
    }
    this.#feedText(binding, slab, first, rows);
    return binding;
  }

  #bind(slab: SlabView, row: number, rows: number): Binding {
    const { inputs, outputs, leading, batched } = this.#shape;
    const tensor = (spec: TensorSpec, data: TensorData, lead: boolean) =>
      new Tensor(
        spec.dtype,
        sliceOf(data, row * spec.elements, (row + rows) * spec.elements) as never,
        lead ? [rows, ...spec.shape] : spec.shape,
      );
    const feeds: Record<string, Tensor> = {};
    const fetches: Record<string, Tensor | null> = {};
    inputs.forEach((spec, i) => {
      feeds[spec.name] = tensor(spec, slab.inputs[i]!, leading);
    });
    outputs.forEach((spec, i) => {
      const { region } = slab.columns[i]!;
      fetches[spec.name] = region === null ? null : tensor(spec, region, batched);
    });
    return { feeds, fetches };
  }

  /** A tensor of text holds a copy of the strings, so it is made anew for every run. */
  #feedText(binding: Binding, slab: SlabView, row: number, rows: number): void {
    const { inputs, leading } = this.#shape;
    for (let i = 0; i < inputs.length; i++) {
      const { name, dtype, elements, shape } = inputs[i]!;
      if (dtype !== 'string') continue;
      const text = (slab.inputs[i] as string[]).slice(row * elements, (row + rows) * elements);
      binding.feeds[name] = new Tensor('string', text, leading ? [rows, ...shape] : shape);
    }
  }
}

const atOnce = ((call: () => void) => call()) as unknown as typeof setImmediate;

/**
 * onnxruntime-node puts the run, which is synchronous, off until the next turn of the event loop with
 * `setImmediate`. Here nothing else waits for its turn, and a turn costs a small batch a sixth of its time.
 */
function runAtOnce(
  session: InferenceSession,
  feeds: Binding['feeds'],
  fetches: Binding['fetches'],
): ReturnType<InferenceSession['run']> {
  const { setImmediate } = globalThis;
  globalThis.setImmediate = atOnce;
  try {
    return session.run(feeds, fetches);
  } finally {
    globalThis.setImmediate = setImmediate;
  }
}

/** Hands on what ONNX Runtime allocated for a batch that ran as `ranAs` rows. */
function collect(
  slab: SlabView,
  results: InferenceSession.OnnxValueMapType,
  first: number,
  ranAs: number,
): void {
  for (const column of slab.columns) {
    if (column.region !== null) continue;
    const { name } = column.spec;
    const { data, dims } = results[name]!;
    if (dims[0] !== ranAs) {
      throw new RangeError(`output ${name} has ${dims[0] ?? 'no'} rows for a batch of ${ranAs}`);
    }
    column.together(data as TensorData, dims.slice(1), first);
  }
}
