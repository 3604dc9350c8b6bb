/** One prediction, many subscribers: how long until the last of them has it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpus } from 'node:os';

/** What one process of subscribers is told. */
export interface SubscribersPlan {
  readonly port: number;
  readonly count: number;
  readonly channel: string;
}

/** What it says. Times are of the machine's monotonic clock, which all processes share. */
export type SubscribersMessage =
  | { readonly say: 'ready' }
  | {
      readonly say: 'shot';
      readonly firstMs: number;
      readonly lastMs: number;
      readonly frameBytes: number;
      /** Since the process began. */
      readonly cpuUs: number;
    }
  | { readonly say: 'failed'; readonly why: string };

export interface Shot {
  /** From the writing of the XADD until the first subscriber and the last had the frame. */
  readonly firstMs: number;
  readonly lastMs: number;
  /** From the entry id of the prediction, whole milliseconds, until the last had it. */
  readonly lastFromIdMs: number;
  readonly frameBytes: number;
  /** Of all subscribers' processes, since they began. */
  readonly clientCpuUs: number;
}

const PROCESS = new URL('./subscribers.ts', import.meta.url).pathname;
const SHOT_MS_MAX = 10_000;
const OPEN_MS_MAX = 90_000;
/** One core is left to the engine. */
const PROCESSES_MAX = 3;

/** Milliseconds, of no particular beginning, the same in all processes of the machine. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

export class Fan {
  readonly #children: ChildProcess[];
  #messages: SubscribersMessage[] = [];
  #failure: string | null = null;
  #onMessage: () => void = () => {};

  /** Resolves when all are subscribed. */
  static async open(plan: SubscribersPlan): Promise<Fan> {
    const processes = Math.min(plan.count, PROCESSES_MAX, Math.max(1, cpus().length - 1));
    const share = Math.ceil(plan.count / processes);
    const counts = Array.from({ length: processes }, (_, i) => Math.min(share, plan.count - i * share));
    const fan = new Fan(counts.filter((count) => count > 0).map((count) => ({ ...plan, count })));
    try {
      await fan.#all('ready', OPEN_MS_MAX);
    } catch (error) {
      fan.close();
      throw error;
    }
    return fan;
  }

  private constructor(plans: readonly SubscribersPlan[]) {
    this.#children = plans.map((plan) => {
      const child = spawn(process.execPath, [PROCESS, JSON.stringify(plan)], {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      });
      child.on('message', (message: SubscribersMessage) => {
        this.#messages.push(message);
        if (message.say === 'failed') this.#failure ??= message.why;
        this.#onMessage();
      });
      child.on('exit', () => {
        this.#failure ??= 'a process of subscribers ended';
        this.#onMessage();
      });
      return child;
    });
  }

  /** `add` adds what becomes one prediction; `predictionMs` then tells the milliseconds of its entry id. */
  async shoot(add: () => Promise<unknown>, predictionMs: () => Promise<number>): Promise<Shot> {
    this.#messages = [];
    const beganMs = monotonicMs();
    // The difference of the two clocks, taken as near to the event as can be.
    const wallMs = performance.timeOrigin + performance.now() - monotonicMs();
    const added = add();
    const shots = await this.#all('shot', SHOT_MS_MAX);
    await added;
    const lastMs = Math.max(...shots.map((shot) => shot.lastMs));
    return {
      firstMs: Math.min(...shots.map((shot) => shot.firstMs)) - beganMs,
      lastMs: lastMs - beganMs,
      lastFromIdMs: lastMs + wallMs - (await predictionMs()),
      frameBytes: shots[0]!.frameBytes,
      clientCpuUs: shots.reduce((sum, { cpuUs }) => sum + cpuUs, 0),
    };
  }

  close(): void {
    for (const child of this.#children) {
      child.removeAllListeners('exit');
      if (child.connected) child.disconnect();
    }
  }

  /** Resolves when every process has said it. */
  #all<S extends 'ready' | 'shot'>(say: S, msMax: number) {
    type Wanted = Extract<SubscribersMessage, { say: S }>;
    return new Promise<Wanted[]>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`subscribers: no ${say} in ${msMax} ms`)), msMax);
      this.#onMessage = () => {
        const found = this.#messages.filter((message): message is Wanted => message.say === say);
        if (this.#failure === null && found.length < this.#children.length) return;
        clearTimeout(timer);
        if (this.#failure === null) resolve(found);
        else reject(new Error(`subscribers: ${this.#failure}`));
      };
      this.#onMessage();
    });
  }
}
