// Simulated time. What happens is a queue of events, each of a process or of nobody; while a schedule runs,
// the timers and clocks of Node are the simulation's, so that the engine's code runs as it is.
//
// After each event everything that it has resolved runs to its end before the next one begins: a callback of
// process.nextTick comes when no promise has anything left to do.

export interface Event {
  readonly atMs: number;
  readonly order: number;
  readonly owner: Process | null;
  readonly run: () => void;
  cancelled: boolean;
}

/** One engine's operating-system process: it can stand still, and it can end at any moment. */
export class Process {
  readonly name: string;
  readonly pid: number;
  isDead = false;
  isPaused = false;
  /** What was due while it stood still. */
  readonly deferred: Event[] = [];

  constructor(name: string, pid: number) {
    this.name = name;
    this.pid = pid;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs === b.atMs ? a.order < b.order : a.atMs < b.atMs;
}

class Queue {
  readonly #heap: Event[] = [];

  push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(event, heap[parent] as Event)) break;
      heap[at] = heap[parent] as Event;
      at = parent;
    }
    heap[at] = event;
  }

  pop(): Event | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child += 1;
      if (!isBefore(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

/** What stands for a timer of Node. */
class Timer {
  readonly event: Event;

  constructor(event: Event) {
    this.event = event;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  hasRef(): boolean {
    return true;
  }
}

const EPOCH_MS = 1_700_000_000_000;

export class Clock {
  /** Milliseconds since the schedule began. */
  nowMs = 0;
  /** Whose event is running. */
  owner: Process | null = null;
  events = 0;
  readonly #queue = new Queue();
  #order = 0;

  /** Unix milliseconds. */
  get wallMs(): number {
    return EPOCH_MS + this.nowMs;
  }

  at(atMs: number, run: () => void, owner: Process | null = this.owner): Event {
    this.#order += 1;
    const event = { atMs, order: this.#order, owner, run, cancelled: false };
    this.#queue.push(event);
    return event;
  }

  later(ms: number, run: () => void, owner: Process | null = this.owner): () => void {
    const event = this.at(this.nowMs + ms, run, owner);
    return () => {
      event.cancelled = true;
    };
  }

  /** Runs as an event of a process would. */
  as<T>(owner: Process, run: () => T): T {
    const before = this.owner;
    this.owner = owner;
    try {
      return run();
    } finally {
      this.owner = before;
    }
  }

  resume(process: Process): void {
    process.isPaused = false;
    for (const { run, cancelled } of process.deferred.splice(0))
      if (!cancelled) this.at(this.nowMs, run, process);
  }

  /** Runs until `isDone`, which is asked after every event; false when time was up before. */
  async run(untilMs: number, isDone: () => boolean): Promise<boolean> {
    for (;;) {
      const event = this.#queue.pop();
      if (event === undefined || event.atMs > untilMs) {
        if (event !== undefined) this.#queue.push(event);
        this.nowMs = untilMs;
        return isDone();
      }
      const { owner } = event;
      if (event.cancelled || owner?.isDead === true) continue;
      if (owner?.isPaused === true) {
        owner.deferred.push(event);
        continue;
      }
      this.nowMs = Math.max(this.nowMs, event.atMs);
      this.owner = owner;
      this.events += 1;
      event.run();
      await quiet();
      this.owner = null;
      if (isDone()) return true;
    }
  }

  /** Puts the simulation's clocks and timers in place of Node's; the answer puts those back. */
  install(random: () => number): () => void {
    const real = {
      setTimeout: globalThis.setTimeout,
      clearTimeout: globalThis.clearTimeout,
      setInterval: globalThis.setInterval,
      clearInterval: globalThis.clearInterval,
      setImmediate: globalThis.setImmediate,
      clearImmediate: globalThis.clearImmediate,
    };
    const [realDateNow, realRandom] = [Date.now, Math.random];
    const clear = (timer: unknown) => {
      if (timer instanceof Timer) timer.event.cancelled = true;
    };
    const start = (run: () => void, ms: number) => new Timer(this.at(this.nowMs + Math.max(1, ms), run));
    const repeat = (run: () => void, ms: number) => {
      const timer = { event: null as unknown as Event };
      const again = () => {
        timer.event = this.at(this.nowMs + Math.max(1, ms), () => {
          again();
          run();
        });
      };
      again();
      return Object.setPrototypeOf(timer, Timer.prototype) as Timer;
    };
    Object.assign(globalThis, {
      setTimeout: (run: (...args: unknown[]) => void, ms = 1, ...args: unknown[]) =>
        start(() => run(...args), ms),
      clearTimeout: clear,
      setInterval: repeat,
      clearInterval: clear,
      setImmediate: (run: () => void) => new Timer(this.at(this.nowMs, run)),
      clearImmediate: clear,
    });
    Date.now = () => Math.floor(this.wallMs);
    Math.random = random;
    performance.now = () => this.nowMs;
    return () => {
      Object.assign(globalThis, real);
      Date.now = realDateNow;
      Math.random = realRandom;
      // Its own is the prototype's.
      Reflect.deleteProperty(performance, 'now');
    };
  }
}

/** Resolves when every promise that could go on has done so. */
function quiet(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}
