import { messageOf } from '../errors.ts';
import type { Consumer } from '../ingest/consumer.ts';
import { releaseConsumer } from '../ingest/release.ts';
import { notice } from '../observe/channels.ts';
import type { Control } from '../redis/control.ts';
import type { Intake } from '../schedule/intake.ts';
import type { StreamPartition } from './streams.ts';

/** What is pending at a stop, so that others need not wait for the claim time. Where it fails, they do. */
export async function giveBack(
  control: Control,
  partitions: readonly StreamPartition[],
  { name: consumer, token }: Consumer,
  intake: Intake,
): Promise<void> {
  const releasing = partitions.map(({ name: stream, group, index }) =>
    releaseConsumer(control, { stream, group, consumer, token }, intake.runningIds(index)),
  );
  for (const answer of await Promise.allSettled(releasing)) {
    if (answer.status === 'rejected') notice('warn', 'RELEASE_FAILED', messageOf(answer.reason));
  }
}
