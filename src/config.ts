// Reads the configuration: defaults, then a YAML file, then the environment, then command-line options. This
// is the only file that reads the environment; everything else receives the resolved Config.
//
// Environment. A key's variable is SUBITO_, its path joined by underscores, in capitals: gateway.port is
// SUBITO_GATEWAY_PORT, latency.target_ms is SUBITO_LATENCY_TARGET_MS. Underscores inside a key stay as they
// are: names are looked up in the schema, never taken apart. A key whose value is text takes the variable as
// it stands; any other takes YAML (which JSON is a part of): SUBITO_WORKERS_PROVIDERS='[cuda, cpu]',
// SUBITO_STREAMS='[{name: events}]'. SUBITO_CONFIG is the file. SUBITO_TEST_* and SUBITO_BENCH_* belong to
// tests and benchmarks.
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { parse as parseYaml } from 'yaml';
import type { AutoscaleConfig } from './autoscale/advisor.ts';
import { crossCheck } from './config/check.ts';
import { applyEnvironment, type Environment } from './config/environment.ts';
import { resolveProviders } from './config/providers.ts';
import { type ConfigProblem, explainIssues, keyText, type Path, problem } from './config/report.ts';
import {
  type ConfigChecked,
  type ConfigInput,
  configSchema,
  redisUrlDefault,
  redisWays,
} from './config/schema.ts';
import { SubitoError } from './errors.ts';
import type { ProviderEntry } from './infer/protocol.ts';
import { configName, type LimitName, type Limits, limitsDefault } from './limits.ts';
import type { NativeMode } from './native.ts';

export { redact } from './config/report.ts';
export { configJsonSchema } from './config/schema.ts';

export interface RedisTls {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly servername?: string;
}

/** What all nodes of a cluster, or the servers behind sentinels, have in common. */
interface RedisNodes {
  /** Without credentials, so they can be logged. */
  readonly urls: readonly string[];
  readonly username?: string;
  readonly password?: string;
  /** Present for rediss://. */
  readonly tls?: RedisTls;
}

export type RedisConfig =
  | {
      readonly kind: 'url';
      /** With the user but without the password, so it can be logged. */
      readonly url: string;
      readonly password?: string;
      /** Present for rediss://: paths of PEM files. */
      readonly tls?: RedisTls;
    }
  | ({ readonly kind: 'cluster' } & RedisNodes)
  | ({
      readonly kind: 'sentinel';
      readonly master: string;
      readonly sentinelUsername?: string;
      readonly sentinelPassword?: string;
    } & RedisNodes)
  | { readonly kind: 'embedded'; readonly port: number; readonly dir: string };

export interface StreamConfig {
  readonly name: string;
  readonly partitions: number;
  readonly group: string;
  readonly predictions: string;
  readonly deadletters: string;
  /** `name` or `name@version`; absent: each event must name its model. */
  readonly model?: string;
  /** Absent: the model's, else limits.deadlineMsDefault. */
  readonly deadlineMs?: number;
  readonly encoding: 'msgpack' | 'json';
  readonly predictionsMax: number;
  /** Absent: predictions are not removed for their age. */
  readonly predictionsKeepMs?: number;
  /** Events that every consumer group has settled are kept for so long. */
  readonly eventsKeepMs: number;
}

export interface JwtConfig {
  readonly jwksUrl?: string;
  readonly secret?: string;
  readonly issuer: string;
  readonly audience: string;
}

export interface Config {
  readonly redis: RedisConfig;
  readonly streams: readonly StreamConfig[];
  readonly models: { readonly path: string; readonly watch: boolean };
  readonly workers: {
    readonly min: number;
    readonly max: number;
    readonly providers: readonly ProviderEntry[];
  };
  readonly gateway: {
    readonly host: string;
    /** 0: any free port. */
    readonly port: number;
    readonly auth: 'off' | { readonly jwt: JwtConfig };
    readonly insecure: boolean;
    readonly origins: readonly string[];
  };
  /** Of the target, one batch in a worker may take the share. */
  readonly latency: { readonly targetMs: number; readonly inferShare: number };
  readonly autoscale: AutoscaleConfig;
  readonly native: NativeMode;
  readonly log: { readonly level: 'debug' | 'info' | 'warn' | 'error'; readonly format: 'text' | 'json' };
  readonly limits: Limits;
}

export interface LoadConfigOptions {
  /** YAML file; absent: SUBITO_CONFIG, else defaults. */
  readonly file?: string | undefined;
  /** Absent: the process's own. */
  readonly env?: Environment | undefined;
  /** Command-line options, in the file's form. They win. */
  readonly overrides?: ConfigInput | undefined;
}

