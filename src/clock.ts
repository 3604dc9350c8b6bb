/**
 * Unix milliseconds with fractions. Entry ids carry the server's wall clock, so waiting times need ours;
 * `Date.now` is too coarse for them, and the clock since process start does not see the wall clock being set.
 */
let offsetMs = performance.timeOrigin;
/** Less than this is rounding of `Date.now`, not a clock that was set. */
const SET_MS_MIN = 5;

export function nowMs(): number {
  return offsetMs + performance.now();
}

/** Follows the wall clock when it was set; call it every second or so. */
export function followWallClock(): void {
  const differenceMs = Date.now() - nowMs();
  if (Math.abs(differenceMs) > SET_MS_MIN) offsetMs += differenceMs;
}

/** Runs something later; the answer takes it back. Simulated time has its own. */
export type After = (ms: number, run: () => void) => () => void;

/** By the machine's clock; a timer that is left over does not keep the process. */
export const afterMs: After = (ms, run) => {
  const timer = setTimeout(run, ms).unref();
  return () => clearTimeout(timer);
};
