/**
 * What happens when a run fails on another provider than the CPU: is it the rows, or the provider? After a
 * fault that lasts (a CUDA context that is lost), every run fails, so one more run, with a row that ran
 * before, tells. The row runs: it was the event. It does not: the model moves to its next provider, in this
 * thread and with the batch in hand, which then runs there.
 *
 * That may take long: opening, trying, warming, measuring. The batch waits for it, and none of it counts as
 * the batch's time.
 *
 * The thread is not replaced: a lost CUDA context is lost for the whole process, and whoever lets go of a
 * session in it may end the process.
 */
import type { InferenceSession } from 'onnxruntime-node';
import { type Ladder, ProviderLost } from './ladder.ts';
import { NativeHalted, whileMoving } from './native.ts';
import type { LeftProvider, ModelProfile, ProviderName } from './protocol.ts';
import type { OpenedSession, Rescue } from './session.ts';

/** The model runs on another provider from now on. */
export interface Move {
  readonly provider: ProviderName;
  /** Its index among the model's providers. */
  readonly at: number;
  readonly left: readonly LeftProvider[];
  readonly profile: ModelProfile;
}

export interface RescueSteps {
  /** Rejects when a row that ran before does not run any more. */
  readonly stillRuns: (session: InferenceSession) => Promise<void>;
  readonly prove: (
    next: Pick<OpenedSession, 'session' | 'provider'>,
  ) => Promise<{ opened: OpenedSession; profile: ModelProfile }>;
  /** A provider has failed in use: the first one left to try has this index. */
  readonly onLeave?: (at: number) => void;
  readonly onMove?: (move: Move) => void;
  /** None is left. */
  readonly onLost?: () => void;
}

export function rescueBy(ladder: Ladder, steps: RescueSteps): Rescue {
  // Sessions of a device that is out of order are kept, for to let go of one can end the process.
  const kept: InferenceSession[] = [];
  return async ({ session }, cause) => {
    try {
      await steps.stillRuns(session);
      return null;
    } catch (error) {
      if (error instanceof NativeHalted) throw error;
    }
    kept.push(session);
    try {
      return await whileMoving(() => moveOn(ladder, cause, steps));
    } catch (error) {
      if (error instanceof ProviderLost || !(error instanceof NativeHalted)) throw error;
      // It took too long, and this thread is being ended. That says nothing of the batch.
      throw new ProviderLost('no provider was ready in time');
    }
  };
}

async function moveOn(
  ladder: Ladder,
  cause: unknown,
  { prove, onLeave, onMove, onLost }: RescueSteps,
): Promise<OpenedSession> {
  const leftBefore = ladder.left.length;
  ladder.leave(cause);
  while (ladder.hasNext) {
    // Told before the next is tried: should this worker die of that, its successor need not begin here.
    onLeave?.(ladder.at + 1);
    let next: Awaited<ReturnType<Ladder['next']>>;
    try {
      next = await ladder.next();
    } catch (error) {
      if (error instanceof NativeHalted) throw error;
      break;
    }
    try {
      const { opened, profile } = await prove(next);
      onMove?.({ provider: next.provider, at: ladder.at, left: ladder.left.slice(leftBefore), profile });
      return opened;
    } catch (error) {
      if (error instanceof NativeHalted) throw error;
      ladder.leave(error);
    }
  }
  onLost?.();
  const reasons = ladder.left.slice(leftBefore).map(({ provider, reason }) => `${provider}: ${reason}`);
  throw new ProviderLost(`no provider runs it any more (${reasons.join('; ')})`);
}
