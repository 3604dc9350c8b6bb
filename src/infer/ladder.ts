/** A model's providers in order, opened one after the other until one will do. */
import * as onnxruntime from 'onnxruntime-node';
import { InferenceSession } from 'onnxruntime-node';
import { messageOf } from '../errors.ts';
import { inNative, NativeHalted } from './native.ts';
import type { LeftProvider, ProviderEntry, ProviderName, SessionSettings } from './protocol.ts';
import { providerSpec, sessionOptions } from './providers.ts';

/** InferenceSession.create, or what a test puts in its place. */
export type OpenSession = (
  onnxPath: string,
  options: InferenceSession.SessionOptions,
) => Promise<InferenceSession>;

export interface LadderOptions {
  readonly onnxPath: string;
  readonly providers: readonly ProviderEntry[];
  readonly settings: SessionSettings;
  readonly seat: number;
  readonly open: OpenSession | null;
  /** Those before it are passed over: they failed in use. */
  readonly from: number;
}

/** No provider of the model works: nothing can be said of its rows, and this thread can do nothing for it. */
export class ProviderLost extends NativeHalted {
  constructor(message: string) {
    super();
    this.message = message;
    this.name = 'ProviderLost';
  }
}

/** The model could be served if one of its providers were there. */
export class NoProvider extends Error {
  override readonly name = 'NoProvider';
}

export class Ladder {
  readonly #options: LadderOptions;
  /** Of the provider that is in use, or was tried last. */
  #at: number;
  readonly left: LeftProvider[] = [];

  constructor(options: LadderOptions) {
    this.#options = options;
    this.#at = Math.min(options.from, options.providers.length - 1) - 1;
  }

  get at(): number {
    return this.#at;
  }

  get hasNext(): boolean {
    return this.#at + 1 < this.#options.providers.length;
  }

  /** The provider opened last will not do. */
  leave(error: unknown): void {
    const { name } = providerSpec(this.#options.providers[this.#at]!);
    this.left.push({ provider: name, reason: reasonOf(messageOf(error)) });
  }

  /** Opens the next provider that takes the model. Rejects with an Error when none does. */
  async next(): Promise<{ session: InferenceSession; provider: ProviderName }> {
    const { onnxPath, providers, settings, seat, open } = this.#options;
    // What goes wrong is thrown, with its reason; ONNX Runtime need not print it as well.
    onnxruntime.env.logLevel = 'fatal';
    const create = open ?? InferenceSession.create.bind(InferenceSession);
    while (this.hasNext) {
      this.#at += 1;
      const spec = providerSpec(providers[this.#at]!);
      try {
        const session = await inNative(() => create(onnxPath, sessionOptions(spec, settings, seat)));
        return { session, provider: spec.name };
      } catch (error) {
        if (error instanceof NativeHalted) throw error;
        this.leave(error);
      }
    }
    const last = this.left.at(-1)!;
    // What the CPU says is about the model; why the others did not take it matters less.
    if (last.provider === 'cpu') throw new Error(`model.onnx: ${last.reason}`);
    const reasons = this.left.map(({ provider, reason }) => `${provider}: ${reason}`).join('; ');
    throw new NoProvider(
      `model.onnx: none of its providers can run it (${reasons}); add cpu to the list to let it run there`,
    );
  }
}

/** What a person can use of ONNX Runtime's messages, which begin with signatures of its C++. */
export function reasonOf(message: string): string {
  const [first = ''] = message.trim().split('\n');
  if (first.includes('Failed to load shared library')) {
    return `${first} (deploy/setup.sh --cuda fetches what is missing, or names it)`;
  }
  // "... = void] CUDA failure 35: CUDA driver version is insufficient ... ; GPU=-1 ; hostname=... ; file=..."
  const failure = /\b(?:CUDA|CUBLAS|CUDNN|CURAND|CUFFT) failure \d+: [^;]*/.exec(first);
  if (failure !== null) return failure[0].trim();
  // "/onnxruntime_src/...cc:136 ... was false. Failed to get a WebGPU adapter: ..."
  const said = first.startsWith('/onnxruntime_src/') ? first.split(' was false. ')[1] : undefined;
  return said ?? first;
}
