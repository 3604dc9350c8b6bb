// How many replicas the policy wants: by the formula where all is known, and never too few where it is not.
import { describe, expect, test } from 'vitest';
import { Policy, type PolicyConfig, type PolicySignals, uslOptimum } from '../src/autoscale/policy.ts';
import { loadConfig } from '../src/config.ts';
import { Random, seeds } from './support/random.ts';

const CONFIG: PolicyConfig = {
  replicasMin: 1,
  replicasMax: 20,
  drainMs: 30_000,
  utilisation: 0.7,
  stabilisationMs: 300_000,
  comeback: 0,
};
const IDLE: PolicySignals = {
  arrivalsPerS: 0,
  backlogEvents: 0,
  pendingEvents: 0,
  serviceRatePerS: 1000,
  replicas: 1,
  busyRatio: 1,
  oldestUnreadAgeMs: 0,
};
const policy = (more: Partial<PolicyConfig> = {}) => new Policy({ ...CONFIG, ...more });
const once = (signals: Partial<PolicySignals>, more: Partial<PolicyConfig> = {}) =>
  policy(more).decide(0, { ...IDLE, ...signals });

describe('the formula', () => {
  test('arrivals at the utilisation that is meant', () => {
    expect(once({ arrivalsPerS: 1400 })).toEqual({
      replicas: 2,
      needed: 2,
      reasons: ['2 for 1,400 arrivals/s at 0.7 of 1,000/s each'],
    });
    expect(once({ arrivalsPerS: 1401 }).replicas).toBe(3);
    expect(once({ arrivalsPerS: 1401 }, { utilisation: 1 }).replicas).toBe(2);
  });

  test('or a backlog within the drain time, where that takes more', () => {
    const { replicas, reasons } = once({ arrivalsPerS: 1000, backlogEvents: 90_000 });
    expect(replicas).toBe(4);
    expect(reasons).toEqual(['4 for 1,000 arrivals/s and 90,000 unread in 30 s at 1,000/s each']);
    expect(once({ arrivalsPerS: 1000, backlogEvents: 90_000 }, { drainMs: 90_000 }).replicas).toBe(2);
  });

  test('between the least and the most that there may be, and says so', () => {
    expect(once({}, { replicasMin: 3 })).toMatchObject({ replicas: 3, needed: 3 });
    expect(once({}, { replicasMin: 3 }).reasons[0]).toContain('replicas_min');
    const most = once({ arrivalsPerS: 1e9 });
    expect(most.replicas).toBe(20);
    expect(most.reasons[0]).toContain('replicas_max');
  });

  test('no more than help, by the Universal Scalability Law', () => {
    const usl = { sigma: 0.1, kappa: 0.01 };
    expect(uslOptimum(usl)).toBeCloseTo(9.487, 3);
    expect(uslOptimum({ sigma: 0.1, kappa: 0 })).toBe(Number.POSITIVE_INFINITY);
    const capped = once({ arrivalsPerS: 1e6 }, { usl });
    expect(capped.replicas).toBe(9);
    expect(capped.reasons[0]).toContain('usl');
    // Not fewer than there must be; and one, however bad it gets.
    expect(once({ arrivalsPerS: 1e6 }, { usl, replicasMin: 12 }).replicas).toBe(12);
    expect(once({ arrivalsPerS: 1e6 }, { usl: { sigma: 1, kappa: 5 } }).replicas).toBe(1);
    expect(once({ arrivalsPerS: 1e6 }, { usl: { sigma: 0, kappa: 0 } }).replicas).toBe(20);
  });

  test('none at all only where that is allowed and there is nothing to do', () => {
    const none = { replicasMin: 0 };
    const start = { replicas: 0 };
    expect(once({ ...start }, none)).toMatchObject({ replicas: 0, reasons: ['there is nothing to do'] });
    expect(once({ ...start, pendingEvents: 1 }, none).replicas).toBe(1);
    expect(once({ ...start, backlogEvents: 1 }, none).replicas).toBe(1);
    expect(once({ ...start, arrivalsPerS: 0.001 }, none).replicas).toBe(1);
    expect(once({ ...start, pendingEvents: null }, none).replicas).toBe(1);
  });
});

