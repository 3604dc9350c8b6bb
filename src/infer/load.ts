/**
 * Loads one model in a worker: open, join with the manifest, try, check golden cases, warm every batch size.
 * What fails on one provider is done again on the next.
 */
import type { InferenceSession } from 'onnxruntime-node';
import type { Native } from '../native.ts';
import { FieldDecoder } from './decode.ts';
import { OutputEncoder } from './encode.ts';
import { checkGolden, type Golden, readGolden } from './golden.ts';
import { Ladder, type OpenSession } from './ladder.ts';
import { type LoadedHandler, loadHandler } from './load-handler.ts';
import {
  type Declared,
  declared,
  type JoinedInputs,
  joinInputs,
  joinOutputs,
  servedOutputs,
} from './metadata.ts';
import { layoutOf, Model } from './model.ts';
import { NativeHalted } from './native.ts';
import { Padding } from './padding.ts';
import type {
  LeftProvider,
  LoadedModel,
  ModelProfile,
  ModelSpec,
  ProviderEntry,
  ProviderName,
} from './protocol.ts';
import { SESSION_DEFAULTS } from './providers.ts';
import { type Move, rescueBy } from './rescue.ts';
import { ModelSession, type OpenedSession, type SessionShape } from './session.ts';
import type { TensorData } from './tensors.ts';
import { runSample, sampleRow, tryRun } from './trial.ts';
import { profileOf, type Warmed, warm } from './warm.ts';

export interface LoadOptions {
  /** In the place of InferenceSession.create, for tests of providers that a machine lacks. */
  readonly open?: OpenSession | null;
  /** The worker's number, which chooses its device. */
  readonly seat?: number;
  /** Index of the first provider to try. */
  readonly from?: number;
  /** What a batch may take: sizes far beyond it are not warmed. */
  readonly runMsMax?: number;
  /** Batches of so many rows there will be: they are warmed whatever they take. */
  readonly rowsLeast?: () => number;
  /** For measuring a provider that is fallen back to. */
  readonly profileMsMax?: number;
  /** A provider failed in use; what becomes of the model: see RescueSteps. */
  readonly onLeave?: (at: number) => void;
  readonly onMove?: (move: Move) => void;
  readonly onLost?: () => void;
}

export interface Loading {
  readonly model: Model;
  readonly at: number;
  readonly left: readonly LeftProvider[];
  readonly warmed: Warmed;
}

/** What lies beside the ONNX file; read once, whatever the provider. */
interface Beside {
  readonly handler: LoadedHandler | null;
  readonly golden: Golden | null;
}

/**
 * `native`: the addon that decodes and encodes whole batches; null: TypeScript does. Rejects with an Error
 * that says which file and key is at fault and what to do.
 */
export async function loadModel(
  spec: ModelSpec,
  providers: readonly ProviderEntry[],
  slabArenaBytes: number,
  native: Native | null = null,
  options: LoadOptions = {},
): Promise<Loading> {
  const { open = null, seat = 0, from = 0 } = options;
  const ladder = new Ladder({
    onnxPath: spec.onnxPath,
    providers: spec.providers ?? providers,
    settings: { ...SESSION_DEFAULTS, ...spec.session },
    seat,
    open,
    from,
  });
  let beside: Beside | null = null;
  for (;;) {
    const next = await ladder.next();
    try {
      beside ??= await readBeside(spec);
      const loader = new Loader(spec, beside, { slabArenaBytes, native, ladder, options });
      const { model, warmed } = await loader.load(next);
      return { model, warmed, at: ladder.at, left: [...ladder.left] };
    } catch (error) {
      if (error instanceof NativeHalted || !ladder.hasNext) throw error;
      ladder.leave(error);
    }
  }
}

async function readBeside(spec: ModelSpec): Promise<Beside> {
  return {
    handler: spec.handlerPath === null ? null : await loadHandler(spec.handlerPath, spec),
    golden: spec.goldenPath === null ? null : await readGolden(spec.goldenPath),
  };
}

interface Around {
  readonly slabArenaBytes: number;
  readonly native: Native | null;
  readonly ladder: Ladder;
  readonly options: LoadOptions;
}

/** What the session, the manifest and a trial run say of the model, put together. */
interface Graph {
  readonly joined: JoinedInputs;
  readonly served: readonly Declared[];
  readonly sample: readonly TensorData[];
  readonly shape: SessionShape;
  readonly decoder: FieldDecoder;
  readonly encoder: OutputEncoder;
}

