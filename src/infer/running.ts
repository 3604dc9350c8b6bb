/**
 * The main thread's book of what each model runs on: which provider, in which worker, and why no better one.
 */
import { notice } from '../observe/channels.ts';
import type { ModelSpec, ProviderEntry, ProviderName, ProviderNews } from './protocol.ts';
import { providerSpec } from './providers.ts';

export interface ProviderCount {
  /** Of the model. */
  readonly slot: number;
  readonly provider: ProviderName;
  readonly count: number;
}

export class Running {
  readonly #specs: readonly ModelSpec[];
  readonly #providers: readonly ProviderEntry[];
  /** By slot, then by thread. */
  readonly #now = new Map<number, Map<number, ProviderName>>();
  /** Why a provider was left, by slot and provider: the latest reason. */
  readonly #reasons = new Map<number, Map<ProviderName, string>>();
  /** Workers that had to leave a provider, since the start. */
  readonly #left = new Map<number, Map<ProviderName, number>>();
  /** News that a worker sends twice, in its description and as a message, count once. By thread. */
  readonly #heard = new Map<number, Set<string>>();
  /** Counts what may have changed an answer of `of`. */
  changes = 0;

  constructor(specs: readonly ModelSpec[], providers: readonly ProviderEntry[]) {
    this.#specs = specs;
    this.#providers = providers;
  }

  record({ thread, slot, provider, left }: ProviderNews): void {
    this.changes += 1;
    entry(this.#now, slot).set(thread, provider);
    for (const { provider: from, reason } of left) {
      const heard = this.#heard.get(thread) ?? new Set();
      this.#heard.set(thread, heard);
      if (heard.has(`${slot}/${from}`)) continue;
      heard.add(`${slot}/${from}`);
      const counts = entry(this.#left, slot);
      counts.set(from, (counts.get(from) ?? 0) + 1);
      const reasons = entry(this.#reasons, slot);
      const isNew = reasons.get(from) !== reason;
      reasons.set(from, reason);
      // The same in every worker is one thing to tell.
      if (isNew) {
        notice(
          'warn',
          'PROVIDER_FALLBACK',
          `${this.#label(slot)} runs on ${provider}: ${from} cannot: ${reason}`,
        );
      }
    }
  }

  /** Workers other than these are gone. */
  keep(threads: readonly number[]): void {
    this.changes += 1;
    for (const thread of this.#heard.keys()) if (!threads.includes(thread)) this.#heard.delete(thread);
    for (const workers of this.#now.values()) {
      for (const thread of workers.keys()) if (!threads.includes(thread)) workers.delete(thread);
    }
  }

  /** Models other than these are not served. */
  keepModels(slots: readonly number[]): void {
    this.changes += 1;
    for (const slot of this.#now.keys()) if (!slots.includes(slot)) this.#now.delete(slot);
  }

  /** What most workers run the model on; '' while none has it. */
  of(slot: number): ProviderName | '' {
    let most: ProviderCount | undefined;
    for (const one of this.sessions()) {
      if (one.slot === slot && one.count > (most?.count ?? 0)) most = one;
    }
    return most?.provider ?? '';
  }

  sessions(): ProviderCount[] {
    return [...this.#now].flatMap(([slot, workers]) => {
      const counts = new Map<ProviderName, number>();
      for (const provider of workers.values()) counts.set(provider, (counts.get(provider) ?? 0) + 1);
      return [...counts].map(([provider, count]) => ({ slot, provider, count }));
    });
  }

  /** How often a worker had to leave a provider: at its start, or in use. */
  fallbacks(): ProviderCount[] {
    return [...this.#left].flatMap(([slot, counts]) =>
      [...counts].map(([provider, count]) => ({ slot, provider, count })),
    );
  }

  /** One sentence for each model, or this one, that does not run on its first provider everywhere. */
  compromises(only: number | null = null): string[] {
    return this.sessions().flatMap(({ slot, provider, count }) => {
      if (only !== null && only !== slot) return [];
      const spec = this.#specs.find((one) => one.slot === slot);
      const [first] = spec?.providers ?? this.#providers;
      if (first === undefined || providerSpec(first).name === provider) return [];
      const wanted = providerSpec(first).name;
      const why = this.#reasons.get(slot)?.get(wanted) ?? 'it was left before';
      const workers = `${count} ${count === 1 ? 'worker' : 'workers'}`;
      return [`${this.#label(slot)} runs on ${provider} in ${workers}, not on ${wanted}: ${why}`];
    });
  }

  #label(slot: number): string {
    const spec = this.#specs.find((one) => one.slot === slot);
    return spec === undefined ? `slot ${slot}` : `${spec.name}@${spec.version}`;
  }
}

function entry<K, V>(map: Map<number, Map<K, V>>, slot: number): Map<K, V> {
  let inner = map.get(slot);
  if (inner === undefined) {
    inner = new Map();
    map.set(slot, inner);
  }
  return inner;
}
