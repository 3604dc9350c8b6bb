// Dead letters without an engine, and the command that deals with them.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import type { Redis } from 'ioredis';
import { type LetterAction, runDeadletters } from '../../src/commands/deadletters.ts';
import { SubitoError } from '../../src/errors.ts';
import { startRedis, type TestRedis } from './redis.ts';
import type { Fields } from './settle.ts';

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  readonly error: SubitoError | null;
}

export const json = <T>({ out }: Ran): T => JSON.parse(out) as T;

/** What `list --json` prints. */
export interface Listed {
  readonly letters: readonly (Fields & { readonly age_ms: number; readonly deliveries: number })[];
  readonly counts: Record<string, number>;
  readonly total: number;
}

export type Value = string | Buffer;

export interface Death {
  readonly source?: string;
  readonly reason?: string;
  readonly detail?: string;
  readonly id?: string;
  readonly stream?: string;
}

/** A letter's values, as the settlement writes them. */
export function letterValues(fields: readonly Value[], death: Death = {}): Value[] {
  const { source = '5-5', reason = 'invalid', detail = 'no' } = death;
  return [...fields, 'source', source, 'reason', reason, 'detail', detail, 'deliveries', '2'];
}

/** The command in this process; `answer` is what a terminal types, null where there is no terminal. */
export async function runCommand(
  action: LetterAction,
  ids: readonly string[],
  given: Readonly<Record<string, unknown>>,
  answer: string | null = null,
): Promise<Ran> {
  const [out, err, input] = [new PassThrough(), new PassThrough(), new PassThrough()];
  const texts = ['', ''];
  for (const [i, stream] of [out, err].entries()) {
    stream.on('data', (chunk) => {
      texts[i] += String(chunk);
    });
  }
  const isTTY = answer !== null;
  if (isTTY) input.end(answer);
  const io = {
    out,
    err: Object.assign(err, { isTTY }),
    input: Object.assign(input, { isTTY }),
    nowMs: Date.now,
  };
  let code = -1;
  let error: SubitoError | null = null;
  try {
    code = await runDeadletters(action, ids, given, io);
  } catch (thrown) {
    if (!(thrown instanceof SubitoError)) throw thrown;
    error = thrown;
    code = thrown.exitCode;
  }
  return { code, out: texts[0]!, err: texts[1]!, error };
}

export class Graveyard {
  readonly server: TestRedis;
  readonly redis: Redis;
  /** A configuration with `plays` in two partitions and `events`; without one there is only `events`. */
  readonly partitioned: string;
  readonly #dir = mkdtempSync(join(tmpdir(), 'subito-deadletters-'));

  constructor(server: TestRedis) {
    this.server = server;
    this.redis = server.connect();
    this.partitioned = join(this.#dir, 'partitioned.yaml');
    writeFileSync(
      this.partitioned,
      `redis: { url: "${server.url}" }
streams:
  - { name: plays, partitions: 2, predictions: played, deadletters: unplayed, model: skip@2 }
  - { name: events, model: mlp }
`,
    );
  }

  static async start(): Promise<Graveyard> {
    return new Graveyard(await startRedis());
  }

  async stop(): Promise<void> {
    await this.server.stop();
    rmSync(this.#dir, { recursive: true });
  }

  run(
    action: LetterAction,
    ids: readonly string[] = [],
    given: Readonly<Record<string, unknown>> = {},
    answer: string | null = null,
  ): Promise<Ran> {
    const place = given['config'] === undefined ? { redis: this.server.url } : {};
    return runCommand(action, ids, { ...place, ...given }, answer);
  }

  /** The real command line. */
  spawn(...args: readonly string[]): ChildProcess {
    const command = ['src/main.ts', 'deadletters', ...args, '--redis', this.server.url];
    return spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** Writes a letter; resolves with its id. */
  async bury(fields: readonly Value[], death: Death = {}): Promise<string> {
    const { id = '*', stream = 'deadletters' } = death;
    return String(await this.redis.xadd(stream, id, ...letterValues(fields, death)));
  }

  /** Letters of `1-0`, `1-1`, ..., whose keys are k0, k1, ...; every other one is `failed`. */
  async buryMany(count: number): Promise<void> {
    for (let first = 0; first < count; first += 1000) {
      const pipeline = this.redis.pipeline();
      for (let i = first; i < Math.min(first + 1000, count); i += 1) {
        const death = { source: `1-${i}`, reason: i % 2 ? 'failed' : 'invalid' };
        const fields = ['key', `k${i}`, 'data', `{"n":${i}}`];
        pipeline.xadd('deadletters', '*', ...letterValues(fields, death));
      }
      await pipeline.exec();
    }
  }
}
