/** What readiness says of a running engine, and why. */
import type { StreamReader } from '../ingest/reader.ts';
import type { EngineState, Sources } from '../observe/sources.ts';
import type { Committer } from '../publish/committer.ts';
import type { Admission } from '../schedule/admission.ts';
import type { Batch } from '../schedule/batch.ts';
import type { Batcher } from '../schedule/batcher.ts';
import type { ModelLane } from '../schedule/intake.ts';
import type { ServedModels } from './models.ts';

/** Times what a batch should take, and milliseconds: then its worker hangs, as far as anybody can tell. */
const HUNG_TIMES = 10;
const HUNG_MS_MIN = 1000;

/** Says so while all workers have had their batches for much too long; '' otherwise. */
export function hung(
  lanes: readonly ModelLane[],
  batcher: Batcher<Batch>,
  admission: Admission<Batch>,
  nowMs: number,
): string {
  if (batcher.workersIdle > 0) return '';
  let leastMs = Number.POSITIVE_INFINITY;
  for (const lane of lanes) {
    for (const batch of lane.all) {
      if (!batch.running) continue;
      const ranMs = nowMs - batch.dispatchedMs;
      if (ranMs < HUNG_MS_MIN + HUNG_TIMES * admission.costMs(lane, batch.live)) return '';
      leastMs = Math.min(leastMs, ranMs);
    }
  }
  return leastMs === Number.POSITIVE_INFINITY ? '' : `no worker has answered for ${Math.round(leastMs)} ms`;
}

export function stateOf(
  state: EngineState,
  committer: Committer,
  readers: readonly StreamReader[],
  models: ServedModels,
  hangs: string,
): ReturnType<Sources['state']> {
  if (state !== 'running') return { state, reasons: [`the engine is ${state}`] };
  const reasons: string[] = [];
  if (!committer.connected) reasons.push(`the committer is not connected to Redis: ${committer.trouble}`);
  else if (committer.refusal !== '') reasons.push(`Redis refuses settlements: ${committer.refusal}`);
  const apart = readers.find(({ connected }) => !connected);
  if (apart !== undefined) reasons.push(`a reader is not connected to Redis: ${apart.trouble}`);
  for (const { refusal } of readers) if (refusal !== '') reasons.push(`Redis refuses to be read: ${refusal}`);
  if (models.trouble !== '') reasons.push(`no worker can be started: ${models.trouble}`);
  else if (!models.hasWorker) reasons.push('no worker takes batches: one is being started');
  if (hangs !== '') reasons.push(hangs);
  reasons.push(...models.lacking());
  return { state: reasons.length === 0 ? 'running' : 'reconnecting', reasons };
}
