/**
 * Which slot of its machine an engine takes. Consumers are named `host-boot-slot`, so that the successor of
 * an engine that was killed gets its name, and with it finds what it had been given. The slot keeps engines
 * side by side apart. It is held by a heartbeat key per partition, whose value is the token of the process.
 *
 * This file decides, consumer.ts asks Redis.
 */
import type { Machine } from './machine.ts';

/** Hostnames of Linux are no longer than this. */
const HOST_CHARS_MAX = 64;
const BOOT_CHARS = 8;
/** Engines of one machine, those included whose heartbeat has yet to expire. */
const SLOTS_MAX = 1000;

export function consumerName({ host, bootId }: Machine, slot: number): string {
  const safe = host.replace(/[^\w.-]/g, '_').slice(0, HOST_CHARS_MAX) || 'host';
  return `${safe}-${bootId.slice(0, BOOT_CHARS) || '0'}-${slot}`;
}

/** The nonce tells two engines of one process apart. */
export function tokenOf({ pid, start, pidNamespace }: Machine, nonce: string): string {
  return [pid, start, pidNamespace, nonce].join(':');
}

/**
 * Whether the process with that token is known not to live any more. Where it cannot be known (another
 * machine, another container, a token of another shape), it counts as alive, until its heartbeat expires.
 */
export function isDead(token: string, machine: Machine): boolean {
  const [pid = '', start = '', pidNamespace = '', ...rest] = token.split(':');
  if (rest.length !== 1 || start === '' || !/^[1-9]\d*$/.test(pid)) return false;
  if (pidNamespace === '' || pidNamespace !== machine.pidNamespace) return false;
  const found = Number(pid) === machine.pid ? machine.start : machine.startOf(Number(pid));
  return found === null || (found !== '' && found !== start);
}

/** The heartbeat keys of a slot, by partition. */
export interface SlotTable {
  readonly partitions: number;
  /** Whether it is ours now. */
  readonly take: (slot: number, partition: number) => Promise<boolean>;
  readonly giveBack: (slot: number, partition: number) => Promise<unknown>;
}

/**
 * Takes the lowest slot that can be had in every partition; one that cannot is given back. The partitions are
 * asked one after the other in the same order by all, so that of two engines that want the same slot one
 * gets it.
 */
export async function takeSlot(table: SlotTable): Promise<number> {
  for (let slot = 0; slot < SLOTS_MAX; slot += 1) {
    let taken = 0;
    while (taken < table.partitions && (await table.take(slot, taken))) taken += 1;
    if (taken === table.partitions) return slot;
    while (taken > 0) {
      taken -= 1;
      await table.giveBack(slot, taken);
    }
  }
  throw new Error(`all ${SLOTS_MAX} consumer names of this machine are taken`);
}
