// What one key cannot know about another: relations between keys, checked once all of them have a value.
import type { Config } from '../config.ts';
import { limitProblems } from '../limits.ts';
import { isLoopback } from '../loopback.ts';
import { nearest } from '../nearest.ts';
import type { Path } from './report.ts';
import { type ConfigChecked, redisUrlDefault } from './schema.ts';

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
  const { providers } = config.workers;
  if (new Set(providers).size !== providers.length) {
    yield { at: ['workers', 'providers'], value: providers, what: 'names one twice', fix: 'name each once' };
  }
  for (const sentence of limitProblems(config.limits)) {
    yield { at: ['limits'], value: checked.limits, what: sentence, fix: 'change one of them' };
  }
}

function isRedisUrl(url: URL): boolean {
  if (url.protocol === 'unix:') return url.pathname.length > 1 && /^(\?db=\d{1,5})?$/.test(url.search);
  return url.hostname !== '' && /^(\/\d{0,5})?$/.test(url.pathname) && url.search === '';
}

function* checkRedis(redis: ConfigChecked['redis']): Generator<Finding> {
  if (redis === 'embedded') return;
  if (redis.embedded !== undefined) {
    const at = ['redis'];
    if (redis.url !== undefined) {
      yield { at, value: redis, what: 'names two servers', fix: 'give either redis.url or redis.embedded' };
    }
    if (redis.password !== undefined || redis.username !== undefined || redis.tls !== undefined) {
      const fix = 'remove username, password and tls, or give redis.url';
      yield {
        at,
        value: redis,
        what: 'the embedded server listens on loopback and takes no credentials',
        fix,
      };
    }
    return;
  }
  const given = redis.url ?? redisUrlDefault;
  const url = URL.canParse(given) ? new URL(given) : undefined;
  if (url === undefined || !isRedisUrl(url)) {
    const fix = 'use redis://HOST:PORT, with /N for database N and rediss:// for TLS; or unix:///path?db=N';
    yield { at: ['redis', 'url'], value: given, what: 'not the URL of a Redis server', fix };
  } else if (redis.tls !== undefined && url.protocol !== 'rediss:') {
    const fix = 'write rediss:// in redis.url, or remove redis.tls';
    yield { at: ['redis', 'url'], value: given, what: 'has no TLS although redis.tls is given', fix };
  }
  if (redis.tls !== undefined && (redis.tls.cert === undefined) !== (redis.tls.key === undefined)) {
    const what = 'a client certificate needs both halves';
    yield { at: ['redis', 'tls'], value: redis.tls, what, fix: 'give cert and key, or neither' };
  }
}

function* checkStreams({ streams, limits }: Config): Generator<Finding> {
  const names = new Set<string>();
  for (const [i, stream] of streams.entries()) {
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
  for (const [i, stream] of streams.entries()) {
    for (const output of ['predictions', 'deadletters'] as const) {
      if (!names.has(stream[output])) continue;
      // The engine would read its own output as events, for ever.
      const fix = 'name a stream that no other key reads';
      yield { at: ['streams', i, output], value: stream[output], what: 'also a stream of events', fix };
    }
    if (stream.predictions === stream.deadletters) {
      const fix = 'name two different streams';
      yield {
        at: ['streams', i, 'deadletters'],
        value: stream.deadletters,
        what: 'also the predictions',
        fix,
      };
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
