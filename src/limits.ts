// Every limit of the engine, in one place. Units come last in the names. A deployment overrides them in
// the `limits` section of its configuration (payload_bytes_max: ...), which then checks their relations.

/** The defaults. Zero never means "without limit": there is no such value. */
export const limitsDefault = {
  // One event.
  /** `data` or `features` of one event. */
  payloadBytesMax: 65_536,
  keyBytesMax: 128,
  /** The producer's own id, `event`. */
  eventIdBytesMax: 64,
  /** A W3C traceparent is 55 characters. */
  traceBytesMax: 55,
  /** `name` or `name@version`. */
  modelNameBytesMax: 128,
  /** Largest stream entry the reader keeps whole; a larger one is dead-lettered without its payload. */
  entryBytesMax: 131_072,

  // Batches and slabs.
  /** Entries asked for in one XREADGROUP. */
  readCountMax: 512,
  /** Rows of one slab, the ceiling of every manifest's batch.max. */
  batchRowsMax: 1024,
  /** Raw bytes of the events of one slab. */
  slabArenaBytes: 262_144,

  // Time.
  /**
   * One batch in a worker; past it the worker is taken for hung, and replaced unless it is in native code.
   */
  inferMsMax: 5000,
  /** From loading a model to its last golden vector. */
  modelLoadMsMax: 60_000,
  /** Measuring what one model's batches take, when the engine starts. */
  profileMsMax: 40,
  /** The event's clock, where neither event, stream nor model says. */
  deadlineMsDefault: 1000,
  deadlineMsMax: 3_600_000,
  /** A graceful stop; then a hard one. */
  stopMsMax: 10_000,
  /** One command of the control connection. */
  redisCommandMsMax: 5000,
  /** How long one XREADGROUP waits; the reader's socket timeout is longer. */
  readBlockMs: 1000,

  // Recovery.
  /** What a consumer has held for this long without settling it, another engine takes over. */
  claimIdleMs: 15_000,
  /** An event that was given out so often and is not settled yet goes to the dead letters. */
  deliveriesMax: 5,

  // Streams.
  /** Entries kept in a predictions stream (MAXLEN ~), where the stream does not say. */
  predictionsMax: 1_000_000,

  // Gateway.
  /** One WebSocket message from a client. */
  messageBytesMax: 16_384,
  subscriptionsMax: 64,
  eventsPerSecondMax: 50,
  connectionsPerIpPerSecondMax: 20,
  connectionsMax: 10_000,
  /** Bytes waiting for one slow connection. */
  outboxBytesMax: 1_048_576,
  httpBodyBytesMax: 1_048_576,
  /** From the socket's opening to its hello. */
  helloMsMax: 10_000,
  pingMs: 25_000,
} as const;

export type Limits = { readonly [K in keyof typeof limitsDefault]: number };
export type LimitName = keyof Limits;

/** `left` must be at least (or more than) `right`, or the engine could not keep a promise: `why`. */
interface Relation {
  readonly left: LimitName;
  readonly atLeast: readonly LimitName[];
  readonly why: string;
}

const relations: readonly Relation[] = [
  {
    left: 'entryBytesMax',
    atLeast: ['payloadBytesMax', 'keyBytesMax', 'eventIdBytesMax', 'traceBytesMax', 'modelNameBytesMax'],
    why: 'the largest legal event must fit in an entry that the reader keeps',
  },
  { left: 'slabArenaBytes', atLeast: ['payloadBytesMax'], why: 'an empty slab must take any legal event' },
  { left: 'httpBodyBytesMax', atLeast: ['payloadBytesMax'], why: 'any legal event can be posted' },
  { left: 'outboxBytesMax', atLeast: ['messageBytesMax'], why: 'a connection can be sent one message' },
  { left: 'stopMsMax', atLeast: ['inferMsMax'], why: 'a graceful stop waits for the batches in hand' },
  {
    left: 'claimIdleMs',
    atLeast: ['inferMsMax', 'inferMsMax'],
    why: 'a batch that a worker died on runs a second time before others may take it over',
  },
  { left: 'deadlineMsMax', atLeast: ['deadlineMsDefault'], why: 'the default deadline must be allowed' },
  { left: 'pingMs', atLeast: ['helloMsMax'], why: 'a connection is pinged only once it has said hello' },
];

/** Limits that have an upper bound of their own. */
const bounds: readonly { readonly name: LimitName; readonly atMost: number; readonly why: string }[] = [
  // Lua puts no more than some 8,000 values on its stack (LUAI_MAXCSTACK).
  { name: 'batchRowsMax', atMost: 4096, why: 'Redis acknowledges a batch in one call of a script' },
];

/** payloadBytesMax -> payload_bytes_max, the name in the configuration. */
export function configName(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** Every broken rule as one sentence that names both values; empty when all hold. */
export function limitProblems(limits: Limits): string[] {
  const problems: string[] = [];
  for (const [name, value] of Object.entries(limits) as [LimitName, number][]) {
    if (!Number.isSafeInteger(value) || value < 1) {
      problems.push(`limits.${configName(name)} is ${value}: it must be a whole number of at least 1`);
    }
  }
  for (const { name, atMost, why } of bounds) {
    if (limits[name] <= atMost) continue;
    problems.push(`limits.${configName(name)} is ${limits[name]}: it must be at most ${atMost}, for ${why}`);
  }
  for (const { left, atLeast, why } of relations) {
    const sum = atLeast.reduce((total, name) => total + limits[name], 0);
    if (limits[left] >= sum) continue;
    const parts = atLeast.map((name) => `limits.${configName(name)} (${limits[name]})`).join(' + ');
    problems.push(`limits.${configName(left)} (${limits[left]}) must be at least ${parts}: ${why}`);
  }
  return problems;
}
