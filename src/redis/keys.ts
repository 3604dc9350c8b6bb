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
 * to this id is settled), `last` and `read` (last delivered id, and how many entries had been read then),
 * `added` (entries ever added to the stream), `epoch` (changes whenever an entry changes hands) and `time`
 * (of the server, as last seen, Unix ms).
 */
export function ledgerKey(stream: string): string {
  return `${tagged(stream)}:ledger`;
}

/** Present while the engine that reads under this consumer name lives. */
export function aliveKey(stream: string, group: string, consumer: string): string {
  return `${tagged(stream)}:alive:${group}:${consumer}`;
}

/**
 * A stream: what became of dead letters that are no longer among the dead letters. Fields: `source` (entry
 * id of the input), `deadletter` (its entry id among the dead letters), `to` (entry id of the event that was
 * made of it again; '' when it was dropped).
 */
export function receiptsKey(deadletters: string): string {
  return `${tagged(deadletters)}:receipts`;
}
