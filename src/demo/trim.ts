/**
 * Keeps the demo's events stream from growing for ever. Only what every consumer group has settled may go,
 * never an unread or pending entry: the floor is the oldest pending one, else the last delivered, the lowest
 * of all groups.
 */
import type { Reply } from '../redis/reply.ts';

export type Call = (args: readonly string[]) => Promise<Reply>;

/** `a` and `b` as `milliseconds-sequence`. */
function isBefore(a: string, b: string): boolean {
  const [aMs = 0, aSeq = 0] = a.split('-').map(Number);
  const [bMs = 0, bSeq = 0] = b.split('-').map(Number);
  return aMs === bMs ? aSeq < bSeq : aMs < bMs;
}

/** What lies below `beforeMs` (Unix time) and is settled goes, about. Without a group nothing does. */
export async function trimSettled(call: Call, stream: string, beforeMs: number): Promise<void> {
  let floor = `${Math.floor(beforeMs)}-0`;
  const groups = (await call(['XINFO', 'GROUPS', stream])) as (string | number)[][];
  if (groups.length === 0) return;
  for (const info of groups) {
    const value = (name: string) => String(info[info.indexOf(name) + 1]);
    // Asked before the pending ones: what is delivered in between is pending or settled, and lies behind.
    let settled = value('last-delivered-id');
    const pending = (await call(['XPENDING', stream, value('name')])) as [number, string | null];
    if (pending[0] > 0) settled = String(pending[1]);
    if (isBefore(settled, floor)) floor = settled;
  }
  await call(['XTRIM', stream, 'MINID', '~', floor]);
}
