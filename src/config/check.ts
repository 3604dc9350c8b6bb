// What one key cannot know about another: relations between keys, checked once all of them have a value.
import type { Config } from '../config.ts';
import { limitProblems } from '../limits.ts';
import { isLoopback } from '../loopback.ts';
import { nearest } from '../nearest.ts';
import { providerFaults } from './providers.ts';
import type { Path } from './report.ts';
import { type ConfigChecked, redisUrlDefault, redisWays } from './schema.ts';

export interface Finding {
  readonly at: Path;
  readonly value: unknown;
  readonly what: string;
  readonly fix: string;
}

export function* crossCheck(checked: ConfigChecked, config: Config): Generator<Finding> {
  yield* checkRedis(checked.redis);
  yield* checkStreams(config);
  yield* checkGateway(checked.gateway);
  if (config.models.watch) {
    const what = 'the directory is not watched yet';
    yield { at: ['models', 'watch'], value: true, what, fix: 'say false, and restart to load what is new' };
  }
  const { min, max } = config.workers;
  if (min > max) {
    yield {
      at: ['workers', 'min'],
      value: min,
      what: `more than workers.max (${max})`,
      fix: `set workers.max to at least ${min}, or workers.min to at most ${max}`,
    };
  }
  const { replicas_min: least, replicas_max: most } = checked.autoscale;
  if (least > most) {
    yield {
      at: ['autoscale', 'replicas_min'],
      value: least,
      what: `more than autoscale.replicas_max (${most})`,
      fix: `set autoscale.replicas_max to at least ${least}, or replicas_min to at most ${most}`,
    };
  }
  for (const { at, ...fault } of providerFaults(checked.workers.providers)) {
    yield { at: ['workers', 'providers', ...at], ...fault };
  }
  for (const sentence of limitProblems(config.limits)) {
    yield { at: ['limits'], value: checked.limits, what: sentence, fix: 'change one of them' };
  }
}

function isRedisUrl(url: URL): boolean {
  if (url.protocol === 'unix:') return url.pathname.length > 1 && /^(\?db=\d{1,5})?$/.test(url.search);
  return url.hostname !== '' && /^(\/\d{0,5})?$/.test(url.pathname) && url.search === '';
}

type RedisChecked = Exclude<ConfigChecked['redis'], string>;

function* checkRedis(redis: ConfigChecked['redis']): Generator<Finding> {
  if (redis === 'embedded') return;
  const ways = Object.keys(redisWays).filter((key) => redis[key as keyof typeof redisWays] !== undefined);
  if (ways.length > 1) {
    const fix = 'give either redis.url, redis.embedded, redis.cluster or redis.sentinels';
    yield { at: ['redis'], value: redis, what: `names two servers (${ways.join(', ')})`, fix };
    return;
  }
  yield* checkSentinelKeys(redis);
  if (redis.embedded !== undefined) {
    if (redis.password !== undefined || redis.username !== undefined || redis.tls !== undefined) {
      yield {
        at: ['redis'],
        value: redis,
        what: 'the embedded server listens on loopback and takes no credentials',
        fix: 'remove username, password and tls, or give redis.url',
      };
    }
    return;
  }
  if (redis.cluster !== undefined) yield* checkNodes(redis, 'cluster', redis.cluster);
  else if (redis.sentinels !== undefined) yield* checkNodes(redis, 'sentinels', redis.sentinels);
  else yield* checkUrl(redis);
  if (redis.tls !== undefined && (redis.tls.cert === undefined) !== (redis.tls.key === undefined)) {
    const what = 'a client certificate needs both halves';
    yield { at: ['redis', 'tls'], value: redis.tls, what, fix: 'give cert and key, or neither' };
  }
}

function* checkUrl(redis: RedisChecked): Generator<Finding> {
  const given = redis.url ?? redisUrlDefault;
  const url = URL.canParse(given) ? new URL(given) : undefined;
  if (url === undefined || !isRedisUrl(url)) {
    const fix = 'use redis://HOST:PORT, with /N for database N and rediss:// for TLS; or unix:///path?db=N';
    yield { at: ['redis', 'url'], value: given, what: 'not the URL of a Redis server', fix };
  } else if (redis.tls !== undefined && url.protocol !== 'rediss:') {
    const fix = 'write rediss:// in redis.url, or remove redis.tls';
    yield { at: ['redis', 'url'], value: given, what: 'has no TLS although redis.tls is given', fix };
  }
}

function* checkSentinelKeys(redis: RedisChecked): Generator<Finding> {
  if (redis.sentinels !== undefined) {
    if (redis.master !== undefined) return;
    const fix = 'give the name that stands in the sentinels’ own `sentinel monitor NAME ...`';
    yield { at: ['redis', 'master'], value: undefined, what: 'redis.sentinels needs it', fix };
    return;
  }
  for (const key of ['master', 'sentinel_username', 'sentinel_password'] as const) {
    if (redis[key] === undefined) continue;
    const fix = 'remove it, or give redis.sentinels';
    yield { at: ['redis', key], value: redis[key], what: 'means nothing without redis.sentinels', fix };
  }
}

