/**
 * The least that could have been paid for a trace, had it been known beforehand: a lower bound on the
 * replica-seconds of every schedule that changes the number of replicas at block boundaries and lets at most
 * `missRateMax` of the events miss their deadline.
 *
 * The model is that of simulate.ts, with everything that is in doubt decided in the optimum's favour:
 *
 * - Replicas are launched ahead of need, so that they serve from the first moment on; the `startS` of each
 *   launch are paid for all the same, except of those that are there at the beginning.
 * - An event that misses its deadline is thrown away and takes nobody's time. (The simulator serves it.)
 * - Within a block (`blockS`) arrivals are even. What a block leaves over is carried into the next one, up to
 *   what that one can serve within the deadline; what is more has missed.
 *
 * It is a dynamic programme over the blocks. The state is the number of replicas and what is carried over, in
 * units of half of what a replica serves within the deadline, rounded down (again in the optimum's favour).
 * That at most so many may miss couples all blocks, so a miss gets a price (a Lagrange multiplier), the
 * programme is solved exactly for that price, and the price times the misses that are allowed is taken off:
 * by weak duality what remains is a lower bound, whatever the price. The best price is searched for. The
 * schedule of the least price that keeps the miss rate is given too: it shows how close the bound is.
 */
import type { Trace } from './traces.ts';

export interface OptimumOptions {
  readonly serviceRatePerS: number;
  readonly startS: number;
  readonly deadlineMs: number;
  readonly replicasMin: number;
  readonly replicasMax: number;
  readonly missRateMax: number;
}

export interface Optimum {
  /** No schedule of this kind can do with less. */
  readonly replicaSeconds: number;
  /** Of a schedule that keeps the miss rate, in the same model; null: not even all replicas could keep it. */
  readonly scheduleReplicaSeconds: number | null;
  /** That schedule, one value a second. */
  readonly replicas: Float64Array | null;
}

/** Kubernetes' autoscaler asks every 15 s; the optimum may change the replicas three times as often. */
const BLOCK_S = 5;
/** Units of what is carried over, in what a replica serves within the deadline. */
const UNITS = 2;
/** Halvings of the range of prices, on a logarithmic scale. */
const SEARCHES = 16;

interface Solution {
  readonly replicaSeconds: number;
  readonly missed: number;
  /** Of each block; empty unless it was asked for. */
  readonly replicas: readonly number[];
}

export function optimum(trace: Trace, options: OptimumOptions): Optimum {
  const blockS = trace.stepS * Math.ceil(Math.max(BLOCK_S, options.deadlineMs / 1000) / trace.stepS);
  const arrivals = blocksOf(trace, blockS);
  const events = arrivals.reduce((sum, each) => sum + each, 0);
  const allowed = events * options.missRateMax;
  const replicasMax = Math.min(options.replicasMax, enough(arrivals, blockS, options));
  const lastS = trace.arrivalsPerS.length * trace.stepS - (arrivals.length - 1) * blockS;
  const programme = new Programme(arrivals, blockS, lastS, { ...options, replicasMax });
  // In replica-seconds an event, from next to nothing to more than a replica for the whole trace.
  let low = 1e-3 / options.serviceRatePerS;
  let high = (arrivals.length * blockS * 10) / Math.max(allowed, 1);
  let bound = 0;
  const boundOf = (price: number): Solution => {
    const solution = programme.solve(price, false);
    bound = Math.max(bound, solution.replicaSeconds + price * (solution.missed - allowed));
    return solution;
  };
  const possible = boundOf(high).missed <= allowed;
  for (let i = 0; possible && i < SEARCHES; i += 1) {
    const price = Math.sqrt(low * high);
    if (boundOf(price).missed > allowed) low = price;
    else high = price;
  }
  if (!possible) return { replicaSeconds: bound, scheduleReplicaSeconds: null, replicas: null };
  const { replicaSeconds, replicas } = programme.solve(high, true);
  const perSecond = new Float64Array(trace.arrivalsPerS.length * trace.stepS);
  for (let s = 0; s < perSecond.length; s += 1) perSecond[s] = replicas[Math.floor(s / blockS)]!;
  return { replicaSeconds: bound, scheduleReplicaSeconds: replicaSeconds, replicas: perSecond };
}

/** So many serve any block in time, whatever is carried into it: more of them only cost more. */
function enough(arrivals: Float64Array, blockS: number, options: OptimumOptions): number {
  const most = arrivals.reduce((max, each) => Math.max(max, each), 0);
  const replicas = Math.ceil(most / (options.serviceRatePerS * (blockS - options.deadlineMs / 1000)));
  return blockS * 1000 > options.deadlineMs
    ? Math.max(replicas, options.replicasMin, 1)
    : Number.POSITIVE_INFINITY;
}

/** Events of each block; the last one may be shorter. */
function blocksOf({ arrivalsPerS, stepS }: Trace, blockS: number): Float64Array {
  const steps = blockS / stepS;
  const blocks = new Float64Array(Math.ceil(arrivalsPerS.length / steps));
  for (const [i, rate] of arrivalsPerS.entries()) {
    const at = Math.floor(i / steps);
    blocks[at] = blocks[at]! + rate * stepS;
  }
  return blocks;
}

