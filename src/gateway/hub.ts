/**
 * Who wants which predictions. Pure: it knows channels, subscriptions and credit, but no socket; a
 * subscription hands its frames to an Outlet.
 *
 * Glossary. `seq` numbers the predictions of one subscription, from 1, whether they are sent or not. `conf`
 * in a frame says how many before it were conflated away: always seq - previous seq - 1, so a client that
 * computes something else has lost a frame. `credit` is how many more frames the client takes; it falls by
 * one with each and is raised by the client's own flow frames. A prediction is "held" while it waits for
 * credit.
 *
 * A subscription with credit holds nothing: what is offered is sent. Without credit,
 * - mode latest keeps one prediction per model, the newest. Putting a newer one in moves it to the back of
 *   the line, so what is sent on new credit comes in the order in which it was offered, and never an older
 *   one after a newer one. When its connection holds more than `heldBytesMax` the oldest in the line are
 *   conflated away as well.
 * - mode all keeps every one, in order; past `heldBytesMax` the connection is too slow for what it asked
 *   and is closed.
 */
import { channels } from '../observe/channels.ts';
import type { Prediction } from '../publish/prediction.ts';
import type { CloseKind } from './codes.ts';
import { CLOSES } from './codes.ts';
import type { Channel } from './fields.ts';
import { headOf, predictionFrame, SharedTail } from './prediction-frame.ts';
import type { SubscriptionRequest } from './protocol.ts';
import { CREDIT_MAX } from './protocol.ts';

/** Where a connection's frames go. */
export interface Outlet {
  readonly json: boolean;
  /** False when the frame could not be taken: the connection is closed, or is being closed. */
  push(frame: Uint8Array): boolean;
  end(close: CloseKind): void;
}

export interface HubOptions {
  /** Of one connection, over all its subscriptions. */
  readonly heldBytesMax: number;
  /** Unix milliseconds. */
  readonly now: () => number;
  /** True with the first subscription, false with the last. */
  readonly wanted: (wanted: boolean) => void;
}

interface Held {
  readonly seq: number;
  readonly tail: Uint8Array;
}

/** A connection that has subscriptions. */
interface Owner {
  readonly subscriptions: Map<string, Subscription>;
  heldBytes: number;
}

interface Subscription {
  readonly outlet: Outlet;
  readonly owner: Owner;
  readonly target: Channel;
  readonly latest: boolean;
  readonly models: ReadonlySet<string> | null;
  readonly head: Buffer;
  credit: number;
  /** Of the last prediction offered, and of the last one sent. */
  seq: number;
  sentSeq: number;
  /** Waiting for credit, oldest first: by model in mode latest, by seq in mode all. */
  readonly held: Map<string | number, Held>;
  /** Entry id of the last prediction offered, as numbers. */
  lastMs: number;
  lastNumber: number;
}

interface Counts {
  sent: number;
  held: number;
  dropped: number;
}

/** What holding one prediction costs beside its bytes: a map entry and an object, rounded up. */
const HELD_OVERHEAD_BYTES = 128;

export class Hub {
  readonly #options: HubOptions;
  readonly #byKey = new Map<string, Set<Subscription>>();
  /** By `name` or `name@version`, as subscribed. */
  readonly #byModel = new Map<string, Set<Subscription>>();
  readonly #owners = new Map<Outlet, Owner>();
  #count = 0;

  constructor(options: HubOptions) {
    this.#options = options;
  }

  get subscriptions(): number {
    return this.#count;
  }

  /** Bytes held for a connection. */
  heldBytes(outlet: Outlet): number {
    return this.#owners.get(outlet)?.heldBytes ?? 0;
  }

