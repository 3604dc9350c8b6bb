/**
 * Who serves which hash slots of a Redis Cluster. The map is asked of any node that is in the cluster's
 * majority; it holds until somebody meets a reason to doubt it, and is then asked for again.
 */
import { messageOf } from '../errors.ts';
import { ask } from './ask.ts';
import { type RedisEndpoint, reachedAt, spell } from './endpoint.ts';
import type { Reply } from './reply.ts';

const SLOTS = 16_384;
const CRC_POLYNOMIAL = 0x1021;
/** A node that does not answer within this time is passed over for the next. */
const ASK_MS_MAX = 1_500;

/** The slot of a key: CRC16 (XMODEM) of what stands in its first {tag}, or of all of it. */
export function slotOf(key: string): number {
  const [, tag] = /^[^{]*\{([^}]+)\}/s.exec(key) ?? [];
  let crc = 0;
  for (const byte of Buffer.from(tag ?? key)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 0x8000 ? (crc << 1) ^ CRC_POLYNOMIAL : crc << 1;
    crc &= 0xffff;
  }
  return crc % SLOTS;
}

export class SlotMap {
  readonly #seeds: readonly RedisEndpoint[];
  /** The master of each slot; empty before the first answer. */
  #masters: RedisEndpoint[] = [];
  /** All nodes of the last answer, masters and replicas, the one that gave it first. */
  #nodes: readonly RedisEndpoint[] = [];
  #asking: Promise<void> | null = null;

  /** The seeds lead to the others, which are let in by the same credentials and TLS settings. */
  constructor(seeds: readonly RedisEndpoint[]) {
    this.#seeds = seeds;
  }

  /** The master of the key's slot, as far as known. Rejects when no node can say. */
  async masterOf(key: string): Promise<RedisEndpoint> {
    if (this.#masters.length === 0) await this.refresh();
    const master = this.#masters[slotOf(key)];
    if (master !== undefined) return master;
    throw new Error(`CLUSTERDOWN no node of the cluster serves the slot of ${key}`);
  }

  /** Every node that serves slots, once. */
  get masters(): readonly RedisEndpoint[] {
    return [...new Map(this.#masters.map((node) => [spell(node), node])).values()];
  }

  /** Asks for the map again. Callers that come meanwhile share the answer. */
  refresh(): Promise<void> {
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = null;
    });
    return this.#asking;
  }

  async #ask(): Promise<void> {
    const nodes = new Map([...this.#nodes, ...this.#seeds].map((node) => [spell(node), node]));
    const reasons: string[] = [];
    let doubtful: { readonly node: RedisEndpoint; readonly slots: Reply } | undefined;
    for (const [name, node] of nodes) {
      try {
        const commands = [
          ['CLUSTER', 'INFO'],
          ['CLUSTER', 'SLOTS'],
        ];
        const [info, slots = null] = await ask(node, commands, ASK_MS_MAX);
        if (String(info).includes('cluster_state:ok')) {
          this.#take(node, slots);
          return;
        }
        // Either the cluster fails as a whole, or this node is cut off and knows nothing new.
        doubtful ??= { node, slots };
      } catch (error) {
        reasons.push(`${name}: ${messageOf(error)}`);
      }
    }
    if (doubtful === undefined) throw new Error(reasons.join('; '));
    this.#take(doubtful.node, doubtful.slots);
  }

  /** [first slot, last slot, [host, port, ...] of the master, those of its replicas ...] of each range. */
  #take(asked: RedisEndpoint, reply: Reply): void {
    const masters: RedisEndpoint[] = [];
    const nodes = new Map([[spell(asked), asked]]);
    for (const range of reply as [number, number, ...[string | null, number][]][]) {
      const [first, last, ...owners] = range;
      for (const [rank, [host, port]] of owners.entries()) {
        // A node that does not know its own name means: the one that you have reached.
        const node = reachedAt(asked, host || asked.host, port);
        if (!nodes.has(spell(node))) nodes.set(spell(node), node);
        if (rank > 0) continue;
        for (let slot = first; slot <= last; slot += 1) masters[slot] = node;
      }
    }
    this.#masters = masters;
    this.#nodes = [...nodes.values()];
  }
}
