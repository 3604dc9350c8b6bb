// What every answer of Redis means to the one that asked. test/faults-table.test.ts drives them on real
// servers.
import { expect, test } from 'vitest';
import { type FaultAction, faultOf, faults } from '../src/redis/faults.ts';

/** Real texts of Redis 7.0.15, Node 22 and ioredis, each with the row that it must find. */
const texts: readonly (readonly [text: string, prefix: string, action: FaultAction])[] = [
  ['LOADING Redis is loading the dataset in memory', 'LOADING', 'wait'],
  ['BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.', 'BUSY', 'wait'],
  ["OOM command not allowed when used memory > 'maxmemory'.", 'OOM', 'wait'],
  ["OOM command not allowed when used memory > 'maxmemory'. script: a5a4, on @user_script:1.", 'OOM', 'wait'],
  ['MISCONF Redis is configured to save RDB snapshots, but it is currently unable', 'MISCONF', 'wait'],
  ['MISCONF Errors writing to the AOF file: No space left on device', 'MISCONF', 'wait'],
  ['NOREPLICAS Not enough good replicas to write.', 'NOREPLICAS', 'wait'],
  ['ASK 13907 127.0.0.1:17704', 'ASK', 'wait'],
  ['TRYAGAIN Multiple keys request during rehashing of slot', 'TRYAGAIN', 'wait'],
  ['UNBLOCKED client unblocked via CLIENT UNBLOCK', 'UNBLOCKED', 'wait'],
  ['UNBLOCKED the stream key no longer exists', 'UNBLOCKED', 'wait'],
  [
    'UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)',
    'UNBLOCKED force unblock',
    'reconnect',
  ],
  ["READONLY You can't write against a read only replica.", 'READONLY', 'reconnect'],
  ["READONLY You can't write against a read only replica. script: a5a4, on @x:1.", 'READONLY', 'reconnect'],
  [
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    'MASTERDOWN',
    'reconnect',
  ],
  ['MOVED 13907 127.0.0.1:17704', 'MOVED', 'reconnect'],
  ['CLUSTERDOWN Hash slot not served', 'CLUSTERDOWN', 'reconnect'],
  ['CLUSTERDOWN The cluster is down', 'CLUSTERDOWN', 'reconnect'],
  [
    'ERR Script attempted to access a non local key in a cluster node script: a5a4, on @user_script:3.',
    'ERR Script attempted to access a non local key',
    'reconnect',
  ],
  ['NOAUTH Authentication required.', 'NOAUTH', 'reconnect'],
  ['ERR max number of clients reached', 'ERR max number of clients reached', 'reconnect'],
  ['connection closed', 'connection closed', 'reconnect'],
  ['connecting took too long', 'connecting took too long', 'reconnect'],
  ['no answer', 'no answer', 'reconnect'],
  ['connect ECONNREFUSED 127.0.0.1:6379', 'connect', 'reconnect'],
  ['getaddrinfo ENOTFOUND redis.example.org', 'getaddrinfo', 'reconnect'],
  ['read ECONNRESET', 'read', 'reconnect'],
  ['write EPIPE', 'write', 'reconnect'],
  ['Connection is closed.', 'Connection is closed', 'reconnect'],
  ['Command timed out', 'Command timed out', 'reconnect'],
  [
    'Reached the max retries per request limit (which is 0). Refer to ...',
    'Reached the max retries per request limit',
    'reconnect',
  ],
  ['NOSCRIPT No matching script. Please use EVAL.', 'NOSCRIPT', 'reload'],
  [
    "NOGROUP No such key 'events' or consumer group 'g' in XREADGROUP with GROUP option",
    'NOGROUP',
    'regroup',
  ],
  ['NOGROUP the consumer group this client was blocked on no longer exists', 'NOGROUP', 'regroup'],
  ['WRONGTYPE Operation against a key holding the wrong kind of value', 'WRONGTYPE', 'operator'],
  [
    'WRONGTYPE Operation against a key holding the wrong kind of value script: a5a4, on @user_script:46.',
    'WRONGTYPE',
    'operator',
  ],
  ['WRONGTYPE predictions key holds a string', 'WRONGTYPE', 'operator'],
  ["NOPERM this user has no permissions to run the 'evalsha' command", 'NOPERM', 'operator'],
  ['NOPERM this user has no permissions to access one of the keys used as arguments', 'NOPERM', 'operator'],
  [
    "ERR The user executing the script can't run this command or subcommand script: a5a4, on @x:46.",
    "ERR The user executing the script can't",
    'operator',
  ],
  [
    "ERR The user executing the script can't access at least one of the keys",
    "ERR The user executing the script can't",
    'operator',
  ],
  ['WRONGPASS invalid username-password pair or user is disabled.', 'WRONGPASS', 'operator'],
  [
    'ERR AUTH <password> called without any password configured for the default user. Are you sure?',
    'ERR AUTH',
    'operator',
  ],
  ['DENIED Redis is running in protected mode because protected mode is enabled', 'DENIED', 'operator'],
  ['ERR DB index is out of range', 'ERR DB index is out of range', 'operator'],
  ["CROSSSLOT Keys in request don't hash to the same slot", 'CROSSSLOT', 'operator'],
  [
    'ERR The stream has exhausted the last possible ID, unable to add more items',
    'ERR The stream has exhausted',
    'operator',
  ],
];

test.each(texts)('%s', (text, prefix, action) => {
  expect(faultOf(text)).toMatchObject({ prefix, action });
});

test('every row is met by some text, has a reason of its own, and stands once', () => {
  const met = new Set(texts.map(([, prefix]) => prefix));
  expect(faults.map(({ prefix }) => prefix).filter((prefix) => prefix !== '' && !met.has(prefix))).toEqual(
    [],
  );
  expect(new Set(faults.map(({ prefix }) => prefix)).size).toBe(faults.length);
  for (const { why } of faults) expect(why).not.toBe('');
});

test('what nobody foresaw is asked again', () => {
  // The last of them: a name resolved to several addresses, none of which answered, leaves no text at all.
  for (const text of [
    'ERR Error running script',
    'BUSYGROUP Consumer Group name already exists',
    'ASKING',
    '',
  ]) {
    expect(faultOf(text)).toMatchObject({ prefix: '', action: 'wait' });
  }
});

test('rows cannot be changed', () => {
  expect(Object.isFrozen(faults) && faults.every((fault) => Object.isFrozen(fault))).toBe(true);
});