  /** The caller has checked that this outlet has no subscription to the channel. */
  subscribe(outlet: Outlet, request: SubscriptionRequest): void {
    const { target } = request;
    const owner = entryOf(this.#owners, outlet, () => ({ subscriptions: new Map(), heldBytes: 0 }));
    const subscription: Subscription = {
      outlet,
      owner,
      target,
      latest: request.mode === 'latest',
      models: request.models === null ? null : new Set(request.models),
      head: headOf(request.channel, outlet.json),
      credit: request.credit,
      seq: 0,
      sentSeq: 0,
      held: new Map(),
      lastMs: 0,
      lastNumber: -1,
    };
    const index = target.kind === 'key' ? this.#byKey : this.#byModel;
    entryOf(index, target.name, () => new Set<Subscription>()).add(subscription);
    owner.subscriptions.set(request.channel, subscription);
    this.#count++;
    if (this.#count === 1) this.#options.wanted(true);
  }

  unsubscribe(outlet: Outlet, channel: string): void {
    const owner = this.#owners.get(outlet);
    const subscription = owner?.subscriptions.get(channel);
    if (owner === undefined || subscription === undefined) return;
    for (const slot of [...subscription.held.keys()]) release(subscription, slot);
    owner.subscriptions.delete(channel);
    if (owner.subscriptions.size === 0) this.#owners.delete(outlet);
    const index = subscription.target.kind === 'key' ? this.#byKey : this.#byModel;
    const set = index.get(subscription.target.name);
    set?.delete(subscription);
    if (set?.size === 0) index.delete(subscription.target.name);
    this.#count--;
    if (this.#count === 0) this.#options.wanted(false);
  }

  /** The connection is gone. */
  remove(outlet: Outlet): void {
    const owned = this.#owners.get(outlet)?.subscriptions.keys() ?? [];
    for (const channel of [...owned]) this.unsubscribe(outlet, channel);
  }

  /** Cheap, and to be asked before a Prediction is even made. `model` is `name@version`. */
  interested(key: string, model: string): boolean {
    if (this.#count === 0) return false;
    if (this.#byKey.has(key)) return true;
    return this.#byModel.size > 0 && (this.#byModel.has(model) || this.#byModel.has(bareName(model)));
  }

  /** In the order of the predictions stream. Nothing of `prediction` is kept. */
  offer(prediction: Prediction): void {
    const bare = bareName(prediction.model);
    const shared = new SharedTail(prediction);
    const counts: Counts = { sent: 0, held: 0, dropped: 0 };
    this.#offerTo(this.#byKey.get(prediction.key), prediction, bare, shared, counts);
    this.#offerTo(this.#byModel.get(bare), prediction, bare, shared, counts);
    if (bare !== prediction.model) {
      this.#offerTo(this.#byModel.get(prediction.model), prediction, bare, shared, counts);
    }
    const { sent, held, dropped } = counts;
    if (sent + held + dropped > 0 && channels.push.hasSubscribers) {
      const { ms } = entryId(prediction.sid);
      channels.push.publish({ sent, held, dropped, pushMs: ms === 0 ? 0 : this.#options.now() - ms });
    }
  }

  /** The client has consumed what it was sent and takes `credit` more. */
  credit(outlet: Outlet, channel: string, credit: number): void {
    const subscription = this.#owners.get(outlet)?.subscriptions.get(channel);
    if (subscription === undefined) return;
    subscription.credit = Math.min(CREDIT_MAX, subscription.credit + credit);
    for (const [slot, held] of subscription.held) {
      if (subscription.credit === 0) break;
      release(subscription, slot);
      if (!send(subscription, held.seq, held.tail)) break;
    }
  }

  #offerTo(
    set: ReadonlySet<Subscription> | undefined,
    prediction: Prediction,
    bare: string,
    shared: SharedTail,
    counts: Counts,
  ): void {
    if (set === undefined) return;
    // An outlet that fails may remove its subscriptions from the set during the walk, which a Set allows.
    for (const subscription of set) {
      const { models } = subscription;
      if (models !== null && !models.has(bare) && !models.has(prediction.model)) continue;
      if (subscription.target.kind === 'key' && !advance(subscription, prediction.sid)) continue;
      const seq = ++subscription.seq;
      const tail = shared.bytes(subscription.outlet.json);
      if (subscription.credit === 0) this.#hold(subscription, bare, { seq, tail }, counts);
      else if (send(subscription, seq, tail)) counts.sent++;
      else counts.dropped++;
    }
  }

  #hold(subscription: Subscription, model: string, held: Held, counts: Counts): void {
    const slot = subscription.latest ? model : held.seq;
    if (release(subscription, slot)) counts.dropped++;
    subscription.held.set(slot, held);
    subscription.owner.heldBytes += held.tail.length + HELD_OVERHEAD_BYTES;
    counts.held++;
    if (subscription.owner.heldBytes <= this.#options.heldBytesMax) return;
    if (!subscription.latest) {
      counts.dropped += subscription.held.size;
      counts.held--;
      subscription.outlet.end(CLOSES.slowConsumer);
      return;
    }
    for (const oldest of subscription.held.keys()) {
      if (subscription.owner.heldBytes <= this.#options.heldBytesMax) break;
      release(subscription, oldest);
      counts.dropped++;
    }
  }
}

function entryOf<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}

/** Empties a slot; false when there was nothing in it. */
function release(subscription: Subscription, slot: string | number): boolean {
  const old = subscription.held.get(slot);
  if (old === undefined) return false;
  subscription.held.delete(slot);
  subscription.owner.heldBytes -= old.tail.length + HELD_OVERHEAD_BYTES;
  return true;
}

function send(subscription: Subscription, seq: number, tail: Uint8Array): boolean {
  const conf = seq - subscription.sentSeq - 1;
  subscription.sentSeq = seq;
  subscription.credit--;
  const { outlet, head } = subscription;
  return outlet.push(predictionFrame(head, outlet.json, seq, conf, tail));
}

/**
 * Moves the subscription on to this entry id. False when it has seen it or a later one: a tail that starts
 * over must not send an older prediction after a newer one. Only for keys, whose predictions all lie in one
 * stream; a model's may come from the streams of several partitions, whose ids do not compare.
 */
function advance(subscription: Subscription, sid: string): boolean {
  if (sid === '') return true;
  const { ms, number } = entryId(sid);
  if (ms < subscription.lastMs) return false;
  if (ms === subscription.lastMs && number <= subscription.lastNumber) return false;
  subscription.lastMs = ms;
  subscription.lastNumber = number;
  return true;
}

function entryId(sid: string): { ms: number; number: number } {
  const dash = sid.indexOf('-');
  return {
    ms: Number(dash < 0 ? sid : sid.slice(0, dash)),
    number: dash < 0 ? 0 : Number(sid.slice(dash + 1)),
  };
}

/** `name` of `name@version`. */
function bareName(model: string): string {
  const at = model.indexOf('@');
  return at < 0 ? model : model.slice(0, at);
}
