// The audit of the delivery ledger as a function, on a real server.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { auditStream } from '../src/ledger/audit.ts';
import { OFFENCES, type Offence } from '../src/ledger/report.ts';
import type { Control } from '../src/redis/control.ts';
import { AUDITED, counts, LedgerByHand, offences, RECEIPTS, subito } from './support/ledger.ts';

let ledger: LedgerByHand;
beforeAll(async () => {
  ledger = await LedgerByHand.start();
});
beforeEach(() => ledger.clear());
afterAll(() => ledger.stop());

const audit = (more: object = {}) => auditStream(ledger.control, { ...AUDITED, ...more });

describe('states', () => {
  test('every entry is counted in its one state, with the oldest of each', async () => {
    const [gone] = await ledger.deliver(1);
    await ledger.settle(gone!);
    await sleep(5);
    const [marker] = await ledger.deliver(1);
    await ledger.settle(marker!);
    await ledger.redis.xtrim('predictions', 'MAXLEN', 1);
    await sleep(5);
    const ids = await ledger.deliver(11);
    await ledger.settle(ids[0]!);
    await ledger.settle(ids[1]!, 'degraded');
    await ledger.settle(ids[2]!, 'overloaded');
    await ledger.settle(ids[9]!, 'superseded');
    await ledger.settle(ids[10]!, 'cancelled');
    await ledger.settle(ids[3]!, 'expired');
    await ledger.bury(ids[4]!);
    await ledger.bury(ids[5]!, 'failed');
    await ledger.handle(ids[6]!, await ledger.bury(ids[6]!), (await ledger.deliver(1))[0]!);
    await ledger.handle(ids[7]!, await ledger.bury(ids[7]!), '');
    await ledger.settle(ids[8]!, 'guessed');
    const unread = await ledger.redis.xadd('events', '*', 'key', 'k');
    await ledger.redis.xadd('events', '*', 'key', 'k');
    await ledger.redis.xadd('predictions', '*', 'source', '', 'key', 'k', 'status', 'ok');

    const report = await audit();
    expect(offences(report)).toEqual({});
    expect(counts(report)).toEqual({
      ...{ trimmed: 1, ok: 2, degraded: 1, expired: 1, overloaded: 1, superseded: 1, cancelled: 1 },
      ...{ invalid: 1, failed: 1, requeued: 1, dropped: 1, other: 1, pending: 1, unread: 2 },
    });
    expect(report).toMatchObject({ clean: true, exists: true, groupExists: true, entries: 16 });
    expect(report.states.trimmed.oldest).toBe(gone);
    expect(report.states.ok.oldest).toBe(marker);
    expect(report.states.unread.oldest).toBe(unread);
    expect(report.states.trimmed.ageMs).toBeGreaterThanOrEqual(10);
    expect(report.states.trimmed.ageMs).toBeLessThan(60_000);
    expect(report.states.lost).toEqual({ count: 0, oldest: null, ageMs: null });
  });

  test('what lies beyond the horizon is not looked at', async () => {
    const [first, second] = await ledger.deliver(2);
    await ledger.settle(first!);
    const report = await audit({ horizon: first });
    expect([counts(report), report.horizon]).toEqual([{ ok: 1 }, first]);
    await ledger.settle(second!);
    await ledger.predict(second!);
    expect((await audit({ horizon: first })).clean).toBe(true);
    expect((await audit()).clean).toBe(false);
  });

  test('a stream that does not exist, an empty one, one without the group', async () => {
    await ledger.redis.del('events');
    expect(await audit()).toMatchObject({ clean: true, exists: false, entries: 0, horizon: '0-0' });
    await ledger.redis.xadd('events', '5-0', 'key', 'k');
    expect(await audit()).toMatchObject({
      clean: true,
      groupExists: false,
      states: { unread: { count: 1 } },
    });
    await ledger.redis.xdel('events', '5-0');
    expect(await audit()).toMatchObject({ clean: true, exists: true, entries: 0, horizon: '5-0' });
  });

  test('another group on the stream is not its business', async () => {
    const [id] = await ledger.deliver(1);
    await ledger.settle(id!);
    await ledger.redis.xgroup('CREATE', 'events', 'other', '0');
    await ledger.redis.xreadgroup('GROUP', 'other', 'c', 'STREAMS', 'events', '>');
    expect(await audit()).toMatchObject({ clean: true, states: { pending: { count: 0 } } });
  });

  test('outcomes of entries that were trimmed from the front are no orphans', async () => {
    const ids = await ledger.deliver(3);
    for (const id of ids) await ledger.settle(id);
    await ledger.redis.xtrim('events', 'MINID', ids[2]!);
    expect(await audit()).toMatchObject({ clean: true, trimmedEntries: 2, entries: 1 });
  });

  test('an outcome that may have been trimmed is not called lost; one that cannot have been is', async () => {
    const [older] = await ledger.deliver(1);
    await ledger.settle(older!);
    await sleep(5);
    const [lost] = await ledger.deliver(1);
    await ledger.redis.xack('events', 'subito', lost!);
    expect(offences(await audit())).toEqual({ lost: [lost] });
    await sleep(5);
    const [later] = await ledger.deliver(1);
    await ledger.settle(later!);
    expect(offences(await audit())).toEqual({ lost: [lost] });
    await ledger.redis.xtrim('predictions', 'MAXLEN', 1);
    const report = await audit();
    expect([counts(report), report.clean]).toEqual([{ trimmed: 2, ok: 1 }, true]);
  });

  test('dead letters removed by hand may have been outcomes; those with a receipt are known', async () => {
    const [lost, requeued, removed] = await ledger.deliver(3);
    await ledger.redis.xack('events', 'subito', lost!);
    await ledger.handle(requeued!, await ledger.bury(requeued!), '9-9');
    expect(offences(await audit())).toEqual({ lost: [lost] });
    await ledger.redis.xdel('deadletters', await ledger.bury(removed!));
    expect(counts(await audit())).toEqual({ trimmed: 2, requeued: 1 });
  });
});

