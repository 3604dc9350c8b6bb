/** How long everything takes. */

export interface Plan {
  /** Of events that name none: by the configuration of their stream, and by requests over sockets. */
  readonly deadlineMs: number;
  /** A drain that measures the capacity should last about so long. */
  readonly drainS: number;
  /** At half of the capacity, before what is measured. */
  readonly warmS: number;
  readonly overloadS: number;
  /** At a twentieth of the capacity, after it. */
  readonly tailS: number;
  /** Before, during and after the model is ten times slower. */
  readonly slowdownS: readonly [before: number, slow: number, after: number];
  /** Before, while and after the model fails. */
  readonly failureS: readonly [before: number, failing: number, after: number];
  /** Before and after a worker hangs or a handler crashes. */
  readonly faultS: readonly [before: number, after: number];
  /** Of the capacity. */
  readonly rates: readonly number[];
  /** An event without an outcome for so long is lost. */
  readonly timeoutS: number;
}

export const PLAN: Plan = {
  deadlineMs: 250,
  drainS: 6,
  warmS: 3,
  overloadS: 60,
  tailS: 10,
  slowdownS: [15, 10, 20],
  failureS: [15, 10, 20],
  faultS: [5, 20],
  rates: [1.5, 2, 4],
  // An engine that answers everything, however late, needs three minutes for four times too much.
  timeoutS: 300,
};

/** The same conditions, less of it. */
export const PLAN_CHECK: Plan = { ...PLAN, overloadS: 20, tailS: 5, rates: [2] };

export const PLAN_QUICK: Plan = {
  ...PLAN,
  drainS: 0.7,
  warmS: 0.5,
  overloadS: 5,
  tailS: 3,
  slowdownS: [2, 2, 4],
  failureS: [2, 2, 6],
  faultS: [1, 12],
  timeoutS: 60,
};
