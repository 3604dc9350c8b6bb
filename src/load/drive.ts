/**
 * Drives one way with one open loop: pump what is due, watch, drain, close. The clock is performance.now().
 */
import type { Account, Interval } from './account.ts';
import { Alarm } from './alarm.ts';
import type { OpenLoop } from './schedule.ts';
import type { Way } from './way.ts';

const TICK_MS = 1000;
const DRAIN_POLL_MS = 5;

export interface DriveOptions {
  readonly loop: OpenLoop;
  readonly account: Account;
  readonly way: Way;
  /** Milliseconds since the start of the run, by performance.now(). */
  readonly clock: RunClock;
  /** No more events are sent; what is outstanding is waited for. */
  readonly stopped: AbortSignal;
  /** Nothing is sent or waited for any more. */
  readonly abandoned: AbortSignal;
  /** Arrivals closer together than this go out in one write: some thousand wake-ups a second are enough. */
  readonly gapMs: number;
  readonly onTick: (elapsedMs: number, interval: Interval) => void;
}

/** Starts when the way is open; before that it stands at 0. */
export class RunClock {
  #startMs: number | null = null;

  start(): void {
    this.#startMs = performance.now();
  }

  get startMs(): number {
    return this.#startMs ?? performance.now();
  }

  now(): number {
    return this.#startMs === null ? 0 : performance.now() - this.#startMs;
  }
}

/** Resolves when every event is answered, refused or lost, and the way is closed. */
export async function drive(options: DriveOptions): Promise<void> {
  const { account, way, clock, abandoned, onTick } = options;
  const alarm = new Alarm();
  try {
    // Waking the thread takes some 50 ms: the first events would be that late.
    await Promise.all([way.open(), alarm.ready]);
    clock.start();
    const ticker = setInterval(() => {
      account.expire(clock.now());
      onTick(clock.now(), account.interval());
    }, TICK_MS);
    try {
      await sendAll(options, alarm);
      while (account.outstanding > 0 && !abandoned.aborted) {
        await new Promise((resolve) => setTimeout(resolve, DRAIN_POLL_MS));
        account.expire(clock.now());
      }
    } finally {
      clearInterval(ticker);
    }
  } finally {
    await alarm.close();
    await way.close();
  }
}

/** Resolves after the last event was sent, or when a signal stops the run. */
async function sendAll(options: DriveOptions, alarm: Alarm): Promise<void> {
  const { loop, account, way, clock, stopped, abandoned, gapMs } = options;
  await new Promise<void>((resolve, reject) => {
    const step = () => {
      try {
        if (stopped.aborted || abandoned.aborted) loop.stop();
        const now = clock.now();
        loop.pump(now, (seq, dueMs) => {
          if (account.schedule(seq, dueMs, now)) way.send(seq);
        });
        way.flush();
        if (loop.nextMs === Number.POSITIVE_INFINITY) resolve();
        // At most a second away, so that a slow run still sees the signal.
        else alarm.set(clock.startMs + Math.min(Math.max(loop.nextMs, now + gapMs), now + 1000));
      } catch (error) {
        reject(error as Error);
      }
    };
    alarm.onRing(step);
    step();
  });
}
