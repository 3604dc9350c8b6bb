// What was produced, and what has to have become of it in the end.

import type { Partition } from './engine.ts';
import type { Model } from './model.ts';
import type { Server } from './server.ts';
import { compareIds, idText, Stream } from './stream.ts';

export type Kind = 'good' | 'bad' | 'malformed' | 'large' | 'killer' | 'poison';

interface Produced {
  readonly kind: Kind;
  readonly data: string;
  /** Somebody deleted it: it may have an outcome. */
  optional: boolean;
}

interface Outcome {
  readonly source: string;
  readonly what: string;
  readonly output: string;
}

/** From so many on, an event may have been given out too often without being to blame. */
const DISRUPTIONS_MANY = 4;

export class Ledger {
  readonly #partitions: readonly Partition[];
  readonly #produced: ReadonlyMap<string, Map<string, Produced>>;

  constructor(partitions: readonly Partition[], produced?: ReadonlyMap<string, Map<string, Produced>>) {
    this.#partitions = partitions;
    this.#produced = produced ?? new Map(partitions.map(({ name }) => [name, new Map()]));
  }

  clone(): Ledger {
    const copy = new Map<string, Map<string, Produced>>();
    for (const [name, events] of this.#produced) {
      copy.set(name, new Map([...events].map(([id, event]) => [id, { ...event }])));
    }
    return new Ledger(this.#partitions, copy);
  }

  #of(stream: string): Map<string, Produced> {
    return this.#produced.get(stream) as Map<string, Produced>;
  }

  produced(stream: string, id: string, kind: Kind, data: string): void {
    this.#of(stream).set(id, { kind, data, optional: false });
  }

  /** Deleted with everything that was known of it. */
  flushed(): void {
    for (const events of this.#produced.values()) events.clear();
  }

  /** Deleted by somebody, settled or not. */
  deleted(model: Model, stream: string, ids: Iterable<string> = this.#of(stream).keys()): void {
    const partition = this.#partitions.find(({ name }) => name === stream) as Partition;
    const settled = new Set(outcomesOf(model, partition).map(({ source }) => source));
    for (const id of ids) {
      const event = this.#of(stream).get(id);
      if (event !== undefined && !settled.has(id)) event.optional = true;
    }
  }

  pendingOf(server: Server, stream: string, group: string): string[] {
    const found = server.model.store.stream(stream)?.groups.get(group);
    return found === undefined ? [] : found.pel.map(({ text }) => text);
  }

  /** A call of trim.lua takes out nothing that is unread or pending. */
  watchTrim(server: Server, args: readonly string[], run: () => void): void {
    const name = this.#partitions.find((partition) => args.includes(partition.name))?.name;
    const stream = name === undefined ? undefined : streamOf(server.model, name);
    const before = stream?.entries ?? [];
    const entries = [...before];
    run();
    if (stream === undefined || stream.entries.length === entries.length) return;
    const left = new Set(stream.entries.map(({ text }) => text));
    for (const { id, text } of entries) {
      if (left.has(text)) continue;
      for (const group of stream.groups.values()) {
        if (compareIds(id, group.last) > 0)
          throw new Error(`${name} ${text} was trimmed before group ${group.name} had read it`);
        if (group.pending(text) !== undefined)
          throw new Error(`${name} ${text} was trimmed while it was pending in group ${group.name}`);
      }
    }
  }

  /** Everything is read, nothing is pending. */
  isServed(model: Model): boolean {
    return this.#partitions.every(({ name, group: groupName }) => {
      const stream = streamOf(model, name);
      const group = stream?.groups.get(groupName);
      if (stream === undefined || group === undefined || group.pel.length > 0) return false;
      const last = stream.entries.at(-1);
      return last === undefined || compareIds(last.id, group.last) <= 0;
    });
  }

  state(model: Model): string {
    return this.#partitions
      .map(({ name, group: groupName }) => {
        const group = streamOf(model, name)?.groups.get(groupName);
        if (group === undefined) return `${name} has no group`;
        const pending = group.pel.map(({ text, consumer, count }) => `${text} (${consumer.name}, ${count})`);
        return `${name} delivered to ${idText(group.last)}, pending: ${pending.join(', ') || 'nothing'}`;
      })
      .join('; ');
  }

  /** Throws when an event has not exactly the one outcome that it should have. */
  check(model: Model, disruptions: number): void {
    const wrong: string[] = [];
    for (const partition of this.#partitions) {
      const events = this.#of(partition.name);
      const counts = new Map<string, number>();
      for (const { source, what, output } of outcomesOf(model, partition)) {
        counts.set(source, (counts.get(source) ?? 0) + 1);
        const event = events.get(source);
        if (event === undefined) wrong.push(`${partition.name} ${source}: ${what}, and never produced`);
        else if (!event.optional && !isRight(event, what, output, disruptions))
          wrong.push(`${partition.name} ${source}: ${event.kind}, and ${what}: ${output}`);
      }
      for (const [id, { kind, optional }] of events) {
        const count = counts.get(id) ?? 0;
        if (count > 1 || (count === 0 && !optional))
          wrong.push(`${partition.name} ${id}: ${kind} has ${count} outcomes`);
      }
    }
    if (wrong.length > 0) throw new Error(`${wrong.length} wrong: ${wrong.slice(0, 5).join('; ')}`);
  }
}

function isRight({ kind, data }: Produced, what: string, output: string, disruptions: number): boolean {
  if (what === 'failed' && disruptions >= DISRUPTIONS_MANY) return true;
  if (kind === 'good') return what === 'ok' && output === `about ${data}`;
  return what === (kind === 'killer' || kind === 'poison' ? 'failed' : 'invalid');
}

function streamOf(model: Model, name: string): Stream | undefined {
  const content = model.store.get(name);
  return content instanceof Stream ? content : undefined;
}

function outcomesOf(model: Model, { predictions, deadletters }: Partition): Outcome[] {
  const found: Outcome[] = [];
  for (const [stream, field] of [
    [predictions, 'status'],
    [deadletters, 'reason'],
  ] as const) {
    for (const { fields } of streamOf(model, stream)?.entries ?? []) {
      const last = (name: string) => fields[fields.lastIndexOf(name) + 1] ?? '';
      found.push({
        source: last('source'),
        what: last(field),
        output: last(field === 'status' ? 'outputs' : 'detail'),
      });
    }
  }
  return found;
}
