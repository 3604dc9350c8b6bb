// Every error that Subito reports has a code from this table. To add one, add a row here and a row to
// test/errors.test.ts; the tidy test fails until both are there.

/** What a code means to its reader: may the caller try again as it is, the CLI's exit code, what to do. */
export interface ErrorEntry {
  readonly retryable: boolean;
  /** Exit code of the CLI; 1 where it is left out. 2 is "you asked for something that cannot be". */
  readonly exitCode?: number;
  readonly fix: string;
}

export const errorTable = {
  USAGE: { retryable: false, exitCode: 2, fix: 'run it with --help to see commands and options' },
  CONFIG_INVALID: {
    retryable: false,
    exitCode: 2,
    fix: 'correct the keys named above; `subito config check` checks again',
  },
  CONFIG_NOT_FOUND: {
    retryable: false,
    exitCode: 2,
    fix: 'give the path of a YAML file, or leave --config out to use the defaults',
  },
  REDIS_MISSING: {
    retryable: false,
    fix: 'install it: `apt-get install redis-server` (Debian, Ubuntu), `brew install redis` (macOS)',
  },
  REDIS_PORT_BUSY: {
    retryable: false,
    fix: 'stop what listens there, choose another redis.embedded.port, or 0 for any free one',
  },
  REDIS_DIR_IN_USE: {
    retryable: false,
    fix: 'stop the other engine, or give this one another redis.embedded.dir',
  },
  REDIS_START_FAILED: { retryable: true, fix: 'read redis.log in the directory named above' },
  REDIS_UNREACHABLE: {
    retryable: true,
    fix: 'check redis.url (redis.cluster, redis.sentinels), that it runs, and its password and TLS settings',
  },
  REDIS_TOO_OLD: { retryable: false, fix: 'use Redis 7.0 or newer, or `redis: embedded`' },
  REDIS_MODE: {
    retryable: false,
    fix: 'name nodes of a cluster in redis.cluster, Sentinels in redis.sentinels, any other in redis.url',
  },
  APPEND_FAILED: {
    retryable: true,
    fix: 'send the event again with the same event id; it may or may not have been appended',
  },
  ENGINE_NO_MODEL: {
    retryable: false,
    fix: 'put a model at models.path as NAME/1/model.onnx; `subito models` says what was found and why not',
  },
  MODEL_INVALID: {
    retryable: false,
    exitCode: 2,
    fix: 'correct the file named above; `subito models` checks again',
  },
  NATIVE_UNAVAILABLE: {
    retryable: false,
    fix: 'run deploy/setup.sh where there is a C++ compiler, or set native to auto to run without the addon',
  },
  WORKERS_NOT_STARTED: {
    retryable: true,
    fix: 'look for a handler.ts that ends its process, or raise limits.model_load_ms_max for a large model',
  },
  WORKER_DIED: { retryable: true, fix: 'run the rows again; a worker that took its place is loading' },
  STREAM_UNUSABLE: {
    retryable: false,
    fix: 'rename streams[].name if the key holds something else, or give the user the rights that it lacks',
  },
  REDIS_REFUSED: {
    retryable: true,
    fix: 'mend Redis as the message says, then run it again: what was done is not done twice',
  },
  DEADLETTER_UNKNOWN: {
    retryable: false,
    fix: 'see `subito deadletters list` for the ids that are there; the message names the streams looked at',
  },
  DEADLETTER_REFUSED: {
    retryable: false,
    fix: 'look at them with `subito deadletters show`, send the events anew, and drop the letters',
  },
  LEDGER_BROKEN: {
    retryable: false,
    fix: 'look at the ids above with XRANGE and XPENDING; `subito audit --help` says what they are',
  },
  LEDGER_UNFINISHED: {
    retryable: true,
    fix: 'start an engine that reads the stream, look whether it is ready, or give --wait more seconds',
  },
  GATEWAY_PORT_BUSY: {
    retryable: false,
    fix: 'stop what listens there, set gateway.port to another one, or to 0 for any free one',
  },
  GATEWAY_UNREACHABLE: { retryable: true, fix: 'start the engine with `subito serve`, or correct --url' },
  STOP_TIMEOUT: {
    retryable: false,
    fix: 'another engine takes the events over at once, or the next start does; or raise limits.stop_ms_max',
  },
  INTERNAL: { retryable: false, fix: 'this is a bug in Subito: report it with the output of --verbose' },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof errorTable;

export interface SubitoErrorOptions {
  readonly cause?: unknown;
  /** Facts for a program, such as the list of invalid keys. Never a secret. */
  readonly detail?: unknown;
  /** A better fix than the table's, where this place knows one. */
  readonly fix?: string;
}

/** An operation failed for a reason that its caller can act on. Bugs are asserted, not thrown as this. */
export class SubitoError extends Error {
  override readonly name = 'SubitoError';
  readonly code: ErrorCode;
  readonly retryable: boolean;
  readonly exitCode: number;
  readonly fix: string;
  readonly detail: unknown;

  constructor(code: ErrorCode, message: string, options: SubitoErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    const entry: ErrorEntry = errorTable[code];
    this.code = code;
    this.retryable = entry.retryable;
    this.exitCode = entry.exitCode ?? 1;
    this.fix = options.fix ?? entry.fix;
    this.detail = options.detail;
  }

  /** One line for people: `CODE: message (fix)`. */
  describe(): string {
    return `${this.code}: ${this.message} (${this.fix})`;
  }

  toJSON(): Record<string, unknown> {
    return {
      code: this.code,
      message: this.message,
      retryable: this.retryable,
      fix: this.fix,
      ...(this.detail === undefined ? {} : { detail: this.detail }),
    };
  }
}

/** Gives any thrown value a code: a SubitoError stays what it is, all else is INTERNAL. */
export function toSubitoError(thrown: unknown): SubitoError {
  if (thrown instanceof SubitoError) return thrown;
  return new SubitoError('INTERNAL', messageOf(thrown), { cause: thrown });
}

/** What any thrown value says. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