/** States are replicas times units carried over: `n * width + q`. */
class Programme {
  readonly #arrivals: Float64Array;
  readonly #blockS: number;
  /** Of the last block. */
  readonly #lastS: number;
  readonly #options: OptimumOptions;
  readonly #width: number;
  readonly #unit: number;
  #cost: Float64Array;
  #missed: Float64Array;
  #nextCost: Float64Array;
  #nextMissed: Float64Array;
  /** Before a block: the state that it is reached from by changing the replicas. */
  readonly #origin: Int32Array;

  constructor(arrivals: Float64Array, blockS: number, lastS: number, options: OptimumOptions) {
    this.#arrivals = arrivals;
    this.#blockS = blockS;
    this.#lastS = lastS;
    this.#options = options;
    this.#width = options.replicasMax * UNITS + 1;
    this.#unit = (options.serviceRatePerS * options.deadlineMs) / 1000 / UNITS;
    const states = (options.replicasMax + 1) * this.#width;
    this.#cost = new Float64Array(states);
    this.#missed = new Float64Array(states);
    this.#nextCost = new Float64Array(states);
    this.#nextMissed = new Float64Array(states);
    this.#origin = new Int32Array(states);
  }

  /** Least of replica-seconds plus `price` for each miss. */
  solve(price: number, withSchedule: boolean): Solution {
    const width = this.#width;
    const blocks = this.#arrivals.length;
    const from = withSchedule ? Array.from({ length: blocks }, () => new Int32Array(this.#cost.length)) : [];
    this.#cost.fill(Number.POSITIVE_INFINITY);
    for (let n = this.#options.replicasMin; n <= this.#options.replicasMax; n += 1) this.#cost[n * width] = 0;
    this.#missed.fill(0);
    for (let block = 0; block < blocks; block += 1) {
      // What is there at the beginning has been started before.
      if (block === 0) this.#keep();
      else this.#change();
      this.#serve(block, price, from[block]);
    }
    // What the last replicas cannot serve in time after the end.
    for (let state = 0; state < this.#cost.length; state += 1) {
      const late = Math.max(0, (state % width) - Math.floor(state / width) * UNITS) * this.#unit;
      this.#cost[state] = this.#cost[state]! + price * late;
      this.#missed[state] = this.#missed[state]! + late;
    }
    let best = 0;
    for (let state = 1; state < this.#cost.length; state += 1)
      if (this.#cost[state]! < this.#cost[best]!) best = state;
    const missed = this.#missed[best]!;
    const replicas: number[] = [];
    for (let block = blocks - 1, state = best; withSchedule && block >= 0; block -= 1) {
      replicas[block] = Math.floor(state / width);
      state = from[block]![state]!;
    }
    return { replicaSeconds: this.#cost[best]! - price * missed, missed, replicas };
  }

  #keep(): void {
    for (let state = 0; state < this.#origin.length; state += 1) this.#origin[state] = state;
  }

  /** To any number of replicas, in place: each launch costs its start. */
  #change(): void {
    const { startS, replicasMin, replicasMax } = this.#options;
    const [cost, missed, origin, width] = [this.#cost, this.#missed, this.#origin, this.#width];
    const move = (from: number, to: number, price: number): void => {
      if (cost[from]! + price >= cost[to]!) return;
      cost[to] = cost[from]! + price;
      missed[to] = missed[from]!;
      origin[to] = origin[from]!;
    };
    this.#keep();
    for (let q = 0; q < width; q += 1) {
      for (let n = replicasMax - 1; n >= replicasMin; n -= 1) move((n + 1) * width + q, n * width + q, 0);
      for (let n = replicasMin + 1; n <= replicasMax; n += 1)
        move((n - 1) * width + q, n * width + q, startS);
    }
  }

  /** One block with the replicas as they are. */
  #serve(block: number, price: number, from: Int32Array | undefined): void {
    const arrivals = this.#arrivals[block]!;
    const blockS = block === this.#arrivals.length - 1 ? this.#lastS : this.#blockS;
    const { serviceRatePerS, replicasMin, replicasMax } = this.#options;
    const [width, unit] = [this.#width, this.#unit];
    const [cost, missed] = [this.#cost, this.#missed];
    const [nextCost, nextMissed] = [this.#nextCost, this.#nextMissed];
    nextCost.fill(Number.POSITIVE_INFINITY);
    for (let n = replicasMin; n <= replicasMax; n += 1) {
      const capacity = n * serviceRatePerS * blockS;
      for (let q = 0; q < width; q += 1) {
        const state = n * width + q;
        if (cost[state] === Number.POSITIVE_INFINITY) continue;
        const inTime = Math.min(q, n * UNITS);
        const left = Math.max(0, inTime * unit + arrivals - capacity);
        const carried = Math.min(width - 1, Math.floor(left / unit));
        // What no number of replicas could serve in time; the fraction of a unit is forgotten.
        const late = (q - inTime) * unit + Math.max(0, left - width * unit);
        const next = n * width + carried;
        const total = cost[state]! + n * blockS + price * late;
        if (total >= nextCost[next]!) continue;
        nextCost[next] = total;
        nextMissed[next] = missed[state]! + late;
        if (from !== undefined) from[next] = this.#origin[state]!;
      }
    }
    [this.#cost, this.#nextCost] = [nextCost, cost];
    [this.#missed, this.#nextMissed] = [nextMissed, missed];
  }
}
