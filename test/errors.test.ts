import { expect, test } from 'vitest';
import { type ErrorCode, errorTable, SubitoError, toSubitoError } from '../src/errors.ts';

// What callers and scripts rely on: whether a code may be retried, and the exit code it ends the CLI with.
const promised: Record<ErrorCode, [retryable: boolean, exitCode: number]> = {
  USAGE: [false, 2],
  CONFIG_INVALID: [false, 2],
  CONFIG_NOT_FOUND: [false, 2],
  REDIS_MISSING: [false, 1],
  REDIS_PORT_BUSY: [false, 1],
  REDIS_DIR_IN_USE: [false, 1],
  REDIS_START_FAILED: [true, 1],
  REDIS_UNREACHABLE: [true, 1],
  REDIS_TOO_OLD: [false, 1],
  REDIS_MODE: [false, 1],
  APPEND_FAILED: [true, 1],
  ENGINE_NO_MODEL: [false, 1],
  MODEL_INVALID: [false, 2],
  NATIVE_UNAVAILABLE: [false, 1],
  WORKERS_NOT_STARTED: [true, 1],
  WORKER_DIED: [true, 1],
  STREAM_UNUSABLE: [false, 1],
  REDIS_REFUSED: [true, 1],
  DEADLETTER_UNKNOWN: [false, 1],
  DEADLETTER_REFUSED: [false, 1],
  LEDGER_BROKEN: [false, 1],
  LEDGER_UNFINISHED: [true, 1],
  GATEWAY_PORT_BUSY: [false, 1],
  GATEWAY_UNREACHABLE: [true, 1],
  STOP_TIMEOUT: [false, 1],
  INTERNAL: [false, 1],
};

test.each(Object.entries(promised))('%s keeps its promise', (code, [retryable, exitCode]) => {
  const error = new SubitoError(code as ErrorCode, 'what happened');
  expect([error.retryable, error.exitCode]).toEqual([retryable, exitCode]);
  // A fix says what to do: a sentence, not a repetition of the code, without a full stop of its own.
  expect(error.fix).toMatch(/^[a-z].{15,}[^.]$/);
  expect(error.describe()).toBe(`${code}: what happened (${error.fix})`);
});

test('the table holds no code without a promise', () => {
  expect(Object.keys(errorTable).sort()).toEqual(Object.keys(promised).sort());
});

test('an unexpected error becomes INTERNAL and keeps its cause', () => {
  const cause = new TypeError('x is not a function');
  const error = toSubitoError(cause);
  expect(error).toMatchObject({ code: 'INTERNAL', message: 'x is not a function', cause });
  expect(toSubitoError(error)).toBe(error);
});