/** Breaks the ledger between good entries; answers the id that is to be found. */
const breaks: Record<Offence, () => Promise<string>> = {
  async lost() {
    const [id] = await ledger.deliver(1);
    await ledger.redis.xack('events', 'subito', id!);
    return id!;
  },
  async duplicates() {
    const [id] = await ledger.deliver(1);
    await ledger.settle(id!);
    await ledger.bury(id!);
    return id!;
  },
  async orphans() {
    const [id] = await ledger.deliver(1);
    await ledger.settle(id!);
    await ledger.redis.xdel('events', id!);
    return id!;
  },
  async ghosts() {
    const [id] = await ledger.deliver(1);
    await ledger.redis.xdel('events', id!);
    return id!;
  },
  async settledPending() {
    const [id] = await ledger.deliver(1);
    await ledger.predict(id!);
    return id!;
  },
  async settledUnread() {
    const [before, id] = await ledger.deliver(2);
    await ledger.settle(before!);
    await ledger.settle(id!);
    await ledger.redis.xgroup('SETID', 'events', 'subito', before!);
    return id!;
  },
};

describe('offences', () => {
  test.each(OFFENCES)(
    '%s: found with its id, and nothing else; exit code 1 and what to do',
    async (offence) => {
      for (const id of await ledger.deliver(3)) await ledger.settle(id);
      const id = await breaks[offence]();
      if (offence !== 'settledUnread') for (const each of await ledger.deliver(3)) await ledger.settle(each);
      expect(offences(await audit())).toEqual({ [offence]: [id] });

      const { code, out, err } = await subito(['audit', '--redis', ledger.server.url]);
      expect(code).toBe(1);
      expect(out).toMatch(new RegExp(`^ {2}[A-Z, ]+: 1 \\(.*\\)\n {4}${id}$`, 'm'));
      expect(out).not.toContain('clean');
      expect(err).toContain('subito: LEDGER_BROKEN: events has 1 ');
      expect(err).toContain(id);
      if (!['duplicates'].includes(offence)) expect(err).toMatch(/X[A-Z]+ .*events/);
    },
  );

  test('a source that is no id; a receipt beside a prediction; a duplicate of a trimmed entry', async () => {
    const ids = await ledger.deliver(3);
    await ledger.predict('songs');
    await ledger.settle(ids[0]!);
    await ledger.settle(ids[0]!);
    await ledger.handle(ids[1]!, await ledger.bury(ids[1]!), '');
    await ledger.predict(ids[1]!);
    await ledger.settle(ids[2]!);
    await ledger.redis.xtrim('events', 'MINID', ids[1]!);
    expect(offences(await audit())).toEqual({ duplicates: [ids[0], ids[1]], orphans: ['songs'] });
  });

  test('a dead letter requeued and settled is no duplicate', async () => {
    const [id] = await ledger.deliver(1);
    const letter = await ledger.bury(id!);
    const [copy] = await ledger.deliver(1);
    await ledger.handle(id!, letter, copy!);
    await ledger.settle(copy!);
    expect(counts(await audit())).toEqual({ requeued: 1, ok: 1 });
  });

  test('the first twenty ids are shown, with --ids all; JSON is one document', async () => {
    const ids = await ledger.deliver(23);
    await ledger.redis.xack('events', 'subito', ...ids);
    const few = await subito(['audit', '--redis', ledger.server.url]);
    expect(few.out).toContain(`    ${ids[19]}\n    ... and 3 more: --ids shows all\n`);
    expect((await subito(['audit', '--redis', ledger.server.url, '--ids'])).out).toContain(ids[22]);
    const { code, out, err } = await subito(['audit', '--redis', ledger.server.url, '--json']);
    expect(code).toBe(1);
    const { clean, streams } = JSON.parse(out) as { clean: boolean; streams: Record<string, unknown>[] };
    expect(clean).toBe(false);
    expect(streams[0]).toMatchObject({
      stream: 'events',
      clean: false,
      offences: { lost: { count: 23, ids: ids.slice(0, 20) }, ghosts: { count: 0, ids: [] } },
    });
    const { error } = JSON.parse(err) as { error: { code: string; detail: unknown } };
    expect(error).toMatchObject({ code: 'LEDGER_BROKEN', detail: [{ stream: 'events' }] });
  });
});

