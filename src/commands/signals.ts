/** SIGINT and SIGTERM: the first asks for a graceful stop, the next one ends the process at once. */

export interface StopSignal {
  /** Resolves with the first signal. */
  readonly first: Promise<NodeJS.Signals>;
  /** Gives the signals back to Node. */
  off(): void;
}

/** Wrappers such as npm may pass on the signal that the terminal has sent to all of the group already. */
const SAME_SIGNAL_MS = 250;
const NUMBERS = { SIGINT: 2, SIGTERM: 15 } as const;
type Stop = keyof typeof NUMBERS;

export function stopSignal(): StopSignal {
  const { promise, resolve } = Promise.withResolvers<NodeJS.Signals>();
  let firstMs = -1;
  const onSignal = (signal: NodeJS.Signals): void => {
    const nowMs = performance.now();
    if (firstMs === -1) {
      firstMs = nowMs;
      resolve(signal);
    } else if (nowMs - firstMs > SAME_SIGNAL_MS) {
      process.exit(128 + NUMBERS[signal as Stop]);
    }
  };
  const signals = Object.keys(NUMBERS) as Stop[];
  for (const signal of signals) process.on(signal, onSignal);
  return {
    first: promise,
    off: () => {
      for (const signal of signals) process.off(signal, onSignal);
    },
  };
}
