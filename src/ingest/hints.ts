/**
 * Tells the producers of each stream partition how much waits and how fast they may send: a small hash beside
 * the stream that any Redis client can read (redis/keys.ts). It expires within seconds, so that an engine
 * that dies leaves no lie behind. Once a second, after the backlog has been asked for, `tell` measures, lets
 * `suggestRate` decide, and hands this engine's part to lua/hints.lua, which adds up the parts of all
 * engines.
 */
import { messageOf } from '../errors.ts';
import { channels, notice, type SettleReport } from '../observe/channels.ts';
import type { StreamBacklog } from '../observe/sources.ts';
import type { Control } from '../redis/control.ts';
import { hintPartsKey, hintsKey } from '../redis/keys.ts';
import { type RateState, type Seen, suggestRate, UNLIMITED } from './suggest-rate.ts';

export interface HintedStream {
  readonly name: string;
  readonly group: string;
  /** Of events that name none. */
  readonly deadlineMs: number;
}

export interface HintsOptions {
  readonly control: Pick<Control, 'script'>;
  readonly streams: readonly HintedStream[];
  /** The name under which this engine reads now. */
  readonly consumer: () => string;
  /** Redis refuses settlements now. */
  readonly refused: () => boolean;
  /** Unix milliseconds, of this machine. */
  readonly now: () => number;
}

export interface Hints {
  /** About once a second for each stream, with what is known of its backlog. Never rejects. */
  tell(backlog: StreamBacklog): Promise<void>;
  /** Withdraws this engine's part. Never rejects. */
  stop(): Promise<void>;
}

/** After this long without a word an engine does not count any more, and the hash is gone. */
export const HINTS_STALE_MS = 5000;
/** What came of events that were run, and of those that were not for want of time or room. */
const SERVED = ['ok', 'degraded', 'invalid', 'failed'];
const SHED = ['expired', 'overloaded'];

/** What lua/hints.lua answers. */
type Reply = readonly [serverMs: number, added: number, othersServedPerS: number];

/** One stream: what has been counted since the last word. */
class Told {
  readonly stream: HintedStream;
  served = 0;
  shed = 0;
  /** Of the last word; the server's clock is ahead of ours by so much. */
  sinceMs: number;
  aheadMs = 0;
  #reply: Reply | null = null;
  #arrivedPerS: number | null = null;
  state: RateState = UNLIMITED;
  /** Whose part lies in Redis; '' for nobody's. */
  consumer = '';
  telling = false;

  constructor(stream: HintedStream, nowMs: number) {
    this.stream = stream;
    this.sinceMs = nowMs;
  }

  /** What was seen since the last word. */
  seen(backlog: StreamBacklog, nowMs: number, refused: boolean): Seen {
    const { served, shed } = this;
    const intervalMs = nowMs - this.sinceMs;
    [this.served, this.shed, this.sinceMs] = [0, 0, nowMs];
    const { unread, oldestUnreadMs } = backlog;
    const oldestMs = oldestUnreadMs === null ? 0 : Math.max(0, nowMs + this.aheadMs - oldestUnreadMs);
    return {
      intervalMs,
      served,
      shed,
      othersServedPerS: this.#reply?.[2] ?? 0,
      arrivedPerS: this.#arrivedPerS,
      backlog: unread,
      oldestMs: unread === null ? null : oldestMs,
      deadlineMs: this.stream.deadlineMs,
      refused,
    };
  }

  answered(reply: Reply, nowMs: number): void {
    const [serverMs, added] = reply;
    const before = this.#reply;
    this.aheadMs = serverMs - nowMs;
    const passedMs = before === null ? 0 : serverMs - before[0];
    // A stream that was made anew has had fewer.
    const isKnown = before !== null && passedMs > 0 && added >= before[1] && before[1] >= 0;
    this.#arrivedPerS = isKnown ? ((added - before[1]) * 1000) / passedMs : null;
    this.#reply = reply;
  }
}

export function startHints(options: HintsOptions): Hints {
  const { control, consumer, refused, now } = options;
  const told = new Map(options.streams.map((stream) => [stream.name, new Told(stream, now())]));
  const onSettle = (message: unknown) => {
    const report = message as SettleReport;
    const one = told.get(report.stream);
    if (one === undefined) return;
    one.served += countOf(report, SERVED);
    one.shed += countOf(report, SHED);
  };
  channels.settle.subscribe(onSettle);
  let stopped = false;

  /** `state`: gone withdraws the part; the figures do not matter then. */
  const write = async (one: Told, name: string, figures: readonly (string | number)[]) => {
    const { name: stream, group } = one.stream;
    const keys = [hintsKey(stream), hintPartsKey(stream), stream];
    return (await control.script('hints', keys, [group, name, ...figures, HINTS_STALE_MS])) as Reply;
  };
  const withdraw = async (one: Told) => {
    const name = one.consumer;
    one.consumer = '';
    if (name !== '') await write(one, name, ['gone', '-', 0, 0, 0]);
  };

  return {
    async tell(backlog) {
      const one = told.get(backlog.stream);
      // The last word is still on its way: what was counted goes with the next one.
      if (one === undefined || one.telling || stopped) return;
      one.telling = true;
      try {
        const seen = one.seen(backlog, now(), refused());
        one.state = suggestRate(one.state, seen);
        const name = consumer();
        if (one.consumer !== name) await withdraw(one);
        one.consumer = name;
        one.answered(await write(one, name, figuresOf(one.state, seen)), now());
      } catch (error) {
        notice('warn', 'HINTS_FAILED', `${backlog.stream}: ${messageOf(error)}`);
      } finally {
        one.telling = false;
      }
    },
    async stop() {
      stopped = true;
      channels.settle.unsubscribe(onSettle);
      // Where it fails, the part is stale in a moment.
      await Promise.allSettled([...told.values()].map(withdraw));
    },
  };
}

function figuresOf({ state, ratePerS }: RateState, seen: Seen): readonly (string | number)[] {
  // Lua has whole numbers up to 2^53; a rate that high is none. Nobody is stopped by rounding.
  const rate = ratePerS < 1e12 ? Math.max(state === 'stop' ? 0 : 1, Math.round(ratePerS)) : '-';
  const servedPerS = seen.intervalMs > 0 ? Math.round((seen.served * 1000) / seen.intervalMs) : 0;
  return [state, rate, servedPerS, seen.backlog ?? 0, Math.round(seen.oldestMs ?? 0)];
}

function countOf(report: SettleReport, names: readonly string[]): number {
  const counts = report as unknown as Readonly<Record<string, number | undefined>>;
  return names.reduce((sum, name) => sum + (counts[name] ?? 0), 0);
}
