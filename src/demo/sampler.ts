/**
 * Makes up shows song by song from first-order statistics of real set lists
 * (models/next-track/transitions.json): what opens a set, what follows a song, when a set ends. Such a show
 * knows nothing of what came before the last song, except that no song comes twice. Pure: the same
 * transitions and the same random numbers give the same show.
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { messageOf, SubitoError } from '../errors.ts';
import type { Random } from '../random.ts';

const shares = z.array(z.tuple([z.string(), z.number().positive()])).min(1);
const transitionsSchema = z.object({
  sets: z.record(z.string().regex(/^[1-9]$/), z.number().positive()),
  starts: z.record(z.string(), shares),
  next: z.record(z.string(), z.record(z.string(), z.array(z.tuple([z.string(), z.number().positive()])))),
  fallback: z.record(z.string(), shares),
  longest: z.record(z.string(), z.int().min(1).max(100)),
});

/** By set, "1" to "3" where 3 is also any later one; the file's own `about` says what each part means. */
export type Transitions = z.output<typeof transitionsSchema>;
type Shares = Transitions['starts'][string];

export interface PlannedSong {
  readonly title: string;
  /** From 1. */
  readonly set: number;
  /** Place in its set, from 1. */
  readonly position: number;
}
export type Show = readonly PlannedSong[];

/** In `next`: the set ends here. */
const END = '';

/** Reads the file once, at start. Throws MODEL_INVALID when it is missing or not of this form. */
export function readTransitions(path: string): Transitions {
  let problem: string;
  try {
    const result = transitionsSchema.safeParse(JSON.parse(readFileSync(path, 'utf8')));
    const missing = result.success ? missingPart(result.data) : z.prettifyError(result.error);
    if (result.success && missing === '') return result.data;
    problem = missing;
  } catch (error) {
    problem = messageOf(error);
  }
  const fix = 'take the file from the repository again; it is made together with the model';
  throw new SubitoError('MODEL_INVALID', `${path}: ${problem.replaceAll('\n', ' ')}`, { fix });
}

/** A set that shows have must be described in every part. */
function missingPart(transitions: Transitions): string {
  const sets = Object.keys(transitions.sets);
  if (sets.length === 0) return 'sets: names none';
  const most = Math.max(...sets.map(Number));
  for (const part of ['starts', 'next', 'fallback', 'longest'] as const) {
    for (let set = 1; set <= most; set += 1) {
      if (transitions[part][set] === undefined) return `${part}: nothing for set ${set}`;
    }
  }
  return '';
}

/** A whole show, at least one song long and never longer than the sum of `longest`. */
export function sampleShow(transitions: Transitions, random: Random): Show {
  const show: PlannedSong[] = [];
  const played = new Set<string>();
  const sets = Number(draw(Object.entries(transitions.sets), random, new Set()));
  for (let set = 1; set <= sets; set += 1) {
    let position = 1;
    for (let title = firstOf(transitions, set, random, played); title !== END; ) {
      show.push({ title, set, position });
      played.add(title);
      position += 1;
      title = position > transitions.longest[set]! ? END : nextOf(transitions, set, title, random, played);
    }
  }
  return show;
}

function firstOf(transitions: Transitions, set: number, random: Random, played: Set<string>): string {
  return draw(transitions.starts[set]!, random, played) ?? fallbackOf(transitions, set, random, played);
}

function nextOf(
  transitions: Transitions,
  set: number,
  song: string,
  random: Random,
  played: Set<string>,
): string {
  const after = transitions.next[set]![song];
  const drawn = after === undefined ? undefined : draw(after, random, played);
  return drawn ?? fallbackOf(transitions, set, random, played);
}

/** END when even these have all been played. */
function fallbackOf(transitions: Transitions, set: number, random: Random, played: Set<string>): string {
  return draw(transitions.fallback[set]!, random, played) ?? END;
}

/** One name, in proportion to the weights of those that are not in `without`; undefined when none is left. */
function draw(choices: Shares, random: Random, without: ReadonlySet<string>): string | undefined {
  let total = 0;
  for (const [name, weight] of choices) if (!without.has(name)) total += weight;
  let left = random() * total;
  let last: string | undefined;
  for (const [name, weight] of choices) {
    if (without.has(name)) continue;
    last = name;
    left -= weight;
    if (left < 0) return name;
  }
  // Rounding can leave a trace of `left`; then it is the last one.
  return last;
}

const POPULAR_SHOWS = 2000;

/**
 * Titles by how often they are played in such shows, most played first: what a guess without a model would
 * say.
 */
export function popularTitles(transitions: Transitions, random: Random): readonly string[] {
  const counts = new Map<string, number>();
  for (let i = 0; i < POPULAR_SHOWS; i += 1) {
    for (const { title } of sampleShow(transitions, random)) counts.set(title, (counts.get(title) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([title]) => title);
}
