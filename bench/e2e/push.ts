/**
 * `push`: one prediction to many WebSocket subscribers of one channel; how long until the last one has it,
 * against a bare fan-out of the same stream in the same run.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../src/ports.ts';
import { Runner } from '../runner.ts';
import { openSite, type Site } from '../site.ts';
import { middle, percentileOf } from '../statistics.ts';
import { lastAddedMs, payloads } from '../streams.ts';
import { contestantsOf, roundsOf, type Suite, type SuiteOptions, type SuiteResult } from '../suite.ts';
import { ms, prose, whole } from '../text.ts';
import { startEngine } from './engine.ts';
import { Fan, type Shot } from './fan.ts';

const KEY = 'star';
const BARE_STREAM = 'bare:predictions';
/** About what the engine's frame is. */
const BARE_FRAME =
  '{"t":"pred","ch":"key:star","seq":125,"conf":0,"sid":"1760000000000-0","re":"shot-00125",' +
  '"src":"1760000000000-0","key":"star","model":"mlp@1","st":"ok","ms":{"q":0.412,"i":0.208},' +
  '"d":{"score":[0.5119999051094055]}}';
/** Sockets beside the subscribers'. */
const FILES_SPARE = 200;
/** Between two shots: what the last one left behind is done. */
const GAP_MS = 50;

/** Of one server and one number of subscribers. */
export interface FanPoint {
  readonly subscribers: number;
  readonly shots: readonly Shot[];
  /** Processor time per frame, microseconds: the server's, and that of all subscribers together. */
  readonly serverUs: number;
  readonly clientUs: number;
}

interface Server {
  readonly name: string;
  readonly what: string;
  start(site: Site): Promise<{ readonly runner: Runner; readonly port: number }>;
  add(site: Site, shot: number): Promise<unknown>;
  readonly stream: string;
}

const servers: readonly Server[] = [
  {
    name: 'subito',
    what: 'the event is added, predicted, committed, read back from the predictions and pushed',
    async start(site) {
      const limits = {
        connections_max: 50_000,
        connections_per_ip_per_second_max: 1_000_000,
        ping_ms: 3_600_000,
      };
      const { runner, url } = await startEngine(site, { config: { limits } });
      return { runner, port: Number(new URL(url).port) };
    },
    add: (site, shot) =>
      site.wire.call(['XADD', 'events', '*', 'key', KEY, 'features', payloads[0]!, 'event', `shot-${shot}`]),
    stream: 'predictions',
  },
  {
    name: 'bare',
    what: 'an entry is added to a stream, read with XREAD and published to one topic of uWebSockets.js',
    async start(site) {
      const port = await freePort();
      const path = new URL('./bare-fan.ts', import.meta.url).pathname;
      const argv = [path, site.redisUrl, BARE_STREAM, `${port}`];
      return { runner: await Runner.start(argv, async (output) => output.includes('ready\n')), port };
    },
    add: (site) => site.wire.call(['XADD', BARE_STREAM, '*', 'frame', BARE_FRAME]),
    stream: BARE_STREAM,
  },
];

/** A server that runs. */
interface Served {
  readonly server: Server;
  readonly runner: Runner;
  readonly port: number;
}

export const pushSuite: Suite = {
  name: 'push',
  what: 'one prediction to 100, 1,000 and 10,000 WebSocket subscribers: until the last one has it',
  async run(options: SuiteOptions) {
    const { quick, say } = options;
    const chosen = contestantsOf(servers, options.only);
    const counts = (quick ? [100, 1000] : [100, 1000, 10_000]).filter((count) => fits(count, say));
    const rounds = roundsOf(options.rounds, quick ? 1 : 2);
    const site = await openSite();
    const served: Served[] = [];
    try {
      for (const server of chosen) served.push({ server, ...(await server.start(site)) });
      const points: Record<string, FanPoint[]> = Object.fromEntries(chosen.map(({ name }) => [name, []]));
      for (const count of counts) {
        const shots = quick ? 10 : count > 1000 ? 30 : 100;
        for (const [name, parts] of await measure(served, site, { count, rounds, shots, say })) {
          points[name]!.push(joined(parts));
        }
      }
      return resultOf(chosen, points);
    } finally {
      await Promise.all(served.map(({ runner }) => runner.stop()));
      await site.stop();
    }
  },
};

/** A process may not have as many open files as it likes. */
function fits(count: number, say: (line: string) => void): boolean {
  const limit = /^Max open files\s+\S+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1];
  const isEnough = limit === undefined || Number(limit) >= count + FILES_SPARE;
  if (!isEnough) say(`${count} subscribers left out: only ${limit} open files are allowed (ulimit -Hn)`);
  return isEnough;
}

interface FanPlan {
  readonly count: number;
  readonly rounds: number;
  readonly shots: number;
  say(line: string): void;
}