/** A control connection on which something happens right before a command is sent. */
function meddled(when: (words: readonly unknown[]) => boolean, meddle: () => Promise<unknown>): Control {
  let due = true;
  const before = async (words: readonly unknown[]) => {
    if (!due || !when(words)) return;
    due = false;
    await meddle();
  };
  return {
    ...ledger.control,
    async callBuffer(...words) {
      await before(words);
      return ledger.control.callBuffer(...words);
    },
    async script(name, keys, args) {
      await before([name, ...keys]);
      return ledger.control.script(name, keys, args);
    },
  };
}

const says =
  (...start: string[]) =>
  (words: readonly unknown[]) =>
    start.every((word, at) => words[at] === word);

describe('what moves meanwhile is no offence', () => {
  test('settled, and trimmed from the input, after it was seen pending', async () => {
    const ids = await ledger.deliver(3);
    const moving = meddled(says('XRANGE', 'events'), async () => {
      for (const id of ids) await ledger.settle(id);
      await ledger.redis.xtrim('events', 'MINID', ids[2]!);
    });
    expect(offences(await auditStream(moving, AUDITED))).toEqual({});
  });

  test('trimmed from the input after its outcome was seen', async () => {
    const ids = await ledger.deliver(3);
    for (const id of ids) await ledger.settle(id);
    const moving = meddled(says('XRANGE', 'events'), () => ledger.redis.xtrim('events', 'MINID', ids[2]!));
    const report = await auditStream(moving, AUDITED);
    expect([offences(report), report.trimmedEntries]).toEqual([{}, 2]);
  });

  test('read and settled after the first look at what is pending', async () => {
    const id = await ledger.redis.xadd('events', '*', 'key', 'k');
    const moving = meddled(says('inspect', 'predictions'), async () => {
      await ledger.redis.xreadgroup('GROUP', 'subito', 'c', 'STREAMS', 'events', '>');
      await ledger.settle(id!);
    });
    expect(counts(await auditStream(moving, AUDITED))).toEqual({ ok: 1 });
  });

  test('a dead letter is requeued before it could be read', async () => {
    const [id, other] = await ledger.deliver(2);
    const letter = await ledger.bury(id!);
    await ledger.settle(other!);
    const moving = meddled(says('XRANGE', 'predictions'), () => ledger.handle(id!, letter, ''));
    expect(counts(await auditStream(moving, AUDITED))).toEqual({ dropped: 1, ok: 1 });
  });

  test('a dead letter is requeued after it was read', async () => {
    const ids = await ledger.deliver(2);
    const letters = [await ledger.bury(ids[0]!), await ledger.bury(ids[1]!)];
    await ledger.handle(ids[0]!, letters[0]!, '');
    const moving = meddled(says('XRANGE', RECEIPTS), () => ledger.handle(ids[1]!, letters[1]!, ''));
    expect(offences(await auditStream(moving, AUDITED))).toEqual({});
  });

  test('the group is destroyed and made again, with what was pending', async () => {
    const [id, last] = await ledger.deliver(2);
    await ledger.settle(last!);
    const destroyed = meddled(says('XPENDING'), async () => {
      await ledger.redis.xgroup('DESTROY', 'events', 'subito');
    });
    const made = { ...destroyed };
    let looks = 0;
    made.script = async (name, keys, args) => {
      looks += Number(name === 'inspect' && keys[0] === 'events');
      // The third look: what seems lost is looked at again.
      if (looks === 3 && name === 'inspect' && keys[0] === 'events') {
        await ledger.redis.xgroup('CREATE', 'events', 'subito', last!);
        await ledger.redis.xclaim(
          'events',
          'subito',
          'unsettled',
          0,
          id!,
          'RETRYCOUNT',
          0,
          'FORCE',
          'JUSTID',
        );
      }
      return destroyed.script(name, keys, args);
    };
    expect(counts(await auditStream(made, AUDITED))).toEqual({ pending: 1, ok: 1 });
  });
});
