/**
 * Removes consumers that nobody reads under any more from their groups: no heartbeat, nothing pending, and
 * nothing received for a while. Engines come and go, and each leaves a name behind. reap.lua is asked twice:
 * who may go, and then, with the heartbeat keys of those, to remove them.
 */
import { type After, afterMs } from '../clock.ts';
import { messageOf } from '../errors.ts';
import { notice } from '../observe/channels.ts';
import type { Control } from '../redis/control.ts';
import { aliveKey } from '../redis/keys.ts';
import type { GroupOfStream } from './consumer.ts';

export interface ReaperOptions {
  readonly control: Pick<Control, 'script'>;
  readonly partitions: readonly GroupOfStream[];
  /** Our own name, which stays. */
  readonly consumer: () => string;
  /** Removes no consumer that was given something within this time; Redis 7.2 counts asking, too. */
  readonly idleMs: number;
  /** About how often it looks; the engines of a group do so at different times. */
  readonly everyMs: number;
  readonly random?: () => number;
  readonly after?: After;
}

export interface Reaper {
  stop(): void;
}

/** What is more is found the next time. */
const REAPED_MAX = 500;

export function startReaper(options: ReaperOptions): Reaper {
  const { partitions, everyMs, random = Math.random, after = afterMs } = options;
  let stopped = false;
  let cancel = () => {};
  const next = () => {
    if (stopped) return;
    cancel = after(everyMs * (0.75 + random() / 2), () => {
      void Promise.all(partitions.map((partition) => reapOrComplain(options, partition))).then(next);
    });
  };
  next();
  return {
    stop() {
      stopped = true;
      cancel();
    },
  };
}

async function reapOrComplain(options: ReaperOptions, partition: GroupOfStream): Promise<void> {
  try {
    await reap(options, partition);
  } catch (error) {
    notice('warn', 'REAPER_FAILED', `${partition.name}: ${messageOf(error)}`);
  }
}

/** Looks once; resolves with the names of those that were removed. */
export async function reap(
  { control, consumer, idleMs }: Pick<ReaperOptions, 'control' | 'consumer' | 'idleMs'>,
  { name, group }: GroupOfStream,
): Promise<string[]> {
  const say = async (consumers: readonly string[]) => {
    const keys = [name, ...consumers.map((each) => aliveKey(name, group, each))];
    return (await control.script('reap', keys, [group, idleMs, ...consumers])) as string[];
  };
  const stale = (await say([])).filter((each) => each !== consumer()).slice(0, REAPED_MAX);
  return stale.length === 0 ? [] : say(stale);
}
