/** Gives back what an engine that stops for good has read and not settled. */
import type { Control } from '../redis/control.ts';
import { aliveKey } from '../redis/keys.ts';

/** Whatever the others' claim time is, this is idle for longer. */
const IDLE_MS = 86_400_000;

export interface ReleasedConsumer {
  readonly stream: string;
  readonly group: string;
  readonly consumer: string;
  /** Of its heartbeat: a name that somebody else has taken is left alone. */
  readonly token: string;
}

/**
 * Makes everything that is pending for this consumer claimable at once, and removes the consumer when that is
 * nothing, with its heartbeat. Nothing may be read under the name any more. `runningIds` are those that a
 * worker has; for all others, having been read does not count as a delivery.
 *
 * Resolves with the number of entries given back; -1 when the name is somebody else's by now.
 */
export async function releaseConsumer(
  control: Pick<Control, 'script'>,
  { stream, group, consumer, token }: ReleasedConsumer,
  runningIds: readonly string[],
): Promise<number> {
  const keys = [stream, aliveKey(stream, group, consumer)];
  return Number(await control.script('release', keys, [group, consumer, token, IDLE_MS, ...runningIds]));
}
