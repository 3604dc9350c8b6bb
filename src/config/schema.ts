// The configuration as people write it: snake_case keys, units last. From this schema come the checks, the
// JSON Schema for editors (deploy/subito.schema.json), the names of the environment overrides, and the
// "expected ..." of every error, so a key is described once, here.
import { z } from 'zod';
import { PROVIDERS } from '../infer/providers.ts';
import { configName, type LimitName, limitsDefault } from '../limits.ts';
import { providerList } from './providers.ts';

export const redisUrlDefault = 'redis://127.0.0.1:6379';
/** Each key of `redis` that says where Redis is, with the keys that mean nothing without it. */
export const redisWays = {
  url: ['url'],
  embedded: ['embedded'],
  cluster: ['cluster'],
  sentinels: ['sentinels', 'master', 'sentinel_username', 'sentinel_password'],
} as const;

const port = z.int().min(0).max(65_535);
const text = z.string().min(1).max(4096);
/** Braces are left to the partition suffix `:{i}`, which Redis Cluster reads as a hash tag. */
const streamName = z
  .string()
  .regex(/^[^\s{}]{1,256}$/)
  .meta({ expected: 'a name of 1 to 256 characters without spaces and braces' });
const modelReference = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[1-9][0-9]{0,8})?$/)
  .meta({ expected: 'a model `name` or `name@version`' });
const httpUrl = z
  .string()
  .regex(/^https?:\/\/\S+$/)
  .meta({ expected: 'a URL such as https://id.example.org/jwks.json' });

const tls = z.strictObject({
  ca: text.optional().meta({ description: "PEM file of the authority that signed the server's certificate" }),
  cert: text.optional().meta({ description: 'PEM file of the client certificate' }),
  key: text.optional().meta({ description: 'PEM file of the client key' }),
  servername: text
    .optional()
    .meta({ description: "name in the server's certificate, if not the URL's host" }),
});

const nodeUrl = z
  .string()
  .regex(/^rediss?:\/\/\S+$/)
  .meta({ expected: 'a URL such as redis://10.0.0.1:6379' });

const redis = z
  .union([
    z.literal('embedded'),
    z.strictObject({
      url: z
        .string()
        .regex(/^(rediss?|unix):\/\/\S+$/)
        .optional()
        .meta({
          description: `rediss:// for TLS, unix:///path for a socket; default ${redisUrlDefault}`,
          expected: 'a URL such as redis://127.0.0.1:6379 or rediss://redis.example.org:6380',
        }),
      cluster: z.array(nodeUrl).min(1).max(100).optional().meta({
        description: 'some nodes of a Redis Cluster; the others are found through them',
      }),
      sentinels: z.array(nodeUrl).min(1).max(100).optional().meta({
        description: 'Sentinels that know the master; port 26379 unless given, /N for its database N',
      }),
      master: text.optional().meta({ description: 'name by which the sentinels know the master' }),
      sentinel_username: text.optional().meta({ description: 'ACL user of the sentinels themselves' }),
      sentinel_password: text.optional().meta({
        description: 'password of the sentinels themselves',
        writeOnly: true,
      }),
      username: text.optional().meta({ description: 'ACL user; may also stand in the URL' }),
      password: text.optional().meta({
        description: 'better given as SUBITO_REDIS_PASSWORD than written in a file',
        writeOnly: true,
      }),
      tls: tls.optional().meta({ description: 'files for rediss://' }),
      embedded: z
        .strictObject({
          port: port.default(0).meta({ description: 'port on 127.0.0.1; 0 picks a free one' }),
          dir: text.default('./data/redis').meta({ description: 'where its data is kept' }),
        })
        .optional()
        .meta({ description: 'a private redis-server started beside the engine' }),
    }),
  ])
  .default({ url: redisUrlDefault })
  .meta({
    description:
      'one of {url: ...}, {cluster: [...]}, {sentinels: [...], master: ...}, ' +
      'or `embedded` for a private redis-server beside the engine',
  });

const stream = z.strictObject({
  name: streamName.meta({ description: 'stream of events to read' }),
  partitions: z.int().min(1).max(1024).default(1).meta({
    description: '1 uses the names as they stand; more appends :{0}, :{1}, ... to each',
  }),
  group: streamName.default('subito').meta({ description: 'consumer group that all replicas share' }),
  predictions: streamName
    .default('predictions')
    .meta({ description: 'stream that predictions are added to' }),
  deadletters: streamName
    .default('deadletters')
    .meta({ description: 'stream for events that cannot be used' }),
  model: modelReference.optional().meta({ description: 'model for events that name none' }),
  deadline_ms: z
    .int()
    .min(1)
    .optional()
    .meta({ description: 'deadline of events that name none, from their entry id' }),
  encoding: z
    .enum(['msgpack', 'json'])
    .default('msgpack')
    .meta({ description: 'encoding of the predictions’ `outputs`' }),
  predictions_max: z.int().min(1).optional().meta({
    description: 'entries kept in the predictions stream (MAXLEN ~); default limits.predictions_max',
  }),
  predictions_keep_ms: z.int().min(1).optional().meta({
    description: 'predictions older than this are removed, about; default: they go by their number alone',
  }),
  events_keep_ms: z.int().min(0).default(10_000).meta({
    description: 'how long events are kept that every consumer group has settled, about',
  }),
});

const jwt = z.strictObject({
  jwks_url: httpUrl.optional().meta({ description: 'where the public keys are; this or `secret`' }),
  secret: z.string().min(32).max(4096).optional().meta({
    description: 'shared secret (HS256), at least 32 characters; better given in the environment',
    writeOnly: true,
  }),
  issuer: text.meta({ description: 'the tokens’ `iss`' }),
  audience: text.meta({ description: 'the tokens’ `aud`' }),
});