/** What holds for one node holds for all: another may take its place at any time. */
function* checkNodes(
  redis: RedisChecked,
  key: 'cluster' | 'sentinels',
  urls: readonly string[],
): Generator<Finding> {
  const first = URL.canParse(urls[0] ?? '') ? new URL(urls[0] as string) : undefined;
  for (const [i, given] of urls.entries()) {
    const finding = (what: string, fix: string) => ({ at: ['redis', key, i], value: given, what, fix });
    const url = URL.canParse(given) ? new URL(given) : undefined;
    if (url === undefined || !isRedisUrl(url)) {
      yield finding('not the URL of a server', 'use redis://HOST:PORT, or rediss://HOST:PORT for TLS');
    } else if (url.username !== '' || url.password !== '') {
      const names = key === 'cluster' ? 'redis.username' : 'redis.sentinel_username, redis.username';
      yield finding('credentials are the same for all', `give ${names} and the passwords beside them`);
    } else if (key === 'cluster' && databaseOf(url) !== '0') {
      yield finding('a cluster has database 0 only', `write ${url.protocol}//${url.host}`);
    } else if (databaseOf(url) !== databaseOf(first) || url.protocol !== first?.protocol) {
      yield finding('differs from the first in TLS or database', 'write all of them alike');
    } else if (i === 0 && redis.tls !== undefined && url.protocol !== 'rediss:') {
      const fix = `write rediss:// in redis.${key}, or remove redis.tls`;
      yield finding('has no TLS although redis.tls is given', fix);
    }
  }
}

/** The N of redis://host/N. */
function databaseOf(url: URL | undefined): string {
  return String(Number(url?.pathname.slice(1) || 0));
}

function* checkStreams({ redis, streams, limits }: Config): Generator<Finding> {
  const names = new Set<string>();
  for (const [i, stream] of streams.entries()) {
    if (redis.kind === 'cluster' && stream.partitions === 1) {
      const { name, predictions } = stream;
      const what = `${name} and ${predictions} would lie in different slots of the cluster`;
      const fix = 'use 2 or more: their names then end in :{0}, :{1}, ..., which keeps them together';
      yield { at: ['streams', i, 'partitions'], value: 1, what, fix };
    }
    if (names.has(stream.name)) {
      const fix = 'give every stream once; more replicas share it by its group';
      yield { at: ['streams', i, 'name'], value: stream.name, what: 'an earlier stream has this name', fix };
    }
    names.add(stream.name);
    if (stream.deadlineMs !== undefined && stream.deadlineMs > limits.deadlineMsMax) {
      const what = `more than limits.deadline_ms_max (${limits.deadlineMsMax})`;
      yield {
        at: ['streams', i, 'deadline_ms'],
        value: stream.deadlineMs,
        what,
        fix: 'lower it or raise that',
      };
    }
  }
  yield* checkOutputs(streams);
}

/**
 * Each stream of events has outputs of its own: an outcome names its event by the entry id alone, which two
 * streams may both have given. And none is read as events: the engine would predict its own predictions.
 */
function* checkOutputs(streams: Config['streams']): Generator<Finding> {
  const inputs = new Set(streams.map(({ name }) => name));
  const taken = new Map<string, string>();
  for (const [i, stream] of streams.entries()) {
    for (const output of ['predictions', 'deadletters'] as const) {
      const value = stream[output];
      const finding = (what: string, fix: string) => ({ at: ['streams', i, output], value, what, fix });
      const other = taken.get(value);
      if (inputs.has(value)) {
        const what = `${stream.name} would write there, and ${value} is also a stream of events`;
        yield finding(what, 'name a stream that no other key reads');
      } else if (output === 'deadletters' && value === stream.predictions) {
        yield finding('also the predictions', 'name two different streams');
      } else if (other !== undefined && other !== stream.name) {
        yield finding(`${stream.name} and ${other} would both write there`, 'give each its own');
      }
      taken.set(value, stream.name);
    }
  }
}

function* checkGateway({ host, auth, insecure, origins }: ConfigChecked['gateway']): Generator<Finding> {
  if (!isLoopback(host) && !insecure) {
    yield {
      at: ['gateway', 'host'],
      value: host,
      what: 'others can reach this address, and nothing checks who they are',
      fix:
        'listen on 127.0.0.1; or, where something in front of it ends TLS and checks callers, ' +
        'say gateway.insecure: true (--insecure)',
    };
  }
  for (const [i, origin] of origins.entries()) {
    if (URL.canParse(origin) && new URL(origin).origin === origin) continue;
    const guess = URL.canParse(origin) ? nearest(origin, [new URL(origin).origin]) : undefined;
    const fix = guess
      ? `did you mean ${guess}?`
      : 'use scheme and host alone, such as https://player.example.org';
    yield { at: ['gateway', 'origins', i], value: origin, what: 'not a web origin', fix };
  }
  if (auth === 'off') return;
  yield {
    at: ['gateway', 'auth'],
    value: auth,
    what: 'tokens are not verified yet, so it would protect nothing',
    fix: 'say off, and listen on loopback or behind something that checks callers',
  };
}
