/**
 * `http`: the same model over HTTP, Subito against Python servers. One server at a time, in turns; a closed
 * loop at equal concurrency, then an open loop at the same rate for all.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { missing } from '../peers/python.ts';
import { openSite, type Site } from '../site.ts';
import { contestantsOf, roundsOf, type Suite, type SuiteOptions, type SuiteResult } from '../suite.ts';
import { bodiesOf, type Question, questions, verify } from './bodies.ts';
import { type HttpContestant, httpContestants } from './contestants.ts';
import { commonRatePerS, type Figures, figuresOf, type Point, type Runs, ratiosOf } from './figures.ts';
import { load, type Measured } from './load.ts';
import { Server } from './server.ts';
import { plotsOf, sectionsOf } from './text.ts';

function point(connections: number, rows = 1): Point {
  const name = connections === 1 ? '1 connection' : `${connections} connections`;
  return { name: rows === 1 ? name : `${name}, ${rows} rows a request`, connections, rows };
}
const POINTS = [point(1), point(8), point(32), point(64), point(32, 16)];
const POINTS_QUICK = [point(1), point(32)];
/** Its slowest server sets the rate of the open loop. */
const COMMON_POINT = point(32).name;
/** More than are needed at any of the rates, so that none has to wait for one. */
const OPEN_CONNECTIONS = 64;
/** After a server has stopped, for what it leaves behind. */
const REST_MS = 500;

interface Plan {
  readonly points: readonly Point[];
  readonly rounds: number;
  /** Once for every server that is started. */
  readonly warmServerS: number;
  /** Before every measurement. */
  readonly warmupS: number;
  readonly seconds: number;
  readonly openSeconds: number;
}

export const httpSuite: Suite = {
  name: 'http',
  what: 'the same model over HTTP: Subito against MLServer, LitServe, BentoML, Ray Serve and FastAPI',
  async run(options: SuiteOptions) {
    const { quick, check, rounds } = options;
    const plan: Plan = {
      points: quick ? POINTS_QUICK : POINTS,
      rounds: roundsOf(rounds, quick ? 1 : check ? 2 : 3),
      warmServerS: quick ? 1 : 5,
      warmupS: quick ? 0.5 : 1,
      seconds: quick ? 1 : 4,
      openSeconds: quick || check ? 0 : 8,
    };
    const site = await openSite();
    try {
      return await new Measurement(site, plan, options, await questions()).run();
    } finally {
      await site.stop();
    }
  },
};

class Measurement {
  readonly #site: Site;
  readonly #plan: Plan;
  readonly #say: SuiteOptions['say'];
  readonly #asked: readonly Question[];
  readonly #field: readonly HttpContestant[];
  /** By name, why it has no figures. One that fails in any round has none. */
  readonly #absent = new Map<string, string>();
  readonly #rounds = new Map<string, Measured[]>();

  constructor(site: Site, plan: Plan, { only, say }: SuiteOptions, asked: readonly Question[]) {
    this.#site = site;
    this.#plan = plan;
    this.#say = say;
    this.#asked = asked;
    this.#field = contestantsOf(httpContestants, only);
    for (const contestant of this.#field) {
      const why = missing(contestant);
      if (why === null) continue;
      this.#absent.set(contestant.name, why);
      say(`${contestant.name} is left out: ${why}`);
    }
  }

  async run(): Promise<SuiteResult> {
    const { points, rounds, openSeconds } = this.#plan;
    for (let round = 0; round < rounds; round++) {
      // Each round begins with another one: what changes with time hits all.
      const order = this.#field.map((_, i) => this.#field[(i + round) % this.#field.length]!);
      for (const contestant of order) {
        await this.#with(contestant, (server) => this.#closed(contestant, server, round));
      }
    }
    const closed = this.#figures();
    const ratePerS = commonRatePerS(closed, COMMON_POINT);
    const open: Figures[] = [];
    if (openSeconds > 0 && ratePerS !== null) {
      for (const contestant of this.#field) {
        await this.#with(contestant, async (server) => {
          open.push(await this.#open(contestant, server, ratePerS));
        });
      }
    }
    const found = {
      field: this.#field,
      absent: this.#absent,
      points,
      closed,
      open,
      openRatePerS: ratePerS ?? 0,
    };
    return {
      sections: sectionsOf(found),
      ratios: ratiosOf(closed),
      plots: plotsOf(found),
      raw: { plan: this.#plan, absent: Object.fromEntries(this.#absent), closed, open, ratePerS },
    };
  }

