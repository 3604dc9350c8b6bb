/** What is made of the rounds: medians, the best Python server, ratios. Pure. */
import { middle } from '../statistics.ts';
import type { Measured } from './load.ts';

/** One kind of load that every server gets. */
export interface Point {
  /** In tables and names of ratios: `32 connections`. */
  readonly name: string;
  readonly connections: number;
  /** Of one request. */
  readonly rows: number;
}

/** What one server did at one point, in each round. */
export interface Runs {
  readonly contestant: string;
  readonly isPython: boolean;
  readonly point: Point;
  readonly rounds: readonly Measured[];
}

export interface Figures extends Measured {
  readonly contestant: string;
  readonly isPython: boolean;
  readonly point: Point;
}

/** Medians over the rounds; errors are added up, for one is one too many. */
export function figuresOf({ contestant, isPython, point, rounds }: Runs): Figures {
  const of = (pick: (round: Measured) => number) => middle(rounds.map(pick));
  return {
    contestant,
    isPython,
    point,
    answered: of((round) => round.answered),
    perS: of((round) => round.perS),
    p50: of((round) => round.p50),
    p99: of((round) => round.p99),
    max: of((round) => round.max),
    errors: rounds.reduce((sum, { errors }) => sum + errors, 0),
    generatorShare: of((round) => round.generatorShare),
    cpuUs: of((round) => round.cpuUs),
  };
}

/** Subito at a point, and the Python server with the most requests a second there; null: one is not there. */
export interface Pair {
  readonly point: Point;
  readonly own: Figures;
  readonly best: Figures;
}

export function pairsOf(all: readonly Figures[]): Pair[] {
  return all
    .filter(({ contestant }) => contestant === 'subito')
    .flatMap((own) => {
      const others = all.filter(
        (one) => one.isPython && one.point.name === own.point.name && one.answered > 0,
      );
      if (others.length === 0) return [];
      const best = others.reduce((most, one) => (one.perS > most.perS ? one : most));
      return [{ point: own.point, own, best }];
    });
}

/** Higher is better. */
export function ratiosOf(all: readonly Figures[]): Record<string, number> {
  const ratios: Record<string, number> = {};
  for (const { point, own, best } of pairsOf(all)) {
    ratios[`requests/s against the best Python server, ${point.name}`] = own.perS / best.perS;
    // The best Python server's, not the lowest of all: a server that answers little may answer it soon.
    ratios[`p99 of the best Python server against ours, ${point.name}`] = best.p99 / own.p99;
    ratios[`CPU per request of the best Python server against ours, ${point.name}`] = best.cpuUs / own.cpuUs;
  }
  return ratios;
}

/**
 * The rate of the open loop: half of what the slowest does at `point`; null when nobody was measured there.
 */
export function commonRatePerS(all: readonly Figures[], point: string): number | null {
  const there = all.filter((one) => one.point.name === point).map(({ perS }) => perS);
  return there.length === 0 ? null : Math.min(...there) / 2;
}