type Next = Pick<OpenedSession, 'session' | 'provider'>;

class Loader {
  readonly #spec: ModelSpec;
  readonly #beside: Beside;
  readonly #around: Around;

  constructor(spec: ModelSpec, beside: Beside, around: Around) {
    this.#spec = spec;
    this.#beside = beside;
    this.#around = around;
  }

  async load(next: Next): Promise<{ model: Model; warmed: Warmed }> {
    const graph = await this.#graph(next.session);
    const { ladder, options } = this.#around;
    const { onLeave = () => {}, onMove = () => {}, onLost = () => {} } = options;
    const rescue = rescueBy(ladder, {
      stillRuns: async (session) => {
        await runSample(session, graph.joined, graph.served, graph.sample, 1);
      },
      prove: (other) => this.#proveOther(graph, other),
      onLeave,
      onMove,
      onLost,
    });
    const running = new ModelSession(this.#opened(graph, next), graph.shape, rescue);
    const model = this.#model(graph, next.provider, running);
    return { model, warmed: await this.#prove(graph, model) };
  }

  async #graph(session: InferenceSession): Promise<Graph> {
    const { inputs, outputs: given } = this.#spec;
    const { handler, golden } = this.#beside;
    const joined = joinInputs(declared(session.inputMetadata, 'input'), inputs);
    const served = servedOutputs(declared(session.outputMetadata, 'output'), given);
    const decoder = manifestSays(() => new FieldDecoder(joined.inputs, inputs));
    const sample = sampleRow(joined, decoder, handler?.codec ?? null, golden, this.#around.slabArenaBytes);
    const trials = await tryRun(session, joined, served, sample);
    const { outputs, batched } = joinOutputs(served, trials, joined);
    const encoder = manifestSays(() => new OutputEncoder(outputs, given));
    const shape = { inputs: joined.inputs, outputs, leading: joined.leading, batched };
    return { joined, served, sample, shape, decoder, encoder };
  }

  #opened({ shape, sample }: Graph, { session, provider }: Next): OpenedSession {
    const pads = provider !== 'cpu' && shape.batched;
    const padding = pads ? new Padding(shape, this.#spec.rowsMax, sample) : null;
    return { session, provider, padding };
  }

  #model({ shape, decoder, encoder }: Graph, provider: ProviderName, session: ModelSession): Model {
    const { slot, rowsMax } = this.#spec;
    const { slabArenaBytes, native } = this.#around;
    const { handler } = this.#beside;
    const loaded: LoadedModel = {
      slot,
      inputs: shape.inputs,
      outputs: shape.outputs,
      batched: shape.batched,
      fields: handler?.fields ?? decoder.describe(),
      predicts: handler?.predicts ?? encoder.describe(),
      provider,
      profile: { provider, buckets: [] },
    };
    const codec = handler?.codec ?? null;
    const layout = layoutOf(shape, rowsMax, slabArenaBytes);
    return new Model({ loaded, shape, session, decoder, encoder, codec, layout, native });
  }

  async #prove({ sample }: Graph, model: Model): Promise<Warmed> {
    const { golden } = this.#beside;
    const { runMsMax = Infinity, rowsLeast = () => 0 } = this.#around.options;
    const { rowsMax } = this.#spec;
    const slab = model.scratch();
    // Its expectations are of the version that is served.
    const isServed = this.#spec.previousOf === undefined;
    if (golden !== null && isServed) await checkGolden(model, slab, golden);
    return await warm(model, slab, { sample, golden, rowsMax, runMsMax, rowsLeast: rowsLeast() });
  }

  /** Everything that a provider has to show before it takes traffic, for one that takes over. */
  async #proveOther(graph: Graph, next: Next): Promise<{ opened: OpenedSession; profile: ModelProfile }> {
    const { runMsMax = Infinity, profileMsMax: budgetMs = 0 } = this.#around.options;
    await tryRun(next.session, graph.joined, graph.served, graph.sample);
    const opened = this.#opened(graph, next);
    const model = this.#model(graph, next.provider, new ModelSession(opened, graph.shape));
    const warmed = await this.#prove(graph, model);
    return { opened, profile: await profileOf(model, warmed, { runMsMax, budgetMs }) };
  }
}

function manifestSays<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw new Error(`model.yaml: ${(error as Error).message}`);
  }
}
