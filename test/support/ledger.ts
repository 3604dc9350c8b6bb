// A ledger made by hand on a real server, and the audit of it.
import { execFile } from 'node:child_process';
import type { Redis } from 'ioredis';
import type { AuditReport } from '../../src/ledger/report.ts';
import { type Control, connectControl } from '../../src/redis/control.ts';
import { endpointOf } from './core.ts';
import { startRedis, type TestRedis } from './redis.ts';

export const AUDITED = {
  stream: 'events',
  group: 'subito',
  predictions: 'predictions',
  deadletters: 'deadletters',
};
export const RECEIPTS = '{deadletters}:receipts';

/** Events that are delivered, predicted, dead-lettered and so on, one step at a time. */
export class LedgerByHand {
  readonly server: TestRedis;
  readonly redis: Redis;
  readonly control: Control;

  static async start(): Promise<LedgerByHand> {
    const server = await startRedis();
    const control = await connectControl({ endpoint: endpointOf(server), commandMsMax: 10_000 });
    return new LedgerByHand(server, control);
  }

  constructor(server: TestRedis, control: Control) {
    this.server = server;
    this.redis = server.connect();
    this.control = control;
  }

  async clear(): Promise<void> {
    await this.redis.flushall();
    await this.redis.xgroup('CREATE', 'events', 'subito', '0', 'MKSTREAM');
  }

  async stop(): Promise<void> {
    this.control.close();
    await this.server.stop();
  }

  async append(): Promise<string> {
    return (await this.redis.xadd('events', '*', 'key', 'k', 'data', '{}')) as string;
  }

  /** Appends events, and delivers them to a consumer. */
  async deliver(count: number): Promise<string[]> {
    const ids: string[] = [];
    for (let n = 0; n < count; n += 1) ids.push(await this.append());
    await this.redis.xreadgroup('GROUP', 'subito', 'c', 'COUNT', count, 'STREAMS', 'events', '>');
    return ids;
  }

  async predict(source: string, status = 'ok'): Promise<void> {
    await this.redis.xadd(
      'predictions',
      '*',
      'source',
      source,
      'key',
      'k',
      'status',
      status,
      'outputs',
      '{}',
    );
  }

  async settle(source: string, status = 'ok'): Promise<void> {
    await this.redis.xack('events', 'subito', source);
    await this.predict(source, status);
  }

  /** A dead letter; its event had a field `source` of its own. */
  async bury(source: string, reason = 'invalid'): Promise<string> {
    await this.redis.xack('events', 'subito', source);
    const ours = ['source', source, 'reason', reason, 'detail', 'x', 'deliveries', '1'];
    return (await this.redis.xadd('deadletters', '*', 'source', 'mine', ...ours)) as string;
  }

  /** What requeueing (`to`: the new event) and dropping (`to` empty) leave behind. */
  async handle(source: string, letter: string, to: string): Promise<void> {
    await this.redis.xadd(RECEIPTS, '*', 'source', source, 'deadletter', letter, 'to', to);
    await this.redis.xdel('deadletters', letter);
  }
}

/** Of the states that are not empty. */
export function counts({ states }: AuditReport): Record<string, number> {
  const found = Object.entries(states).filter(([, { count }]) => count > 0);
  return Object.fromEntries(found.map(([name, { count }]) => [name, count]));
}

/** Of the kinds that were found. */
export function offences(report: AuditReport): Record<string, readonly string[]> {
  return Object.fromEntries(Object.entries(report.offences).filter(([, ids]) => ids.length > 0));
}

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** The command line as a process of its own; `node` are options of Node's. */
export function subito(args: readonly string[], node: readonly string[] = []): Promise<Ran> {
  const { promise, resolve } = Promise.withResolvers<Ran>();
  const options = { env: { PATH: process.env['PATH'] ?? '' }, maxBuffer: 64 << 20 };
  execFile(process.execPath, [...node, 'src/main.ts', ...args], options, (error, out, err) =>
    resolve({ code: error === null ? 0 : Number(error.code), out, err }),
  );
  return promise;
}
