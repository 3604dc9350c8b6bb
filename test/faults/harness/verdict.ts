/** Holds the outcomes against the producer's record: exactly one for each event that was added. */
import type { Outcomes } from './outcomes.ts';
import type { Producer } from './producer.ts';

/** What a loss did to an event that Redis had confirmed: `lost` for certain, or perhaps (`either`). */
export type Fate = 'kept' | 'lost' | 'either';

const SHOWN_MAX = 8;

/** Every departure from the promise as a line; empty when it holds. */
export function verdict(producer: Producer, outcomes: Outcomes, fate: (n: number) => Fate): string[] {
  const wrong: string[] = [];
  for (let n = 0; n < producer.count; n += 1) {
    const sent = producer.sent(n);
    const found = outcomes.of(n);
    const where = found.map(({ status, stream, id, source }) => `${status} (${stream} ${id}, of ${source})`);
    const [least, most] = bounds(sent.state, fate(n));
    const id = sent.state === 'added' ? ` ${sent.id}` : '';
    if (found.length < least) wrong.push(`event ${n}${id} was ${sent.state} and has no outcome`);
    if (found.length > most) {
      wrong.push(
        `event ${n}${id} was ${sent.state}, ${fate(n)}, and has ${found.length}: ${where.join(', ')}`,
      );
    }
    if (sent.state === 'added' && found.some(({ source }) => source !== sent.id)) {
      wrong.push(`event ${n}${id} has the outcome of another entry: ${where.join(', ')}`);
    }
  }
  for (const event of outcomes.events()) {
    if (!(event >= 0 && event < producer.count)) wrong.push(`an outcome for ${event}, which was never sent`);
  }
  if (wrong.length <= SHOWN_MAX) return wrong;
  return [...wrong.slice(0, SHOWN_MAX), `... ${wrong.length} in all, of ${producer.count} events`];
}

/** How many outcomes, at least and at most. */
function bounds(state: 'added' | 'unknown' | 'refused', fate: Fate): readonly [number, number] {
  if (state === 'refused' || fate === 'lost') return [0, 0];
  if (state === 'unknown' || fate === 'either') return [0, 1];
  return [1, 1];
}