describe('up at once, down after a while', () => {
  test('down to the most that was needed within the window', () => {
    const one = policy();
    const at = (s: number, arrivalsPerS: number) => one.decide(s * 1000, { ...IDLE, arrivalsPerS });
    expect(at(0, 700).replicas).toBe(1);
    expect(at(1, 7000).replicas).toBe(10);
    expect(at(2, 3500)).toMatchObject({ replicas: 10, needed: 5 });
    expect(at(200, 2100)).toMatchObject({ replicas: 10, needed: 3 });
    expect(at(200, 2100).reasons[0]).toBe('10: so many were needed, or there, 199 s ago; kept for 300 s');
    expect(at(301, 700).replicas).toBe(5);
    expect(at(302, 700).replicas).toBe(3);
    expect(at(501, 700).replicas).toBe(1);
  });

  test('a replica that has just started does not send away the others', () => {
    const one = policy();
    expect(one.decide(0, { ...IDLE, arrivalsPerS: 700, replicas: 8 })).toMatchObject({
      replicas: 8,
      needed: 1,
    });
    expect(one.decide(299_000, { ...IDLE, arrivalsPerS: 700, replicas: 8 }).replicas).toBe(8);
    expect(one.decide(300_000, { ...IDLE, arrivalsPerS: 700, replicas: 8 }).replicas).toBe(1);
  });

  test('a sudden silence is no end: those who kept their events come back with more', () => {
    const one = policy({ comeback: 1.5 });
    const at = (s: number, arrivalsPerS: number) => one.decide(s * 1000, { ...IDLE, arrivalsPerS });
    expect(at(0, 7000).replicas).toBe(10);
    expect(at(1, 701).replicas).toBe(10);
    for (let s = 2; s < 300; s += 1) at(s, 7000);
    const silent = at(300, 100);
    expect(silent.replicas).toBe(15);
    expect(silent.reasons[0]).toContain('comes back');
    // Long enough, and it is believed.
    expect(at(599, 0)).toMatchObject({ replicas: 15, needed: 15 });
    expect(at(600, 0)).toMatchObject({ replicas: 15, needed: 1 });
    expect(at(900, 0).replicas).toBe(1);
  });

  test('a burst that ends is no silence', () => {
    const one = policy({ comeback: 1.5 });
    const at = (s: number, arrivalsPerS: number) => one.decide(s * 1000, { ...IDLE, arrivalsPerS });
    for (let s = 0; s < 600; s += 1) at(s, 100);
    for (let s = 600; s < 615; s += 1) expect(at(s, 7000).replicas).toBe(10);
    expect(at(615, 100).needed).toBe(1);
    expect(at(616, 0).needed).toBe(1);
  });
});

test('a backlog asks for no more of those that are not busy, unless it is old', () => {
  const signals = { backlogEvents: 90_000, replicas: 2, busyRatio: 0.34 };
  expect(once(signals).reasons).toEqual(['2, not 3: they are busy for 34 % of their time']);
  expect(once({ ...signals, busyRatio: 0.35 }).replicas).toBe(3);
  expect(once({ ...signals, oldestUnreadAgeMs: 30_000 }).replicas).toBe(3);
  for (const name of ['replicas', 'busyRatio', 'oldestUnreadAgeMs'] as const)
    expect(once({ ...signals, [name]: null }).replicas, name).toBe(3);
  // It does not send anybody away.
  expect(once({ ...signals, replicas: 5 })).toMatchObject({ replicas: 5, needed: 3 });
});

