/**
 * Replays an arrival trace against the policy, as it runs in a cluster: the engines' policy decides every
 * second, Kubernetes asks for its number every `pollS`, and new replicas serve after `startS`. Time is
 * simulated; a day takes a second.
 *
 * The model is a fluid one: events are served in the order of their arrival, by all replicas that have
 * started, at the service rate each. A wait is therefore a wait for want of replicas; the milliseconds that
 * an event spends in a replica that keeps up are not in it. Every event is served, however late; it misses
 * when it waited for longer than the deadline. A replica is paid for from its launch to its end.
 */
import { Policy, type PolicyConfig } from './policy.ts';
import type { Trace } from './traces.ts';

export interface SimulationOptions {
  readonly policy: PolicyConfig;
  /** Of arrivals, as the engine measures them. */
  readonly windowMs: number;
  /** Events a second that one replica serves. */
  readonly serviceRatePerS: number;
  /** From the launch of a replica until it serves. */
  readonly startS: number;
  readonly deadlineMs: number;
  /** How often Kubernetes' autoscaler asks. */
  readonly pollS: number;
  /** Idle time after which KEDA takes away the last replica. */
  readonly cooldownS: number;
  /** Kubernetes' autoscaler leaves the number alone when it is off by no more than this share of it. */
  readonly tolerance: number;
}

export interface Simulated {
  /** One value a second: replicas paid for, replicas that serve, events waiting. */
  readonly replicas: Float64Array;
  readonly serving: Float64Array;
  readonly backlogEvents: Float64Array;
  readonly replicaSeconds: number;
  readonly events: number;
  readonly missRate: number;
  readonly waitP99Ms: number;
  readonly waitMaxMs: number;
  readonly backlogMax: number;
}

/** Kubernetes' default for scaling up: so many more, or twice as many, in each of its rounds. */
const PODS_PER_ROUND = 4;
/** Points within a second at which waits are taken. */
const POINTS = 4;

export function simulate(trace: Trace, options: SimulationOptions): Simulated {
  const seconds = trace.arrivalsPerS.length * trace.stepS;
  const rate = options.serviceRatePerS;
  const cluster = new Cluster(options, trace.arrivalsPerS[0]!);
  const replicas = new Float64Array(seconds);
  const serving = new Float64Array(seconds);
  const backlogEvents = new Float64Array(seconds);
  const arrived = new Float64Array(seconds + 1);
  const served = new Float64Array(seconds + 1);
  let replicaSeconds = 0;
  for (let s = 0; s < seconds; s += 1) {
    const arrivals = trace.arrivalsPerS[Math.floor(s / trace.stepS)]!;
    const waiting = arrived[s]! - served[s]!;
    const windowS = Math.min(s, Math.max(1, Math.round(options.windowMs / 1000)));
    const seen = windowS === 0 ? arrivals : (arrived[s]! - arrived[s - windowS]!) / windowS;
    cluster.tick(s, seen, waiting);
    arrived[s + 1] = arrived[s]! + arrivals;
    const capacity = cluster.serving(s) * rate;
    served[s + 1] = Math.min(arrived[s + 1]!, served[s]! + capacity);
    cluster.wasBusy(capacity === 0 ? 1 : (served[s + 1]! - served[s]!) / capacity);
    replicas[s] = cluster.size;
    serving[s] = cluster.serving(s);
    backlogEvents[s] = arrived[s + 1]! - served[s + 1]!;
    replicaSeconds += cluster.size;
  }
  const lastRate = Math.max(1, serving[seconds - 1]!) * rate;
  const waits = waitsOf(arrived, served, lastRate, options.deadlineMs / 1000);
  const backlogMax = backlogEvents.reduce((most, each) => Math.max(most, each), 0);
  return { replicas, serving, backlogEvents, replicaSeconds, backlogMax, ...waits };
}

/** The replicas, and Kubernetes' autoscaler, which follows the policy in rounds. */
class Cluster {
  readonly #options: SimulationOptions;
  readonly #policy: Policy;
  /** When each replica began or begins to serve, the oldest first. */
  readonly #readyS: number[];
  #desired: number;
  #idleSinceS: number | null = null;
  #busyRatio = 0;

