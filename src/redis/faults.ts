/**
 * What Redis may answer instead of doing what it was asked, and what to do about it. None of these says
 * anything about an event, so none ever counts against one: whoever asked keeps what it has and asks again.
 *
 * The texts are those of Redis 7.0. A script that is refused as a whole answers with the same first word as
 * a plain command, and an error met inside of one keeps it too ("WRONGTYPE ... script: SHA, on
 * @user_script:46."). Missing rights are the exception: inside a script they begin with ERR.
 */

/**
 * wait: ask again shortly on the same connection. reconnect: a new connection, which asks again where to go.
 * reload: a new connection, which loads the scripts again. regroup: make the consumer group again. operator:
 * keep asking on the same connection; readiness and a notice say what a person has to do.
 */
export type FaultAction = 'wait' | 'reconnect' | 'reload' | 'regroup' | 'operator';

export interface Fault {
  /** How the text begins; whole words. */
  readonly prefix: string;
  readonly action: FaultAction;
  /** For people: what happened and, where a person has to act, how. */
  readonly why: string;
}

const row = (prefix: string, action: FaultAction, why: string): Fault =>
  Object.freeze({ prefix, action, why });

const RIGHTS = 'the Redis user lacks a right: give it all commands on the keys of the streams (ACL SETUSER)';
const CREDENTIALS = 'Redis wants other credentials: correct redis.username and redis.password';
const LOST = 'the connection ended';
const CLIENTS = 'Redis has too many connections: raise maxclients, or end some';

export const faults: readonly Fault[] = Object.freeze([
  row('LOADING', 'wait', 'Redis loads its data'),
  row('BUSY', 'wait', "somebody's script runs too long; SCRIPT KILL ends one that has not written"),
  row('OOM', 'wait', 'Redis is out of memory: raise maxmemory, or delete something'),
  row('MISCONF', 'wait', 'Redis cannot save to its disk: see its log'),
  row('NOREPLICAS', 'wait', 'fewer replicas are connected than min-replicas-to-write asks for'),
  // The slot is on its way to another node; once it is there the answer is MOVED.
  row('ASK', 'wait', 'the slot moves to another node'),
  row('TRYAGAIN', 'wait', 'the slot moves to another node'),
  // Of CLIENT UNBLOCK, or because the stream was deleted; that the group is gone shows at the next read.
  row('UNBLOCKED', 'wait', 'a waiting read was ended'),

  row('READONLY', 'reconnect', 'this server is a replica now'),
  row('MASTERDOWN', 'reconnect', 'this server is a replica without its master'),
  row('UNBLOCKED force unblock', 'reconnect', 'this server became a replica'),
  row('MOVED', 'reconnect', 'the slot moved to another node'),
  // A node cut off from the others says so too, while they serve its slots from elsewhere.
  row('CLUSTERDOWN', 'reconnect', 'the cluster, or this node, does not serve the slot'),
  row('ERR Script attempted to access a non local key', 'reconnect', 'the slot moved to another node'),
  // A connection made before the password was; only a new one can authenticate.
  row('NOAUTH', 'reconnect', CREDENTIALS),
  row('ERR max number of clients reached', 'reconnect', CLIENTS),
  row('connection closed', 'reconnect', LOST),
  row('connecting took too long', 'reconnect', 'Redis could not be reached in time'),
  row('no answer', 'reconnect', 'Redis, or the way to it, fell silent'),
  // Node's own words: "connect ECONNREFUSED 127.0.0.1:6379", "read ECONNRESET", "getaddrinfo ENOTFOUND r".
  row('connect', 'reconnect', 'Redis cannot be reached'),
  row('getaddrinfo', 'reconnect', "the name of Redis' machine is not known"),
  row('read', 'reconnect', LOST),
  row('write', 'reconnect', LOST),
  // The control connection's.
  row('Connection is closed', 'reconnect', LOST),
  row('Command timed out', 'reconnect', 'Redis, or the way to it, fell silent'),
  row('Reached the max retries per request limit', 'reconnect', LOST),

  row('NOSCRIPT', 'reload', 'Redis lost its scripts: a restart, or SCRIPT FLUSH'),

  row('NOGROUP', 'regroup', 'the consumer group is gone: FLUSHALL, DEL or XGROUP DESTROY'),

  row('WRONGTYPE', 'operator', 'a key that must be a stream holds something else: rename or delete it'),
  row('NOPERM', 'operator', RIGHTS),
  row("ERR The user executing the script can't", 'operator', RIGHTS),
  row('WRONGPASS', 'operator', CREDENTIALS),
  row('ERR AUTH', 'operator', CREDENTIALS),
  row('DENIED', 'operator', 'Redis is in protected mode: give it a password'),
  row('ERR DB index is out of range', 'operator', 'Redis has no such database: correct redis.url'),
  row('CROSSSLOT', 'operator', 'streams of one partition lie in two slots: give them one {tag}'),
  row('ERR The stream has exhausted', 'operator', 'the stream has run out of ids: rename or delete it'),

  // What nobody foresaw passes too, more often than not; and the notice quotes it.
  row('', 'wait', 'Redis refuses'),
]);

const isLetter = (character: string | undefined): boolean => /^[A-Za-z]$/.test(character ?? '');

/**
 * What a reply of Redis (an error's text) or a lost connection means for the one that asked. Never counts
 * against an event.
 */
export function faultOf(reply: string): Fault {
  let found: Fault | undefined;
  for (const fault of faults) {
    const { prefix } = fault;
    if (!reply.startsWith(prefix)) continue;
    // BUSYGROUP is not BUSY.
    if (prefix !== '' && isLetter(reply[prefix.length])) continue;
    if (found === undefined || prefix.length > found.prefix.length) found = fault;
  }
  return found as Fault;
}
