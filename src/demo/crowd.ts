/**
 * The crowd: many simulated listeners, each playing a song every few seconds and asking what comes next, and
 * the score of the answers. Two thirds produce over Redis, one third over WebSocket. It is a guest of the
 * engine: it knows URLs and stream names, nothing inside.
 */
import type { Random } from '../random.ts';
import { Judge, type Score } from './judge.ts';
import { type Guess, Listener, type ListenerView, type Question, type Step } from './listener.ts';
import { RedisWay } from './redis-way.ts';
import { popularTitles, type Transitions } from './sampler.ts';
import { SocketWay, type SocketWayOptions } from './socket-way.ts';
import type { Way } from './way.ts';

export interface CrowdOptions {
  readonly listeners: number;
  /** Seconds from one song to the next, about. */
  readonly songSeconds: number;
  readonly transitions: Transitions;
  readonly model: string;
  /** Distinguishes this run's events from those of an earlier one; short. */
  readonly run: string;
  /** Makes a generator for a seed; the same seeds give the same shows. */
  readonly seeded: (seed: number) => Random;
  /** Milliseconds that only go forward. */
  readonly now: () => number;
}

/** Where the engine is. */
export interface CrowdTarget {
  readonly redisUrl: string;
  readonly gatewayUrl: string;
  readonly stream: string;
  readonly predictions: string;
  readonly deadletters: string;
  readonly limits: SocketWayOptions['limits'];
}

/** A song that was judged just now. */
interface Recent {
  readonly key: string;
  readonly came: string;
  /** The first guess. */
  readonly guess: string;
  readonly rank: number | null;
}

/** `sections.demo` of /stats; the console's page (src/console/console.js) reads it. */
export interface DemoFigures extends Score {
  readonly listeners: number;
  /** Questions asked, over the last seconds. */
  readonly eventsPerSecond: number;
  /** Only songs within a set count in the score of this level and in `last`: the last thousand. */
  readonly last: Score;
  readonly setOpeners: Score;
  readonly showOpeners: Score;
  /**
   * asked = answered + failed + lost + waiting. `late`: of the answered, those whose song had already been
   * played.
   */
  readonly asked: number;
  readonly answered: number;
  readonly failed: number;
  readonly lost: number;
  readonly waiting: number;
  readonly late: number;
  /** The last failure, '' without one. */
  readonly failure: string;
  /** How the shows come about, to be said wherever the score is shown. */
  readonly shows: string;
  readonly recent: readonly Recent[];
}

const SHOWS_ARE =
  'Shows are simulated: each song is drawn from how often it followed the one before in real set lists. ' +
  'That makes them easier to guess than real shows, for which the model card has the figures.';

interface Waiting {
  readonly listener: number;
  readonly question: Question;
  readonly askedMs: number;
}

const TICK_MS = 20;
/** A break between two shows, in songs. */
const BREAK_SONGS = 2;
/** An event without answer for so long is lost. */
const ANSWER_MS_MAX = 10_000;
/** At the end the answers in hand are waited for so long. */
const DRAIN_MS_MAX = 3000;
const RATE_SECONDS = 5;
const RECENT = 20;
const VIEWS = 50;

/** Every third listener is on a WebSocket. */
const isSocket = (listener: number) => listener % 3 === 2;

export class Crowd {
  readonly #options: CrowdOptions;
  readonly #listeners: readonly Listener[];
  readonly #dueMs: Float64Array;
  readonly #random: Random;
  readonly #judge = new Judge();
  /** By event id, oldest first. */
  readonly #waiting = new Map<string, Waiting>();
  readonly #recent: Recent[] = [];
  /** Asked in each of the last seconds; the last one is not over. */
  readonly #seconds: number[] = [0];
  #secondEndsMs = 0;
  #redis: Way | null = null;
  #socket: Way | null = null;
  #timer: NodeJS.Timeout | null = null;
  #count = { asked: 0, answered: 0, failed: 0, lost: 0, late: 0 };
  #failure = '';

