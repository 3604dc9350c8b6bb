/** The results of the HTTP suite as sections and a plot. */
import type { Line } from '../../src/plot.ts';
import { linePlot } from '../../src/plot.ts';
import type { Plot, Section } from '../suite.ts';
import { ms, percent, whole } from '../text.ts';
import type { HttpContestant } from './contestants.ts';
import type { Figures, Point } from './figures.ts';
import { pairsOf } from './figures.ts';

export interface Found {
  readonly field: readonly HttpContestant[];
  /** By name, why it has no figures. */
  readonly absent: ReadonlyMap<string, string>;
  readonly points: readonly Point[];
  readonly closed: readonly Figures[];
  /** In the open loop; empty when there was none. */
  readonly open: readonly Figures[];
  readonly openRatePerS: number;
}

const HEAD = ['', 'requests/s', 'Subito is', 'p50 ms', 'p99 ms', 'CPU us/request', 'errors'];

export function sectionsOf(found: Found): Section[] {
  const { field, absent, points, closed } = found;
  const about = field.map(({ name, what }) => `- **${name}**: ${what}${absent.has(name) ? '' : '.'}`);
  const gone = [...absent].map(([name, why]) => `- **${name}** is not measured: ${why.split('\n', 1)[0]}`);
  return [
    {
      title: 'One model over HTTP',
      text: [
        'The 64-256-128-1 perceptron, float32 rows as JSON, ONNX Runtime with one thread in every server; ' +
          'answers are compared with those of ONNX Runtime itself before and after. A closed loop over ' +
          'keep-alive connections by autocannon in a process of its own, which uses the same cores.',
        ...about,
        ...gone,
      ],
      table: summary(closed),
    },
    ...points.map((point) => pointSection(point, closed)),
    ...openSections(found),
  ];
}

/** Subito against the best Python server. */
function summary(closed: readonly Figures[]): Section['table'] {
  const pairs = pairsOf(closed);
  if (pairs.length === 0) return null;
  return {
    head: ['', 'Subito/s', 'best Python/s', 'which', 'ratio', 'Subito p99 ms', 'its p99 ms', 'CPU ratio'],
    rows: pairs.map(({ point, own, best }) => [
      point.name,
      whole(own.perS),
      whole(best.perS),
      best.contestant,
      `${(own.perS / best.perS).toFixed(1)}x`,
      ms(own.p99),
      ms(best.p99),
      `${(best.cpuUs / own.cpuUs).toFixed(1)}x`,
    ]),
  };
}

function pointSection(point: Point, closed: readonly Figures[]): Section {
  const there = closed.filter((one) => one.point.name === point.name);
  const own = there.find(({ contestant }) => contestant === 'subito');
  const shares = there.map(({ generatorShare }) => generatorShare);
  return {
    title: `Closed loop, ${point.name}`,
    text: there.length === 0 ? [] : [`The generator used up to ${percent(Math.max(...shares))} of a core.`],
    table: {
      head: HEAD,
      rows: there.map((one) => [
        one.contestant,
        whole(one.perS),
        own === undefined || one === own ? '' : `${(own.perS / one.perS).toFixed(1)}x`,
        ms(one.p50),
        ms(one.p99),
        whole(one.cpuUs),
        `${one.errors}`,
      ]),
    },
  };
}

function openSections({ open, openRatePerS }: Found): Section[] {
  if (open.length === 0) return [];
  const [one] = open;
  return [
    {
      title: `Open loop, ${whole(openRatePerS)} requests/s for everybody`,
      text: [
        'Half of what the slowest does at 32 connections. Poisson arrivals, from the time a request was ' +
          `due, over ${one!.point.connections} connections.`,
      ],
      table: {
        head: ['', 'p50 ms', 'p99 ms', 'worst ms', 'CPU us/request', 'errors'],
        rows: open.map(({ contestant, p50, p99, max, cpuUs, errors }) => [
          contestant,
          ms(p50),
          ms(p99),
          ms(max),
          whole(cpuUs),
          `${errors}`,
        ]),
      },
    },
  ];
}

/** Requests a second over connections, a line for each server. */
export function plotsOf({ closed }: Found): Plot[] {
  const single = closed.filter(({ point }) => point.rows === 1);
  const names = [...new Set(single.map(({ contestant }) => contestant))];
  const connections = [...new Set(single.map(({ point }) => point.connections))];
  if (connections.length < 2) return [];
  const lines = names.map((name): Line => {
    const own = single.filter(({ contestant }) => contestant === name);
    return { name, points: own.map(({ point, perS }) => [point.connections, perS] as const) };
  });
  const svg = linePlot({
    title: 'Requests a second of one row, closed loop',
    x: { label: 'connections', log: true, ticks: connections.map((at) => ({ at, text: `${at}` })) },
    y: { label: 'requests/s', log: true },
    lines,
  });
  return [{ name: 'requests', svg }];
}
