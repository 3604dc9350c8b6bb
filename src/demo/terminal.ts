/** What the demo says in a terminal: where to look, and one line that is kept up to date. */
import type { Stats } from '../observe/figures.ts';
import type { DemoFigures } from './crowd.ts';

export interface Places {
  readonly url: string;
  readonly redisUrl: string;
  readonly listeners: number;
  readonly songSeconds: number;
  readonly stream: string;
  readonly predictions: string;
}

const REDIS_PORT_USUAL = '6379';

/** Said once, at the start. */
export function welcome(places: Places): string {
  const { url, redisUrl, listeners, songSeconds, stream, predictions } = places;
  const { port } = new URL(redisUrl);
  const cli = port === REDIS_PORT_USUAL ? 'redis-cli' : `redis-cli -p ${port}`;
  const event = JSON.stringify({ songs: ['Bertha'], set: 1, position: 2 });
  return [
    `Subito is running. ${listeners} simulated listeners play a song about every ${songSeconds} s each.`,
    `  Engine:    ${url}/`,
    `  Listener:  ${url}/player.html`,
    '  Or ask for yourself, from another terminal:',
    `    ${cli} XADD ${stream} '*' key me data '${event}'`,
    `    ${cli} XREVRANGE ${predictions} + - COUNT 5000 | grep -m1 -A6 '^me$'`,
    '  hit@10: how often the song that came was among ten guesses: the model’s, or the most popular songs.',
    '  The shows are made up, from how often one song followed another in real set lists. That makes them',
    '  easier to guess than real shows; for those see models/next-track/train/card.md.',
    '',
  ].join('\n');
}

const known = (value: number | null | undefined, text: (value: number) => string) =>
  value === null || value === undefined ? '-' : text(value);
const percent = (value: number | null) => known(value, (share) => `${(share * 100).toFixed(1)}%`);

/** The line. What matters stands in the first 80 columns. */
export function statusLine({ latency, series, state }: Stats, demo: DemoFigures, url: string): string {
  const { hitAt10, baselineHitAt10 } = demo.last;
  const troubled = demo.failed + demo.lost;
  return [
    state === 'running' ? `${known(series.ok.at(-1), (rate) => rate.toFixed(0))} events/s` : state,
    `p99 ${known(latency.total?.p99, (ms) => ms.toFixed(1))} ms`,
    `hit@10 ${percent(hitAt10)} (popular ${percent(baselineHitAt10)})`,
    `backlog ${known(series.unread.at(-1), String)}`,
    ...(troubled === 0 ? [] : [`${troubled} unanswered (${demo.failure || 'lost'})`]),
    'Ctrl-C stops',
    url,
  ].join(', ');
}

export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

const CLEAR_LINE = '\r\x1b[K';
/** Not a terminal: someone keeps what is written. */
const PLAIN_MS = 10_000;
const LIVE_MS = 1000;

/** Keeps one line at the bottom of a terminal; elsewhere writes it now and then. */
export class StatusLine {
  readonly #out: Output;
  readonly #isLive: boolean;
  readonly #timer: NodeJS.Timeout;
  #shown = '';

  constructor(out: Output, line: () => string) {
    this.#out = out;
    this.#isLive = out.isTTY === true;
    const show = () => (this.#isLive ? this.#rewrite(line()) : out.write(`${line()}\n`));
    this.#timer = setInterval(show, this.#isLive ? LIVE_MS : PLAIN_MS);
  }

  /** A line of something else, above. */
  print(text: string): void {
    if (this.#shown !== '') this.#out.write(CLEAR_LINE);
    this.#out.write(text);
    if (this.#shown !== '') this.#out.write(this.#shown);
  }

  stop(): void {
    clearInterval(this.#timer);
    if (this.#shown !== '') this.#out.write('\n');
    this.#shown = '';
  }

  #rewrite(line: string): void {
    // A line that wraps could not be taken back.
    this.#shown = line.slice(0, Math.max(20, (this.#out.columns ?? 80) - 1));
    this.#out.write(CLEAR_LINE + this.#shown);
  }
}