  constructor(options: CrowdOptions) {
    this.#options = options;
    const { listeners, run, transitions, seeded } = options;
    this.#random = seeded(0);
    const popular = popularTitles(transitions, seeded(1));
    const width = String(listeners).length;
    this.#listeners = Array.from(
      { length: listeners },
      (_, i) =>
        new Listener({
          key: `listener-${String(i + 1).padStart(width, '0')}`,
          via: isSocket(i) ? 'websocket' : 'redis',
          run,
          transitions,
          popular,
          random: seeded(i + 2),
        }),
    );
    this.#dueMs = new Float64Array(listeners);
  }

  /** Rejects when the engine cannot be reached. */
  async start({ redisUrl, gatewayUrl, limits, ...streams }: CrowdTarget): Promise<void> {
    const { songSeconds, model, now } = this.#options;
    const settle = (event: string, answer: readonly Guess[] | string) => this.#settle(event, answer);
    const keys = this.#listeners.filter((_, i) => isSocket(i)).map(({ key }) => key);
    this.#redis = new RedisWay({ url: redisUrl, ...streams, settle });
    this.#socket = new SocketWay({ url: gatewayUrl, model, keys, ratePerS: 1 / songSeconds, limits, settle });
    await Promise.all([this.#redis.open(), this.#socket.open()]);
    const nowMs = now();
    this.#secondEndsMs = nowMs + 1000;
    for (let i = 0; i < this.#dueMs.length; i += 1)
      this.#dueMs[i] = nowMs + this.#random() * songSeconds * 1000;
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  /** No more questions; resolves when those in hand are answered, or after a while. */
  async stop(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    const { now } = this.#options;
    const untilMs = now() + DRAIN_MS_MAX;
    while (this.#waiting.size > 0 && now() < untilMs)
      await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    this.#redis?.close();
    this.#socket?.close();
  }

  figures(): DemoFigures {
    const whole = this.#seconds.slice(0, -1);
    return {
      listeners: this.#listeners.length,
      eventsPerSecond: whole.length === 0 ? 0 : whole.reduce((sum, n) => sum + n, 0) / whole.length,
      ...this.#judge.overall('within'),
      last: this.#judge.last(),
      setOpeners: this.#judge.overall('setOpener'),
      showOpeners: this.#judge.overall('showOpener'),
      ...this.#count,
      waiting: this.#waiting.size,
      failure: this.#failure,
      shows: SHOWS_ARE,
      recent: [...this.#recent],
    };
  }

  /** The first fifty, always the same ones: a page follows one of them. */
  views(): ListenerView[] {
    return this.#listeners.slice(0, VIEWS).map((listener) => listener.view());
  }

  #tick(): void {
    const nowMs = this.#options.now();
    this.#listeners.forEach((listener, i) => {
      if (this.#dueMs[i]! > nowMs) return;
      const way = isSocket(i) ? this.#socket : this.#redis;
      // While its connection is being opened again it waits; it goes on listening afterwards.
      if (!way?.ready(socketIndex(i))) return;
      const { question, judgment } = listener.step();
      if (judgment !== null) this.#score(listener.key, judgment);
      if (question !== null) this.#ask(way, i, question, nowMs);
      this.#dueMs[i] = nowMs + this.#pauseMs(listener);
    });
    this.#redis?.flush();
    this.#expire(nowMs);
    while (nowMs >= this.#secondEndsMs) {
      this.#secondEndsMs += 1000;
      this.#seconds.push(0);
      if (this.#seconds.length > RATE_SECONDS + 1) this.#seconds.shift();
    }
  }

  #pauseMs(listener: Listener): number {
    const songs = listener.isBetween ? BREAK_SONGS : 1;
    return songs * this.#options.songSeconds * 1000 * (0.75 + this.#random() / 2);
  }

  #ask(way: Way, listener: number, question: Question, askedMs: number): void {
    this.#waiting.set(question.event, { listener, question, askedMs });
    this.#count.asked += 1;
    this.#seconds[this.#seconds.length - 1]! += 1;
    way.send(socketIndex(listener), question);
  }

  #settle(event: string, answer: readonly Guess[] | string): void {
    const waiting = this.#waiting.get(event);
    if (waiting === undefined) return;
    this.#waiting.delete(event);
    if (typeof answer === 'string' || answer.length === 0) {
      this.#count.failed += 1;
      this.#failure = typeof answer === 'string' ? answer : 'a prediction without songs';
      return;
    }
    this.#count.answered += 1;
    if (!this.#listeners[waiting.listener]!.answer(waiting.question, answer)) this.#count.late += 1;
  }

  #score(key: string, judgment: NonNullable<Step['judgment']>): void {
    this.#judge.add(judgment);
    const { came, guess, rank } = judgment;
    this.#recent.push({ key, came, guess, rank });
    if (this.#recent.length > RECENT) this.#recent.shift();
  }

  #expire(nowMs: number): void {
    for (const [event, { askedMs }] of this.#waiting) {
      if (nowMs - askedMs < ANSWER_MS_MAX) return;
      this.#waiting.delete(event);
      this.#count.lost += 1;
    }
  }
}

/** A listener's number among those of the WebSocket; of no meaning for the others. */
const socketIndex = (listener: number) => Math.floor(listener / 3);