type Tree = Record<string, unknown>;

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function readFile(file: string): Tree {
  let source: string;
  try {
    source = readFileSync(file, 'utf8');
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? 'unreadable';
    throw new SubitoError('CONFIG_NOT_FOUND', `cannot read the configuration ${file} (${reason})`, { cause });
  }
  let parsed: unknown;
  try {
    parsed = parseYaml(source, { prettyErrors: true });
  } catch (cause) {
    // Only the first line: the ones after it quote the file, which may hold a secret.
    const [reason] = (cause as Error).message.split('\n');
    throw new SubitoError('CONFIG_INVALID', `${file} is not YAML: ${reason}`, {
      fix: 'correct the syntax at that line',
    });
  }
  if (parsed === null || parsed === undefined) return {};
  if (isTree(parsed)) return parsed;
  throw new SubitoError('CONFIG_INVALID', `${file} holds no sections but ${typeof parsed}`, {
    fix: 'start from deploy/subito.yaml',
  });
}

/** Lays `over` on `base`; lists and plain values replace. */
function merge(base: Tree, over: Tree): Tree {
  const merged: Tree = { ...base };
  for (const [key, value] of Object.entries(over)) {
    if (value === undefined) continue;
    const below = merged[key];
    merged[key] = isTree(below) && isTree(value) ? merge(below, value) : value;
  }
  const [named, redis] = [over['redis'], merged['redis']];
  if (isTree(named) && isTree(redis)) putAside(named, redis);
  return merged;
}

/** Redis is reached in one way: naming one puts aside the one that was named before. */
function putAside(named: Tree, redis: Tree): void {
  const [way, another] = Object.keys(redisWays).filter((key) => named[key] !== undefined);
  if (way === undefined || another !== undefined) return;
  for (const [other, keys] of Object.entries(redisWays)) {
    if (other === way) continue;
    for (const key of keys) if (named[key] === undefined) redis[key] = undefined;
  }
}

/** What is left when the keys that are wrong are taken out, to find in the same run what else is wrong. */
function without(input: Tree, paths: readonly Path[]): Tree {
  const rest = structuredClone(input);
  for (const path of paths) {
    const list = path.findIndex((part) => typeof part === 'number');
    const reach = list === -1 ? path : path.slice(0, list);
    let parent: unknown = rest;
    for (const part of reach.slice(0, -1)) parent = isTree(parent) ? parent[part] : undefined;
    if (isTree(parent)) delete parent[reach.at(-1) as string];
  }
  return rest;
}

/**
 * The resolved configuration. Throws CONFIG_INVALID with every problem (its `detail` is a list of
 * {key, value, fix, message}), or CONFIG_NOT_FOUND.
 */
export function loadConfig({ file, env = process.env, overrides = {} }: LoadConfigOptions = {}): Config {
  const path = file ?? (env['SUBITO_CONFIG'] || undefined);
  const environment = applyEnvironment(path === undefined ? {} : readFile(path), env, merge);
  const input = merge(environment.input, overrides as Tree);
  const originOf = (at: Path): string => {
    // The variable may have given the key itself or a section or list around it.
    for (let length = at.length; length > 0; length--) {
      const variable = environment.variables.get(keyText(at.slice(0, length)));
      if (variable !== undefined) return ` (${variable})`;
    }
    return path === undefined ? '' : ` (${path})`;
  };

  const problems: ConfigProblem[] = [...environment.problems];
  const wrong: Path[] = [];
  let result = configSchema.safeParse(input);
  if (!result.success) {
    for (const found of explainIssues(result.error.issues, input, originOf)) {
      problems.push(found.problem);
      wrong.push(found.at);
    }
    result = configSchema.safeParse(without(input, wrong));
  }
  let config: Config | undefined;
  if (result.success) {
    const checked = result.data;
    config = resolve(checked);
    for (const { at, value, what, fix } of crossCheck(checked, config)) {
      // A key that was taken out for being wrong is no second mistake of the section around it.
      const isConsequence = wrong.some((path) => at.every((part, i) => part === path[i]));
      if (!isConsequence) problems.push(problem(at, value, what, fix, originOf(at)));
    }
  }
  if (problems.length > 0) {
    const messages = problems.map((each) => each.message);
    throw new SubitoError('CONFIG_INVALID', messages.join('\n'), { detail: problems });
  }
  // No problem means that the parse succeeded.
  return config as Config;
}

