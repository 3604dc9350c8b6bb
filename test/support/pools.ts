/**
 * Pools of real workers, each stopped after its test, and what was noticed meanwhile. Importing this
 * registers the hooks.
 */
import { afterAll, afterEach, beforeAll } from 'vitest';
import { type Pool, type PoolOptions, startPool } from '../../src/infer/pool.ts';
import type { ModelSpec } from '../../src/infer/protocol.ts';
import { channels, type NoticeReport } from '../../src/observe/channels.ts';
import { ARENA } from './hand-made-slab.ts';

let pool: Pool | null = null;
/** Of the present test. */
export const notices: NoticeReport[] = [];
const onNotice = (message: unknown) => notices.push(message as NoticeReport);

beforeAll(() => channels.notice.subscribe(onNotice));
afterEach(async () => {
  await pool?.stop();
  pool = null;
  notices.length = 0;
});
afterAll(() => {
  channels.notice.unsubscribe(onNotice);
});

export async function start(specs: readonly ModelSpec[], changes: Partial<PoolOptions> = {}): Promise<Pool> {
  pool = await startPool({ specs, providers: ['cpu'], threads: 2, slabArenaBytes: ARENA, ...changes });
  return pool;
}