const gateway = z.strictObject({
  host: text.default('127.0.0.1').meta({ description: 'address to listen on' }),
  port: port.default(8080).meta({ description: 'port to listen on; 0 picks a free one' }),
  auth: z
    .union([z.literal('off'), z.strictObject({ jwt: jwt })])
    .default('off')
    .meta({ description: 'off; {jwt: {...}} is refused until tokens are verified' }),
  insecure: z.boolean().default(false).meta({
    description:
      'listen on an address that others can reach although auth is off (TLS and auth in front of it)',
  }),
  origins: z
    .array(text)
    .max(100)
    .default([])
    .meta({ description: 'other web origins whose pages may connect, such as https://player.example.org' }),
});

const autoscale = z.strictObject({
  replicas_min: z.int().min(0).max(10_000).default(1).meta({
    description: 'engines that there are at least; 0 needs a trigger that looks at Redis itself',
  }),
  replicas_max: z.int().min(1).max(10_000).default(20).meta({ description: 'engines that there may be' }),
  utilisation: z.number().min(0.05).max(1).default(0.9).meta({
    description: 'share of its time that an engine is meant to be busy; less: shorter waits, more engines',
  }),
  drain_ms: z.int().min(1000).max(3_600_000).default(30_000).meta({
    description: 'a backlog is to be gone after so long',
  }),
  window_ms: z.int().min(2000).max(600_000).default(15_000).meta({
    description: 'rates are taken over so long',
  }),
  stabilisation_ms: z.int().min(1000).max(86_400_000).default(300_000).meta({
    description: 'fewer engines only when fewer were needed for so long',
  }),
  comeback: z.number().min(0).max(10).default(1.5).meta({
    description: 'after a sudden silence so many times the usual may come; 0: a silence is believed',
  }),
  usl: z
    .strictObject({
      sigma: z.number().min(0).max(1).meta({ description: 'contention' }),
      kappa: z.number().min(0).max(1).meta({ description: 'coherency' }),
    })
    .optional()
    .meta({
      description: 'Universal Scalability Law, fitted to your measurements: no more engines than help',
    }),
});

const limitShape: Record<string, z.ZodOptional<z.ZodInt>> = {};
for (const name of Object.keys(limitsDefault) as LimitName[]) {
  limitShape[configName(name)] = z
    .int()
    .min(1)
    .optional()
    .meta({ description: `default ${limitsDefault[name]}` });
}

export const configSchema = z.strictObject({
  redis,
  streams: z
    .array(stream)
    .min(1)
    .max(64)
    .prefault([{ name: 'events' }])
    .meta({ description: 'the streams of events, each with where its results go' }),
  models: z
    .strictObject({
      path: text.default('./models').meta({ description: 'directory of models' }),
      watch: z
        .boolean()
        .default(false)
        .meta({ description: 'load versions that appear while running; true is refused until that is done' }),
    })
    .prefault({}),
  workers: z
    .strictObject({
      min: z.int().min(1).max(256).default(1).meta({
        description: 'worker threads at least; how many from there to `max` follows from models and load',
      }),
      max: z
        .int()
        .min(1)
        .max(256)
        .optional()
        .meta({ description: 'worker threads at most; default: processor cores - 1, at least `min`' }),
      providers: providerList.default(['cpu']).meta({
        description: 'ONNX Runtime execution providers, best first; a model may name its own',
        expected: `a list of ${PROVIDERS.join(', ')}, or of maps such as {name: cuda, device_id: 0}`,
      }),
    })
    .prefault({}),
  gateway: gateway.prefault({}),
  latency: z
    .strictObject({
      target_ms: z
        .number()
        .min(0.1)
        .max(60_000)
        .default(10)
        .meta({
          description:
            'event in to prediction committed, the 99th percentile to aim at: ' +
            'drawn by the console, and with infer_share it limits batches',
        }),
      infer_share: z.number().min(0.01).max(1).default(0.35).meta({
        description:
          'share of target_ms that one batch may take in a worker; more rows than that never run at once',
      }),
    })
    .prefault({}),
  autoscale: autoscale.prefault({}),
  native: z.enum(['auto', 'off', 'on']).default('auto').meta({
    description:
      'the addon in C++: auto, where it has been built; off, the same in TypeScript; on, no start without it',
  }),
  log: z
    .strictObject({
      level: z.enum(['debug', 'info', 'warn', 'error']).default('info').meta({ description: 'least to log' }),
      format: z
        .enum(['text', 'json'])
        .default('text')
        .meta({ description: 'text for people, json for machines' }),
    })
    .prefault({}),
  limits: z
    .strictObject(limitShape)
    .prefault({})
    .meta({ description: 'overrides of the limits in src/limits.ts' }),
});

/** What a file, the environment and command-line options may say. */
export type ConfigInput = z.input<typeof configSchema>;
/** The same with defaults filled in, still in snake_case. */
export type ConfigChecked = z.output<typeof configSchema>;

/** The part of JSON Schema that configSchema yields. */
export interface SchemaNode {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly items?: SchemaNode;
  readonly anyOf?: readonly SchemaNode[];
  readonly enum?: readonly string[];
  readonly const?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly description?: string;
  readonly expected?: string;
  readonly writeOnly?: boolean;
}

let schemaMade: SchemaNode | undefined;

/** JSON Schema (draft 2020-12) of the configuration file. */
export function configJsonSchema(): SchemaNode {
  schemaMade ??= {
    title: 'Subito configuration',
    ...z.toJSONSchema(configSchema, { io: 'input' }),
  } as SchemaNode;
  return schemaMade;
}
