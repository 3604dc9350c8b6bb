/**
 * ONNX Runtime's execution providers: as manifests and the configuration name them, and as onnxruntime-node
 * takes them. Of CUDA and TensorRT it takes the device and nothing else (its session_options_helper.cc), so
 * what else those have is refused here instead of being ignored there.
 */
import type { InferenceSession } from 'onnxruntime-node';
import type { ProviderEntry, ProviderName, ProviderSpec, SessionSettings } from './protocol.ts';

/** DirectML is for Windows, where Subito does not run. */
export const PROVIDERS = [
  'cpu',
  'cuda',
  'tensorrt',
  'webgpu',
  'coreml',
] as const satisfies readonly ProviderName[];
/** Chosen with bench/micro/session-options.ts. */
export const SESSION_DEFAULTS: SessionSettings = {
  // One worker a core beats ONNX Runtime's own threads for models of this size.
  intraOpThreads: 1,
  interOpThreads: 1,
  execution: 'sequential',
  optimization: 'all',
  cpuArena: true,
  memoryPattern: true,
  // Where a model is given threads of its own: spinning ones take the processors of the other workers.
  spinning: false,
  affinity: null,
  config: {},
};

export function providerSpec(entry: ProviderEntry): ProviderSpec {
  return typeof entry === 'string' ? { name: entry, deviceIds: [], sessions: null, options: {} } : entry;
}

/** The device of the worker that has this seat; undefined: the provider's own choice. */
export function deviceOf({ deviceIds }: ProviderSpec, seat: number): number | undefined {
  return deviceIds[seat % Math.max(1, deviceIds.length)];
}

/**
 * At most so many workers. Two threads that run on WebGPU at the same time end the process (ONNX Runtime's
 * WebGPU provider has one context for all of it, and no locks: seen with 1.30).
 */
export function sessionsMax(entries: readonly ProviderEntry[]): number {
  if (entries.some((entry) => providerSpec(entry).name === 'webgpu')) return 1;
  // Only the first counts: the others take over when it cannot be had, and then for all.
  const first = entries[0];
  if (first === undefined) return Number.POSITIVE_INFINITY;
  const { deviceIds, sessions } = providerSpec(first);
  return sessions === null ? Number.POSITIVE_INFINITY : sessions * Math.max(1, deviceIds.length);
}

/** What onnxruntime-node is given to open a model on one provider. */
export function sessionOptions(
  provider: ProviderSpec,
  settings: SessionSettings,
  seat: number,
): InferenceSession.SessionOptions {
  const deviceId = deviceOf(provider, seat);
  const extra: Record<string, string> = {
    'session.intra_op.allow_spinning': settings.spinning ? '1' : '0',
    'session.inter_op.allow_spinning': settings.spinning ? '1' : '0',
    ...(settings.affinity === null ? {} : { 'session.intra_op_thread_affinities': settings.affinity }),
    ...settings.config,
  };
  return {
    executionProviders: [
      { name: provider.name, ...(deviceId === undefined ? {} : { deviceId }), ...provider.options },
    ],
    intraOpNumThreads: settings.intraOpThreads,
    interOpNumThreads: settings.interOpThreads,
    executionMode: settings.execution,
    graphOptimizationLevel: settings.optimization,
    enableCpuMemArena: settings.cpuArena,
    enableMemPattern: settings.memoryPattern,
    // What goes wrong is thrown, with its reason; ONNX Runtime need not print it as well.
    logSeverityLevel: 4,
    extra,
  };
}