  /** Begins with what the first arrivals need. */
  constructor(options: SimulationOptions, arrivalsPerS: number) {
    this.#options = options;
    const { policy, serviceRatePerS } = options;
    const nothing = { backlogEvents: 0, pendingEvents: 0, busyRatio: null, oldestUnreadAgeMs: 0 };
    const signals = { ...nothing, arrivalsPerS, serviceRatePerS, replicas: null };
    this.#desired = new Policy(policy).decide(0, signals).replicas;
    this.#policy = new Policy(policy);
    this.#readyS = Array.from({ length: this.#desired }, () => 0);
  }

  get size(): number {
    return this.#readyS.length;
  }

  serving(s: number): number {
    let count = 0;
    for (const readyS of this.#readyS) if (readyS <= s) count += 1;
    return count;
  }

  /** For that share of the second. */
  wasBusy(ratio: number): void {
    this.#busyRatio = ratio;
  }

  tick(s: number, arrivalsPerS: number, backlogEvents: number): void {
    const { serviceRatePerS, pollS } = this.#options;
    const replicas = this.serving(s);
    const busyRatio = this.#busyRatio;
    const signals = { arrivalsPerS, backlogEvents, pendingEvents: 0, serviceRatePerS, replicas, busyRatio };
    // Of the age nothing is known but that a backlog is young: the policy trusts in how busy they are.
    this.#desired = this.#policy.decide(s * 1000, { ...signals, oldestUnreadAgeMs: 0 }).replicas;
    const idle = arrivalsPerS === 0 && backlogEvents === 0;
    this.#idleSinceS = idle ? (this.#idleSinceS ?? s) : null;
    if (s % pollS === 0) this.#round(s);
  }

  #round(s: number): void {
    const { startS, cooldownS, tolerance } = this.#options;
    const now = this.size;
    let wanted = this.#desired;
    const cooled = this.#idleSinceS !== null && s - this.#idleSinceS >= cooldownS;
    if (wanted === 0 && !cooled) wanted = 1;
    if (now > 0 && wanted > 0 && Math.abs(wanted / now - 1) <= tolerance + 1e-9) return;
    const target = Math.min(wanted, Math.max(now * 2, now + PODS_PER_ROUND));
    while (this.#readyS.length < target) this.#readyS.push(s + startS);
    this.#readyS.length = target;
  }
}

type Waits = Pick<Simulated, 'events' | 'missRate' | 'waitP99Ms' | 'waitMaxMs'>;

/**
 * Waits in the order of arrival, from what had arrived and what had been served by each second. After the end
 * of the trace the last replicas serve on.
 */
function waitsOf(arrived: Float64Array, served: Float64Array, lastRate: number, deadlineS: number): Waits {
  const seconds = arrived.length - 1;
  const events = arrived[seconds]!;
  const waits = new Float64Array(seconds * POINTS);
  const weights = new Float64Array(seconds * POINTS);
  let missed = 0;
  let at = 0;
  for (let i = 0; i < waits.length; i += 1) {
    const s = Math.floor(i / POINTS);
    const part = ((i % POINTS) + 0.5) / POINTS;
    const count = arrived[s + 1]! - arrived[s]!;
    const event = arrived[s]! + part * count;
    while (at < seconds && served[at + 1]! < event) at += 1;
    const doneS =
      at < seconds
        ? at + (event - served[at]!) / Math.max(served[at + 1]! - served[at]!, Number.EPSILON)
        : seconds + (event - served[seconds]!) / lastRate;
    // What is served in the second of its arrival may seem to be served before it.
    waits[i] = Math.max(0, doneS - (s + part));
    weights[i] = count / POINTS;
    if (waits[i]! > deadlineS) missed += weights[i]!;
  }
  const order = Array.from(waits.keys()).sort((a, b) => waits[b]! - waits[a]!);
  let slower = 0;
  let p99 = 0;
  for (const i of order) {
    slower += weights[i]!;
    p99 = waits[i]!;
    if (slower >= events * 0.01) break;
  }
  const most = waits.reduce((max, wait, i) => (weights[i]! > 0 ? Math.max(max, wait) : max), 0);
  const missRate = events === 0 ? 0 : missed / events;
  return { events, missRate, waitP99Ms: p99 * 1000, waitMaxMs: most * 1000 };
}
