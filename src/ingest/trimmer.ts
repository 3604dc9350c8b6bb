/**
 * Takes out of the input streams what is settled, so that they do not grow for ever (lua/trim.lua says what
 * may go). Each engine does it for all its partitions, each about once a second; what one has taken out the
 * others do not find, so it costs them next to nothing. One call is under way at a time, and takes Redis a
 * millisecond or two however much there is: the rest goes with the calls that follow shortly after.
 */
import { type After, afterMs } from '../clock.ts';
import { messageOf } from '../errors.ts';
import { notice } from '../observe/channels.ts';
import type { Control } from '../redis/control.ts';
import { ledgerKey } from '../redis/keys.ts';

export interface TrimmedStream {
  readonly name: string;
  readonly group: string;
  readonly predictions: string;
  readonly eventsKeepMs: number;
  /** Undefined: predictions are not trimmed by age. */
  readonly predictionsKeepMs?: number | undefined;
}

export interface TrimmerOptions {
  readonly control: Pick<Control, 'script'>;
  readonly partitions: readonly TrimmedStream[];
  readonly random?: () => number;
  readonly after?: After;
}

export interface Trimmer {
  /** Resolves when no call is under way any more. */
  stop(): Promise<void>;
}

export interface Trimmed {
  readonly events: number;
  readonly predictions: number;
  /** The call has reached its limit. */
  readonly more: boolean;
}

/** A round of all partitions; jittered, so that engines take turns. */
const ROUND_MS = 1000;
/** While there is more: Redis has done other work meanwhile. */
const AGAIN_MS = 20;
/** Of one call. Redis takes some 60 ns for each entry. */
const ENTRIES_MAX = 20_000;

export function startTrimmer(options: TrimmerOptions): Trimmer {
  const { random = Math.random, after = afterMs } = options;
  let stopped = false;
  let cancel = () => {};
  let running: Promise<void> = Promise.resolve();
  const round = async () => {
    let more = false;
    for (const partition of options.partitions) {
      if (stopped) return;
      if (await trimOrComplain(options, partition)) more = true;
    }
    next(more ? AGAIN_MS : ROUND_MS * (0.75 + random() / 2));
  };
  const next = (ms: number) => {
    if (stopped) return;
    cancel = after(ms, () => {
      running = round();
    });
  };
  next(ROUND_MS * random());
  return {
    stop() {
      stopped = true;
      cancel();
      return running;
    },
  };
}

/** True when there is more; what failed is tried again in the next round. */
async function trimOrComplain({ control }: TrimmerOptions, partition: TrimmedStream): Promise<boolean> {
  try {
    return (await trim(control, partition)).more;
  } catch (error) {
    notice('warn', 'TRIM_FAILED', `${partition.name}: ${messageOf(error)}`);
    return false;
  }
}

/** One call. */
export async function trim(
  control: Pick<Control, 'script'>,
  { name, group, predictions, eventsKeepMs, predictionsKeepMs }: TrimmedStream,
  entriesMax = ENTRIES_MAX,
): Promise<Trimmed> {
  const keys = [name, ledgerKey(name), predictions];
  const args = [group, eventsKeepMs, predictionsKeepMs ?? '', entriesMax];
  const [events, old, , more] = (await control.script('trim', keys, args)) as [
    number,
    number,
    string,
    number,
  ];
  return { events, predictions: old, more: more === 1 };
}
