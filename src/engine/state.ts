/** What readiness says of a running engine, and why. */
import type { StreamReader } from '../ingest/reader.ts';
import type { EngineState, Sources } from '../observe/sources.ts';
import type { Committer } from '../publish/committer.ts';
import type { ServedModels } from './models.ts';

export function stateOf(
  state: EngineState,
  committer: Committer,
  readers: readonly StreamReader[],
  models: ServedModels,
): ReturnType<Sources['state']> {
  if (state !== 'running') return { state, reasons: [`the engine is ${state}`] };
  const reasons: string[] = [];
  if (!committer.connected) reasons.push(`the committer is not connected to Redis: ${committer.trouble}`);
  else if (committer.refusal !== '') reasons.push(`Redis refuses settlements: ${committer.refusal}`);
  const apart = readers.find(({ connected }) => !connected);
  if (apart !== undefined) reasons.push(`a reader is not connected to Redis: ${apart.trouble}`);
  for (const { refusal } of readers) if (refusal !== '') reasons.push(`Redis refuses to be read: ${refusal}`);
  if (models.trouble !== '') reasons.push(`no worker can be started: ${models.trouble}`);
  reasons.push(...models.lacking());
  return { state: reasons.length === 0 ? 'running' : 'reconnecting', reasons };
}
