/**
 * Figures that are states, not events: whoever owns one passes a way to ask for it. Asked each second and
 * scrape.
 */

export interface StreamBacklog {
  readonly stream: string;
  /** Entries nobody has read; null while it is not known (it must never read as "none"). */
  readonly unread: number | null;
  /** Entries read and not yet settled, over all consumers of the group; null while not known. */
  readonly pending: number | null;
  /** Unix milliseconds of the oldest of each; null where there is none, or it is not known. */
  readonly oldestUnreadMs: number | null;
  readonly oldestPendingMs: number | null;
}

export interface ServedModel {
  readonly name: string;
  readonly version: number;
  readonly description: string;
  /** What most workers run it on. */
  readonly provider: string;
  /** Rows that the manifest allows in a batch, and those that a batch has at most. */
  readonly rowsMax: number;
  readonly batchRows: number;
  /** Milliseconds that a batch may take in a worker. */
  readonly runMsMax: number;
  /** What batches took when they were measured, by rows; empty when they were not. */
  readonly profile: readonly BucketFigures[];
  /** The provider that they were measured on: the slowest of those that workers run it on. */
  readonly profileProvider: string;
}

export interface BucketFigures {
  readonly rows: number;
  /** Runs behind the percentiles. */
  readonly runs: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface ModelProviderCount {
  readonly model: string;
  readonly provider: string;
  readonly count: number;
}

export interface BreakerFigure {
  /** `name@version`. */
  readonly model: string;
  readonly provider: string;
  readonly state: 'closed' | 'open' | 'half_open';
}

/** What the engine was told to keep to. */
export interface Targets {
  /** What the 99th percentile of an event's latency should stay below. */
  readonly latencyMs: number;
  /** Of events that name none, by stream. */
  readonly deadlines: readonly { readonly stream: string; readonly deadlineMs: number }[];
}

export type EngineState = 'starting' | 'running' | 'reconnecting' | 'draining' | 'stopped';

export interface Sources {
  state(): { readonly state: EngineState; readonly reasons: readonly string[] };
  backlog(): readonly StreamBacklog[];
  /** Rows in slabs: read or received, not yet settled. */
  inflightRows(): number;
  /** Open WebSocket connections. */
  connections(): number;
  /** Worker threads that are warm. */
  workers(): number;
  models(): readonly ServedModel[];
  /** Workers' sessions by model and provider. */
  sessions(): readonly ModelProviderCount[];
  /** How many replicas there should be; absent where nobody works it out. */
  desiredReplicas?(): number;
  /** How often a worker had to leave a provider, since the start. */
  fallbacks(): readonly ModelProviderCount[];
  /** Circuit breakers of the models and providers that have been asked so far. */
  breakers?: () => readonly BreakerFigure[];
  /** Rows that a model may have in flight now; absent: nothing limits them but the slabs. */
  limits?: () => readonly { readonly model: string; readonly rows: number }[];
  targets?: () => Targets;
}
