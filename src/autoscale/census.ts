/** What all replicas share and only Redis knows: entries ever added, and how many replicas live. */
import type { Control } from '../redis/control.ts';
import { aliveKey } from '../redis/keys.ts';

export interface CensusOptions {
  readonly control: Pick<Control, 'script'>;
  /** Of this engine; replicas have the same name in all partitions, so the first one is asked for them. */
  readonly partitions: readonly { readonly name: string; readonly group: string }[];
  /** Our own name in the groups. */
  readonly consumer: () => string;
}

/** Null: not known. */
export interface Counted {
  /** Entries ever added to the input streams, all together. */
  readonly added: number | null;
  /**
   * Live replicas, this one included. Others that have never been given an entry are not consumers yet, and
   * so not counted.
   */
  readonly replicas: number | null;
}

/** Names that are left behind go by and by (ingest/reaper.ts); with more than these it is given up. */
const CONSUMERS_MAX = 1000;

export class Census {
  readonly #options: CensusOptions;
  #known: readonly string[] = [];

  constructor(options: CensusOptions) {
    this.#options = options;
  }

  /** Never rejects: what Redis does not say is not known. */
  async count(): Promise<Counted> {
    const [first, ...others] = this.#options.partitions;
    if (first === undefined) return { added: null, replicas: null };
    const replies = await Promise.allSettled([
      this.#replicas(first),
      ...others.map((partition) => this.#ask(partition, [])),
    ]);
    let added: number | null = 0;
    for (const reply of replies) {
      if (reply.status === 'rejected') added = null;
      else if (added !== null) added += reply.value.added;
    }
    const own = replies[0]!;
    const alive = own.status === 'rejected' ? -1 : own.value.alive;
    return { added, replicas: alive < 0 ? null : Math.max(1, alive) };
  }

  async #replicas(partition: CensusOptions['partitions'][number]): Promise<Answer> {
    const answer = await this.#ask(partition, this.#known);
    if (answer.alive >= 0 || answer.names.length === 0) return answer;
    this.#known = answer.names.slice(0, CONSUMERS_MAX);
    return this.#ask(partition, this.#known);
  }

  async #ask(
    { name, group }: CensusOptions['partitions'][number],
    known: readonly string[],
  ): Promise<Answer> {
    const keys = [name, ...known.map((each) => aliveKey(name, group, each))];
    const reply = await this.#options.control.script('census', keys, [group, ...known]);
    const [added, alive, ...names] = reply as [number, number, ...string[]];
    // We live, whether we have been given something or not.
    const isCounted = alive < 0 || names.includes(this.#options.consumer());
    return { added, alive: isCounted ? alive : alive + 1, names };
  }
}

interface Answer {
  readonly added: number;
  readonly alive: number;
  readonly names: readonly string[];
}
