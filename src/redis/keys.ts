/**
 * Names of the keys that Subito keeps beside a stream. Each hashes to the stream's own slot of a Redis
 * Cluster, so that one script may use them together: a partition's name carries its tag (`events:{0}`); any
 * other name becomes the tag, which hashes like the name itself.
 */

function tagged(name: string): string {
  return /\{[^}]+\}/.test(name) ? name : `{${name}}`;
}

/**
 * A hash of what has to outlive a consumer group. Fields, each after `<group>:`, are `floor` (every entry up
 * to this id is settled), `last` (an id that was delivered, with all before it; the last one as a rule),
 * `read` (so many entries had been added up to `last`), `added` (entries ever added to the stream), `epoch`
 * (changes whenever entries change hands other than by being read), `deleted` (largest id deleted with XDEL,
 * when `read` was counted), `server` (the Redis process whose own count of read entries is right), `time` (of
 * the server, as last seen, Unix ms), `ageing` (pending entries after this one still have to age anew),
 * `history` (replication id of the server on which a committer was last seen) and `contested` (entries up to
 * this id may be in hand although Redis takes them for unread).
 */
export function ledgerKey(stream: string): string {
  return `${tagged(stream)}:ledger`;
}

/** Present while the engine that reads under this consumer name lives. */
export function aliveKey(stream: string, group: string, consumer: string): string {
  return `${tagged(stream)}:alive:${group}:${consumer}`;
}

/**
 * A hash that producers of the stream may read (ingest/hints.ts), with an expiry. Fields: `state` (`ok`,
 * `slow`, `stop`), `rate_per_s` (for all producers together; '' for no limit), `backlog` (unread events),
 * `oldest_ms` (age of the oldest of them), `at_ms` (the server's Unix time when it was written).
 */
export function hintsKey(stream: string): string {
  return `${tagged(stream)}:hints`;
}

/** A hash: what each engine contributes to the hints; the fields are in lua/hints.lua. */
export function hintPartsKey(stream: string): string {
  return `${tagged(stream)}:hints:parts`;
}

/**
 * A stream: what became of dead letters that are no longer among the dead letters. Fields: `source` (entry
 * id of the input), `deadletter` (its entry id among the dead letters), `to` (entry id of the event that was
 * made of it again; '' when it was dropped).
 */
export function receiptsKey(deadletters: string): string {
  return `${tagged(deadletters)}:receipts`;
}