/** By server, in turns. */
async function measure(
  served: readonly Served[],
  site: Site,
  plan: FanPlan,
): Promise<Map<string, FanPoint[]>> {
  const { count, rounds, shots, say } = plan;
  const parts = new Map<string, FanPoint[]>(served.map(({ server }) => [server.name, []]));
  for (let round = 1; round <= rounds; round++) {
    for (const { server, runner, port } of served) {
      try {
        const fan = await Fan.open({ port, count, channel: `key:${KEY}` });
        try {
          const point = await shootAll(server, site, runner, fan, count, shots);
          parts.get(server.name)!.push(point);
          const last = sortedOf(point, ({ lastMs }) => lastMs);
          const [p50, p99] = [50, 99].map((percent) => ms(percentileOf(last, percent)));
          say(`round ${round}/${rounds}  ${server.name}, last of ${count}: p50 ${p50} ms, p99 ${p99} ms`);
        } finally {
          fan.close();
        }
      } catch (error) {
        const text = `${server.name}: ${(error as Error).message}\n${runner.output}`;
        throw new Error(text.trim(), { cause: error });
      }
      // Closing thousands of sockets is work too.
      await sleep(500);
    }
  }
  return parts;
}

/** The rounds of one server and number of subscribers as one. */
function joined(parts: readonly FanPoint[]): FanPoint {
  return {
    subscribers: parts[0]!.subscribers,
    shots: parts.flatMap(({ shots }) => shots),
    serverUs: middle(parts.map(({ serverUs }) => serverUs)),
    clientUs: middle(parts.map(({ clientUs }) => clientUs)),
  };
}

async function shootAll(
  server: Server,
  site: Site,
  runner: Runner,
  fan: Fan,
  count: number,
  wanted: number,
): Promise<FanPoint> {
  const shoot = async (shot: number) => {
    await sleep(GAP_MS);
    return fan.shoot(
      () => server.add(site, shot),
      () => lastAddedMs(site.wire, server.stream),
    );
  };
  const cpuUs = () => {
    const { userUs, sysUs } = runner.cpu();
    return userUs + sysUs;
  };
  // The first ones warm up both sides.
  let clientUs = 0;
  for (let shot = 0; shot < Math.ceil(wanted / 5); shot++) clientUs = (await shoot(shot)).clientCpuUs;
  const serverUs = cpuUs();
  const shots: Shot[] = [];
  for (let shot = 0; shot < wanted; shot++) shots.push(await shoot(shot));
  const frames = wanted * count;
  return {
    subscribers: count,
    shots,
    serverUs: (cpuUs() - serverUs) / frames,
    clientUs: (shots.at(-1)!.clientCpuUs - clientUs) / frames,
  };
}

function sortedOf({ shots }: FanPoint, pick: (shot: Shot) => number): number[] {
  return shots.map(pick).sort((a, b) => a - b);
}

function resultOf(
  chosen: readonly Server[],
  points: Readonly<Record<string, readonly FanPoint[]>>,
): SuiteResult {
  const rows = chosen.flatMap(({ name }) =>
    points[name]!.map((point) => {
      const of = (pick: (shot: Shot) => number, percent: number) =>
        ms(percentileOf(sortedOf(point, pick), percent));
      return [
        `${name === 'bare' ? 'bare fan-out' : name}, ${whole(point.subscribers)}`,
        of(({ firstMs }) => firstMs, 50),
        of(({ lastMs }) => lastMs, 50),
        of(({ lastMs }) => lastMs, 99),
        of(({ lastFromIdMs }) => lastFromIdMs, 50),
        of(({ lastFromIdMs }) => lastFromIdMs, 99),
        point.serverUs.toFixed(1),
        point.clientUs.toFixed(1),
      ];
    }),
  );
  return {
    sections: [
      {
        title: 'One prediction to all subscribers of a channel, ms',
        text: [
          prose(`From the XADD of the event until the first and the last subscriber had the frame, and
            from the entry id of the prediction (whole milliseconds) until the last one had it.
            Processor time in us per frame: the server's with all that it does besides, and that of the
            subscribers' processes, which share the cores with it.`),
          ...chosen.map(({ name, what }) => `- **${name === 'bare' ? 'bare fan-out' : name}**: ${what}`),
        ],
        table: {
          head: [
            '',
            'first p50',
            'last p50',
            'last p99',
            'from id p50',
            'from id p99',
            'server us',
            'client us',
          ],
          rows,
        },
      },
    ],
    ratios: ratiosOf(points),
    plots: [],
    raw: points,
  };
}

/** Higher is better: the bare fan-out's median over the engine's. */
function ratiosOf({ subito, bare }: Readonly<Record<string, readonly FanPoint[]>>): Record<string, number> {
  const median = (point: FanPoint) =>
    percentileOf(
      sortedOf(point, ({ lastMs }) => lastMs),
      50,
    );
  const pairs = (subito ?? []).flatMap((own) => {
    const other = bare?.find(({ subscribers }) => subscribers === own.subscribers);
    if (other === undefined) return [];
    return [[`bare last p50 against ours, ${whole(own.subscribers)}`, median(other) / median(own)] as const];
  });
  return Object.fromEntries(pairs);
}