describe('what is not known', () => {
  const WORK = { ...IDLE, arrivalsPerS: 3500, replicas: 5 };

  test('keeps the last answer and says what is missing', () => {
    for (const name of ['arrivalsPerS', 'backlogEvents', 'pendingEvents', 'serviceRatePerS'] as const) {
      const one = policy();
      expect(one.decide(0, WORK).replicas).toBe(5);
      const held = one.decide(1_000_000, { ...WORK, [name]: null, replicas: 2 });
      expect(held, name).toMatchObject({ replicas: 5, needed: null });
      expect(held.reasons[0]).toMatch(/^5, as before: not known: /);
      // What was kept counts as needed from then on.
      expect(one.decide(1_001_000, { ...IDLE, replicas: 2 })).toMatchObject({ replicas: 5, needed: 1 });
    }
  });

  test('before the first answer: as many as there are, and at least one', () => {
    const dark = {
      arrivalsPerS: null,
      backlogEvents: null,
      pendingEvents: null,
      serviceRatePerS: null,
      replicas: null,
      busyRatio: null,
      oldestUnreadAgeMs: null,
    };
    expect(policy({ replicasMin: 0 }).decide(0, dark)).toEqual({
      replicas: 1,
      needed: null,
      reasons: [
        '1, the least: not known: the arrival rate, the backlog, what is pending, ' +
          'the service rate of a replica',
      ],
    });
    expect(policy().decide(0, { ...dark, replicas: 7 }).replicas).toBe(7);
    expect(policy().decide(0, { ...dark, replicas: 7 }).reasons[0]).toContain('7, as many as there are');
    expect(policy({ replicasMax: 4 }).decide(0, { ...dark, replicas: 7 }).replicas).toBe(4);
  });

  test('what is known may still ask for more', () => {
    const one = policy();
    one.decide(0, WORK);
    const held = one.decide(1000, { ...WORK, arrivalsPerS: null, backlogEvents: 270_000 });
    expect(held.replicas).toBe(9);
    expect(held.reasons).toHaveLength(2);
  });

  test('no service rate is missed where there is no work', () => {
    expect(once({ serviceRatePerS: null })).toMatchObject({ replicas: 1, needed: 1 });
    expect(once({ serviceRatePerS: null, pendingEvents: 1 }).needed).toBeNull();
    expect(once({ serviceRatePerS: 0, arrivalsPerS: 5 }).needed).toBeNull();
  });
});

test('whatever the signals, the answer is a whole number within the limits', () => {
  const values = [null, 0, 1, 1000, 1e9, 1e-9, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e308];
  for (const seed of seeds(200)) {
    const random = new Random(seed);
    const pick = () => values[Math.floor(random.next() * values.length)]!;
    const replicasMin = Math.floor(random.next() * 4);
    const one = policy({ replicasMin, comeback: random.next() < 0.5 ? 0 : 1.5 });
    for (let s = 0; s < 50; s += 1) {
      const signals = {
        arrivalsPerS: pick(),
        backlogEvents: pick(),
        pendingEvents: pick(),
        serviceRatePerS: pick(),
        replicas: pick(),
        busyRatio: pick(),
        oldestUnreadAgeMs: pick(),
      };
      const { replicas, reasons } = one.decide(s * 30_000, signals);
      const text = `seed ${seed}: ${JSON.stringify(signals)}`;
      expect(Number.isInteger(replicas) && replicas >= replicasMin && replicas <= 20, text).toBe(true);
      const work = [signals.arrivalsPerS, signals.backlogEvents, signals.pendingEvents];
      if (work.some((each) => each !== 0)) expect(replicas, text).toBeGreaterThan(0);
      expect(reasons.length, text).toBeGreaterThan(0);
    }
  }
});

describe('the configuration', () => {
  const load = (autoscale: object) => loadConfig({ env: {}, overrides: { autoscale } }).autoscale;

  test('has defaults that need no thought, and takes others', () => {
    expect(load({})).toEqual({
      replicasMin: 1,
      replicasMax: 20,
      utilisation: 0.9,
      drainMs: 30_000,
      windowMs: 15_000,
      stabilisationMs: 300_000,
      comeback: 1.5,
    });
    expect(load({ usl: { sigma: 0.05, kappa: 0.001 } }).usl).toEqual({ sigma: 0.05, kappa: 0.001 });
    const env = { SUBITO_AUTOSCALE_USL_SIGMA: '0.1', SUBITO_AUTOSCALE_USL_KAPPA: '0' };
    expect(loadConfig({ env }).autoscale.usl).toEqual({ sigma: 0.1, kappa: 0 });
  });

  test.for([
    [{ replicas_min: 21 }, 'autoscale.replicas_min = 21', 'more than autoscale.replicas_max (20)'],
    [{ replicas_max: 0 }, 'autoscale.replicas_max = 0', ''],
    [{ utilisation: 0 }, 'autoscale.utilisation = 0', ''],
    [{ utilisation: 1.1 }, 'autoscale.utilisation = 1.1', ''],
    [{ drain_ms: 0 }, 'autoscale.drain_ms = 0', ''],
    [{ usl: { sigma: 0.1 } }, 'autoscale.usl.kappa', ''],
    [{ usl: { sigma: 2, kappa: 0 } }, 'autoscale.usl.sigma = 2', ''],
  ] as const)('refuses %j', ([autoscale, key, what]) => {
    const error = expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringContaining(key) });
    expect(() => load(autoscale)).toThrow(error);
    expect(() => load(autoscale)).toThrow(what);
  });
});