function resolve(checked: ConfigChecked): Config {
  const limits = resolveLimits(checked.limits);
  const { min } = checked.workers;
  const { auth } = checked.gateway;
  return {
    redis: resolveRedis(checked.redis),
    streams: checked.streams.map((stream) => resolveStream(stream, limits)),
    models: checked.models,
    workers: {
      min,
      max: checked.workers.max ?? Math.max(min, availableParallelism() - 1),
      providers: resolveProviders(checked.workers.providers),
    },
    gateway: { ...checked.gateway, auth: auth === 'off' ? auth : { jwt: resolveJwt(auth.jwt) } },
    latency: { targetMs: checked.latency.target_ms, inferShare: checked.latency.infer_share },
    autoscale: resolveAutoscale(checked.autoscale),
    native: checked.native,
    log: checked.log,
    limits,
  };
}

function resolveAutoscale(checked: ConfigChecked['autoscale']): AutoscaleConfig {
  return {
    replicasMin: checked.replicas_min,
    replicasMax: checked.replicas_max,
    utilisation: checked.utilisation,
    drainMs: checked.drain_ms,
    windowMs: checked.window_ms,
    stabilisationMs: checked.stabilisation_ms,
    comeback: checked.comeback,
    ...(checked.usl === undefined ? {} : { usl: checked.usl }),
  };
}

function resolveLimits(overrides: ConfigChecked['limits']): Limits {
  const limits: Record<LimitName, number> = { ...limitsDefault };
  for (const name of Object.keys(limits) as LimitName[])
    limits[name] = overrides[configName(name)] ?? limits[name];
  return limits;
}

type JwtChecked = Extract<ConfigChecked['gateway']['auth'], object>['jwt'];

function resolveJwt({ jwks_url, secret, issuer, audience }: JwtChecked): JwtConfig {
  return {
    ...(jwks_url === undefined ? {} : { jwksUrl: jwks_url }),
    ...(secret === undefined ? {} : { secret }),
    issuer,
    audience,
  };
}

function resolveStream(checked: ConfigChecked['streams'][number], limits: Limits): StreamConfig {
  const { deadline_ms, predictions_max, predictions_keep_ms, events_keep_ms, model, ...stream } = checked;
  return {
    ...stream,
    ...(model === undefined ? {} : { model }),
    ...(deadline_ms === undefined ? {} : { deadlineMs: deadline_ms }),
    predictionsMax: predictions_max ?? limits.predictionsMax,
    ...(predictions_keep_ms === undefined ? {} : { predictionsKeepMs: predictions_keep_ms }),
    eventsKeepMs: events_keep_ms,
  };
}

type RedisTlsChecked = Exclude<Exclude<ConfigChecked['redis'], string>['tls'], undefined>;

function resolveRedis(redis: ConfigChecked['redis']): RedisConfig {
  if (redis === 'embedded') return { kind: 'embedded', port: 0, dir: './data/redis' };
  if (redis.embedded !== undefined) return { kind: 'embedded', ...redis.embedded };
  const { username, sentinel_username, sentinel_password } = redis;
  if (redis.cluster !== undefined || redis.sentinels !== undefined) {
    const urls = redis.cluster ?? redis.sentinels ?? [];
    const nodes: RedisNodes = {
      urls,
      ...(username === undefined ? {} : { username }),
      ...(redis.password === undefined ? {} : { password: redis.password }),
      ...(urls.some(isTlsUrl) ? { tls: resolveTls(redis.tls) } : {}),
    };
    if (redis.cluster !== undefined) return { kind: 'cluster', ...nodes };
    return {
      kind: 'sentinel',
      ...nodes,
      // The cross-check asks for it.
      master: redis.master ?? '',
      ...(sentinel_username === undefined ? {} : { sentinelUsername: sentinel_username }),
      ...(sentinel_password === undefined ? {} : { sentinelPassword: sentinel_password }),
    };
  }
  const given = redis.url ?? redisUrlDefault;
  // The cross-check refuses it.
  if (!URL.canParse(given)) return { kind: 'url', url: given };
  const url = new URL(given);
  const password = redis.password ?? (url.password === '' ? undefined : decodeURIComponent(url.password));
  url.password = '';
  if (username !== undefined) url.username = username;
  return {
    kind: 'url',
    url: url.href,
    ...(password === undefined ? {} : { password }),
    ...(url.protocol === 'rediss:' ? { tls: resolveTls(redis.tls) } : {}),
  };
}

function isTlsUrl(url: string): boolean {
  return url.startsWith('rediss:');
}

function resolveTls({ ca, cert, key, servername }: RedisTlsChecked = {}): RedisTls {
  return {
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    ...(servername === undefined ? {} : { servername }),
  };
}