  /** Starts the server and stops it; one that fails is out. Subito must not fail. */
  async #with(contestant: HttpContestant, use: (server: Server) => Promise<void>): Promise<void> {
    const { name, form } = contestant;
    if (this.#absent.has(name)) return;
    let server: Server | null = null;
    try {
      const check = (url: string) => verify(url, form, this.#asked);
      server = await Server.start(await contestant.launch(this.#site), check);
      await this.#warmUp(contestant, server);
      await use(server);
      await check(server.url);
    } catch (error) {
      if (contestant.venv === null) throw error;
      this.#absent.set(name, (error as Error).message);
      this.#say(`${name} FAILED: ${(error as Error).message}`);
    } finally {
      await server?.stop();
      await sleep(REST_MS);
    }
  }

  /**
   * Compilers learn from load, and so do adaptive batchers, which keep for long what they learnt from many
   * connections: this is with one, and the points come in rising order.
   */
  async #warmUp({ form }: HttpContestant, server: Server): Promise<void> {
    const seconds = this.#plan.warmServerS;
    const bodies = bodiesOf(form, 1);
    await load({ kind: 'closed', url: server.url, bodies, connections: 1, warmupS: 0, seconds }, server);
  }

  async #closed(contestant: HttpContestant, server: Server, round: number): Promise<void> {
    const { points, rounds, warmupS, seconds } = this.#plan;
    for (const at of points) {
      const bodies = bodiesOf(contestant.form, at.rows);
      const { connections } = at;
      const plan = { kind: 'closed', url: server.url, bodies, connections, warmupS, seconds } as const;
      const measured = await load(plan, server);
      this.#roundsOf(contestant, at).push(measured);
      this.#say(`round ${round + 1}/${rounds}  ${contestant.name}, ${at.name}: ${figuresText(measured)}`);
    }
  }

  async #open(contestant: HttpContestant, server: Server, ratePerS: number): Promise<Figures> {
    const { warmupS, openSeconds } = this.#plan;
    const measured = await load(
      {
        kind: 'open',
        url: server.url,
        bodies: bodiesOf(contestant.form, 1),
        connections: OPEN_CONNECTIONS,
        ratePerS,
        warmupS,
        seconds: openSeconds,
        seed: 1,
      },
      server,
    );
    this.#say(`open loop, ${contestant.name} at ${ratePerS.toFixed(0)}/s: ${figuresText(measured)}`);
    const { name, venv } = contestant;
    return { ...measured, contestant: name, isPython: venv !== null, point: point(OPEN_CONNECTIONS) };
  }

  #roundsOf({ name }: HttpContestant, at: Point): Measured[] {
    const key = `${name} ${at.name}`;
    const rounds = this.#rounds.get(key) ?? [];
    this.#rounds.set(key, rounds);
    return rounds;
  }

  #figures(): Figures[] {
    const runs = this.#field
      .filter(({ name }) => !this.#absent.has(name))
      .flatMap((contestant) =>
        this.#plan.points.map(
          (at): Runs => ({
            contestant: contestant.name,
            isPython: contestant.venv !== null,
            point: at,
            rounds: this.#roundsOf(contestant, at),
          }),
        ),
      );
    return runs.map(figuresOf);
  }
}

function figuresText({ perS, p50, p99, cpuUs, errors, generatorShare }: Measured): string {
  return (
    `${perS.toFixed(0)}/s, p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms, CPU ${cpuUs.toFixed(0)} us, ` +
    `${errors} errors, generator ${(generatorShare * 100).toFixed(0)} %`
  );
}
