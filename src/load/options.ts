/** What a load run is told, checked and with its defaults filled in. */
import { SubitoError } from '../errors.ts';
import { isLoopback } from '../loopback.ts';
import { EVENTS_MAX } from './account.ts';
import { priorityPattern } from './priorities.ts';
import type { ArrivalKind } from './schedule.ts';
import { ARRIVALS } from './schedule.ts';

export const VIAS = ['stream', 'ws', 'http'] as const;
export type Via = (typeof VIAS)[number];
export const OBSERVES = ['tail', 'push'] as const;
export type Observe = (typeof OBSERVES)[number];
export const ENCODINGS = ['msgpack', 'json'] as const;
export type Encoding = (typeof ENCODINGS)[number];

export interface LoadOptions {
  readonly via: Via;
  /** How the answers of `via: stream` are seen. */
  readonly observe: Observe;
  readonly ratePerS: number;
  readonly arrivals: ArrivalKind;
  readonly durationS: number;
  readonly warmupS: number;
  readonly timeoutS: number;
  readonly connections: number;
  /**
   * Events of one WebSocket connection per second that the server allows; more connections are opened to keep
   * it.
   */
  readonly perConnectionPerS: number;
  readonly keys: number;
  /** What the keys begin with: `load-` gives load-0, load-1 and so on. */
  readonly keyPrefix: string;
  /** Of every event; 0: the stream, the model or the engine decides. */
  readonly deadlineMs: number;
  /** One class or a mix of them, as priorityPattern() reads it; '': events name none. */
  readonly priority: string;
  /** '' leaves the choice to the stream or the engine; HTTP names it in the path. */
  readonly model: string;
  /** One JSON object, or '' */
  readonly data: string;
  /** A file of JSON objects, one a line, or '' */
  readonly dataFile: string;
  /** Random float32 values of so many bytes in all; 0: none. */
  readonly featuresBytes: number;
  readonly encoding: Encoding;
  readonly redisUrl: string;
  readonly url: string;
  readonly stream: string;
  readonly predictions: string;
  readonly deadletters: string;
  readonly token: string;
  readonly seed: number;
  /** Share of events that may fail or be lost before the exit code says so. */
  readonly errorsMax: number;
  readonly outstandingMax: number;
  /** Keep to the rate that the engines suggest. */
  readonly pace: boolean;
  readonly allowRemote: boolean;
}

export const loadDefaults: LoadOptions = {
  via: 'stream',
  observe: 'tail',
  ratePerS: 1000,
  arrivals: 'poisson',
  durationS: 10,
  warmupS: 2,
  timeoutS: 5,
  connections: 8,
  perConnectionPerS: 50,
  keys: 100,
  keyPrefix: 'load-',
  deadlineMs: 0,
  priority: '',
  model: '',
  data: '',
  dataFile: '',
  featuresBytes: 0,
  encoding: 'msgpack',
  redisUrl: 'redis://127.0.0.1:6379',
  url: 'http://127.0.0.1:8080',
  stream: 'events',
  predictions: 'predictions',
  deadletters: 'deadletters',
  token: '',
  seed: 1,
  errorsMax: 0.01,
  outstandingMax: 200_000,
  pace: false,
  allowRemote: false,
};

/** With a number behind it, it still is a key, and needs no escape in any encoding. */
const KEY_PREFIX = /^[\w:.-]{0,40}$/;

/** Throws USAGE with what to change. */
export function checkLoadOptions(options: LoadOptions): void {
  oneOf('via', VIAS, options.via);
  oneOf('observe', OBSERVES, options.observe);
  oneOf('arrivals', ARRIVALS, options.arrivals);
  oneOf('encoding', ENCODINGS, options.encoding);
  between('rate', options.ratePerS, 0.01, 1_000_000);
  between('duration', options.durationS, 0.1, 86_400);
  between('warmup', options.warmupS, 0, 3600);
  between('timeout', options.timeoutS, 0.01, 600);
  between('connections', options.connections, 1, 10_000);
  between('per-connection', options.perConnectionPerS, 1, 1_000_000);
  between('keys', options.keys, 1, 1_000_000);
  between('deadline', options.deadlineMs, 0, 3_600_000);
  if (!Number.isInteger(options.deadlineMs)) usage('--deadline must be a whole number');
  if (!KEY_PREFIX.test(options.keyPrefix)) {
    usage('--key-prefix must be letters, digits and :._- of at most 40 characters');
  }
  priorityPattern(options.priority);
  between('errors-max', options.errorsMax, 0, 1);
  between('outstanding-max', options.outstandingMax, 1, 1_000_000);
  between('features-bytes', options.featuresBytes, 0, 1_048_576);
  if (options.featuresBytes % 4 !== 0)
    usage('--features-bytes must be a multiple of 4: the values are float32');
  if (!Number.isFinite(options.seed)) usage('--seed must be a number');
  const sources = [options.data !== '', options.dataFile !== '', options.featuresBytes > 0];
  if (sources.filter(Boolean).length > 1) usage('give only one of --data, --data-file and --features-bytes');
  if (options.via === 'http' && options.model === '') usage('--via http needs --model');
  if (options.via !== 'stream' && options.pace) usage('--pace goes with --via stream');
  if (options.via !== 'stream' && options.observe === 'push') usage('--observe push goes with --via stream');
  if (eventsOf(options) > EVENTS_MAX) {
    usage(`${eventsOf(options)} events are more than ${EVENTS_MAX}: lower --rate or --duration`);
  }
  if (options.allowRemote) return;
  if (options.via === 'stream') loopbackOnly('--redis', options.redisUrl);
  if (options.via !== 'stream' || options.observe === 'push') loopbackOnly('--url', options.url);
}

/** Room for the events of a run, six standard deviations above the mean of Poisson arrivals. */
export function eventsOf(options: LoadOptions): number {
  const mean = options.ratePerS * (options.warmupS + options.durationS);
  return Math.ceil(mean + 6 * Math.sqrt(mean) + 16);
}

/** A load test at somebody else's server is a mistake worth preventing. */
function loopbackOnly(option: string, url: string): void {
  if (!URL.canParse(url)) usage(`${option} is not a URL: ${url}`);
  const { protocol, hostname, host } = new URL(url);
  if (protocol === 'unix:' || isLoopback(hostname)) return;
  // The URL may carry a password: only the host is shown.
  usage(`${option} points at ${host}, which is not this machine: add --allow-remote to mean it`);
}

function oneOf(option: string, values: readonly string[], value: string): void {
  if (!values.includes(value)) usage(`--${option} is ${value}: it must be one of ${values.join(', ')}`);
}

function between(option: string, value: number, low: number, high: number): void {
  if (!(value >= low && value <= high)) usage(`--${option} is ${value}: it must be from ${low} to ${high}`);
}

function usage(message: string): never {
  throw new SubitoError('USAGE', message, { fix: 'see `subito load --help`' });
}
