/** The sections `degrade` and `breaker` of model.yaml: what they may hold, and what they say. */
import { z } from 'zod';
import type { BreakerSettings, RungSpec } from '../infer/protocol.ts';
import { BREAKER_DEFAULTS } from '../schedule/breaker.ts';

const between = (least: number, most: number) => z.int().min(least).max(most);
const whole = (least: number, most: number, unit = '') =>
  between(least, most).optional().describe(`a whole number${unit} from ${least} to ${most}`);
const share = z.number().min(0.01).max(1).optional().describe('a share from 0.01 to 1');
const DAY_MS = 86_400_000;

const rung = z
  .union([
    z.literal('previous'),
    z.literal('last_known'),
    z.strictObject({
      last_known: z.strictObject({
        entries: whole(1, 10_000_000),
        bytes: whole(1024, 4_294_967_296),
        age_ms: whole(1, 30 * DAY_MS, ' of milliseconds'),
      }),
    }),
    z.strictObject({
      constant: z.record(z.string(), z.unknown()).describe('a prediction: a map with each of its outputs'),
    }),
  ])
  .describe('previous, last_known or {constant: {...}}');

export const degradeSchema = z
  .array(rung)
  .min(1)
  .max(3)
  .describe('a list of previous, last_known, {constant: {...}}, in the order in which they are tried');

export const breakerSchema = z
  .strictObject({
    window_ms: whole(100, 600_000, ' of milliseconds'),
    volume: whole(1, 100_000),
    failure_rate: share,
    slow_rate: share,
    slow_factor: z.number().min(1).max(1000).optional().describe('a number from 1 to 1000'),
    slow_ms_min: whole(1, 600_000, ' of milliseconds'),
    consecutive: whole(2, 100_000),
    open_ms_min: whole(1, 600_000, ' of milliseconds'),
    open_ms_max: whole(1, 600_000, ' of milliseconds'),
    probes: whole(1, 1000),
  })
  .describe('a map such as {consecutive: 5, open_ms_max: 2000}');

const LAST_KNOWN_DEFAULTS = { entriesMax: 100_000, bytesMax: 67_108_864, ageMsMax: 600_000 } as const;

/** Throws an Error that names the key. */
export function readDegrade(list: z.infer<typeof degradeSchema>): RungSpec[] {
  const rungs = list.map((one): RungSpec => {
    if (one === 'previous') return { kind: 'previous' };
    if (one === 'last_known') return { kind: 'last_known', ...LAST_KNOWN_DEFAULTS };
    if ('constant' in one) return { kind: 'constant', outputs: one.constant };
    const { entries, bytes, age_ms: ageMs } = one.last_known;
    const { entriesMax, bytesMax, ageMsMax } = LAST_KNOWN_DEFAULTS;
    return {
      kind: 'last_known',
      entriesMax: entries ?? entriesMax,
      bytesMax: bytes ?? bytesMax,
      ageMsMax: ageMs ?? ageMsMax,
    };
  });
  rungs.forEach(({ kind }, at) => {
    const twice = rungs.findIndex((other) => other.kind === kind) < at;
    if (twice) throw new Error(`degrade[${at}] = ${kind}: it is in the list before; name it once`);
    if (kind !== 'constant' || at === rungs.length - 1) return;
    throw new Error(`degrade[${at}] = constant: what follows it is never reached; put it last`);
  });
  return rungs;
}

/** Throws an Error that names both keys. */
export function readBreaker(given: z.infer<typeof breakerSchema>): Partial<BreakerSettings> {
  const all = {
    windowMs: given.window_ms,
    volume: given.volume,
    failureRate: given.failure_rate,
    slowRate: given.slow_rate,
    slowFactor: given.slow_factor,
    slowMsMin: given.slow_ms_min,
    consecutive: given.consecutive,
    openMsMin: given.open_ms_min,
    openMsMax: given.open_ms_max,
    probes: given.probes,
  };
  const said = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  const { openMsMin, openMsMax } = { ...BREAKER_DEFAULTS, ...said };
  if (openMsMin > openMsMax) {
    const both = `breaker: open_ms_min (${openMsMin}) is more than open_ms_max (${openMsMax})`;
    throw new Error(`${both}; lower the one or raise the other`);
  }
  return said;
}
