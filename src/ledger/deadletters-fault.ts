/** Errors of Redis, with a code and what to do. */
import { messageOf, SubitoError } from '../errors.ts';
import { type FaultAction, faultOf } from '../redis/faults.ts';

const codes = {
  operator: 'STREAM_UNUSABLE',
  reconnect: 'REDIS_UNREACHABLE',
  wait: 'REDIS_REFUSED',
  reload: 'REDIS_REFUSED',
  regroup: 'REDIS_REFUSED',
} as const satisfies Record<FaultAction, string>;

/** What Redis said about `key`, as an error for people. */
export function refusedBy(key: string, thrown: unknown): SubitoError {
  if (thrown instanceof SubitoError) return thrown;
  const text = messageOf(thrown);
  const { action, why } = faultOf(text);
  // "script: SHA, on @user_script:46." says nothing to an operator.
  const said = text.replace(/ script: [0-9a-f]{40}, on @user_script:\d+\.?/, '');
  return new SubitoError(codes[action], `${key}: ${said}: ${why}`, { cause: thrown });
}

/** Waits for an answer of Redis; rejects with a SubitoError that names the key. */
export async function asked<T>(key: string, answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    throw refusedBy(key, error);
  }
}
