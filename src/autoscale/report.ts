/** What a simulation came to, for people and as a picture. */
import { type Line, linePlot } from '../plot.ts';
import type { Optimum } from './optimum.ts';
import type { Simulated } from './simulate.ts';
import type { Trace } from './traces.ts';

export interface TraceReport {
  readonly trace: string;
  readonly description: string;
  readonly seconds: number;
  readonly events: number;
  readonly replicasMean: number;
  readonly replicasMax: number;
  readonly backlogMax: number;
  readonly waitP99Ms: number;
  readonly waitMaxMs: number;
  /** Share of the events that waited for longer than the deadline. */
  readonly missRate: number;
  readonly replicaSeconds: number;
  /** The least that any schedule could have done with (a lower bound), and one that comes close to it. */
  readonly bestReplicaSeconds: number;
  readonly bestScheduleReplicaSeconds: number | null;
  /** Replica-seconds over the lower bound. */
  readonly ratio: number;
}

export function reportOf(trace: Trace, simulated: Simulated, best: Optimum): TraceReport {
  const seconds = simulated.replicas.length;
  const whole = Math.round;
  return {
    trace: trace.name,
    description: trace.description,
    seconds,
    events: whole(simulated.events),
    replicasMean: rounded(simulated.replicaSeconds / seconds, 2),
    replicasMax: simulated.replicas.reduce((most, each) => Math.max(most, each), 0),
    backlogMax: whole(simulated.backlogMax),
    waitP99Ms: whole(simulated.waitP99Ms),
    waitMaxMs: whole(simulated.waitMaxMs),
    missRate: rounded(simulated.missRate, 6),
    replicaSeconds: simulated.replicaSeconds,
    bestReplicaSeconds: whole(best.replicaSeconds),
    bestScheduleReplicaSeconds:
      best.scheduleReplicaSeconds === null ? null : whole(best.scheduleReplicaSeconds),
    ratio: rounded(simulated.replicaSeconds / Math.max(best.replicaSeconds, 1), 3),
  };
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}

export function formatReports(reports: readonly TraceReport[], deadlineMs: number): string {
  const head = ['TRACE', 'REPLICAS', 'MOST', 'BACKLOG', 'P99 WAIT', 'MISSED', 'REPLICA-S', 'BEST', 'RATIO'];
  const rows = reports.map((one) => [
    one.trace,
    String(one.replicasMean),
    String(one.replicasMax),
    one.backlogMax.toLocaleString('en-US'),
    `${one.waitP99Ms.toLocaleString('en-US')} ms`,
    `${(one.missRate * 100).toFixed(3)} %`,
    one.replicaSeconds.toLocaleString('en-US'),
    one.bestReplicaSeconds.toLocaleString('en-US'),
    one.ratio.toFixed(3),
  ]);
  const widths = head.map((title, at) => Math.max(title.length, ...rows.map((row) => row[at]!.length)));
  const line = (cells: readonly string[]) =>
    cells.map((cell, at) => (at === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[at]!))).join('  ');
  const notes = [
    `MISSED: waited for longer than ${deadlineMs} ms for want of replicas.`,
    'BEST: a lower bound on the replica-seconds of any schedule that knows the trace and misses 0.1 %.',
  ];
  return `${[line(head), ...rows.map(line), ...notes].join('\n')}\n`;
}

/** Points of a line; more would not be seen. */
const POINTS = 700;

/** Replicas above, backlog below, as SVG. */
export function plotOf(trace: Trace, simulated: Simulated, best: Optimum, serviceRatePerS: number): string {
  const x = { label: 'time, minutes' };
  const load = Float64Array.from(
    simulated.replicas,
    (_, s) => trace.arrivalsPerS[Math.floor(s / trace.stepS)]! / serviceRatePerS,
  );
  const replicas: Line[] = [
    { name: 'policy', points: pointsOf(simulated.replicas) },
    ...(best.replicas === null ? [] : [{ name: 'best in hindsight', points: pointsOf(best.replicas) }]),
    { name: 'arrivals, in replicas', points: pointsOf(load), dashed: true },
  ];
  const backlog = [{ name: 'backlog', points: pointsOf(simulated.backlogEvents) }];
  const above = linePlot({ title: `${trace.name}: replicas`, x, y: { label: 'replicas' }, lines: replicas });
  const below = linePlot({
    title: `${trace.name}: backlog`,
    x,
    y: { label: 'events waiting' },
    lines: backlog,
  });
  const size = (svg: string) => ({
    width: Number(/ width="(\d+)"/.exec(svg)?.[1]),
    height: Number(/ height="(\d+)"/.exec(svg)?.[1]),
  });
  const [top, bottom] = [size(above), size(below)];
  const height = top.height + bottom.height;
  const lower = below.replace('<svg ', `<svg y="${top.height}" `);
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${top.width} ${height}" ` +
    `width="${top.width}" height="${height}">\n${above}${lower}</svg>\n`
  );
}

/** The most of each stretch of time, so that no peak is lost. */
function pointsOf(values: Float64Array): [number, number][] {
  const stretch = Math.max(1, Math.ceil(values.length / POINTS));
  const points: [number, number][] = [];
  for (let from = 0; from < values.length; from += stretch) {
    const most = values.subarray(from, from + stretch).reduce((max, each) => Math.max(max, each), 0);
    points.push([from / 60, most]);
  }
  return points;
}
