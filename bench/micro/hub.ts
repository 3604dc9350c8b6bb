/** Handing one prediction to its subscribers (gateway/hub.ts, prediction-frame.ts), without sockets. */
import { Hub, type Outlet } from '../../src/gateway/hub.ts';
import { CREDIT_MAX } from '../../src/gateway/protocol.ts';
import type { Prediction } from '../../src/publish/prediction.ts';
import { type MicroCase, twinOnly } from './case.ts';
import { OUTPUT, remembered } from './stream.ts';

interface Subscribers {
  readonly hub: Hub;
  readonly outlets: readonly Outlet[];
}

interface HubCase {
  readonly name: string;
  readonly json: boolean;
  readonly channel: 'key:user-42' | 'model:mlp';
  /** False: nobody has credit, so each prediction takes the place of the one that is held. */
  readonly credit: boolean;
}

const prediction: Omit<Prediction, 'sid'> = {
  key: 'user-42',
  model: 'mlp@1',
  status: 'ok',
  event: 'load-42',
  source: '1763900000000-0',
  outputs: OUTPUT,
  waitUs: 812,
  inferUs: 84,
};

/** One prediction to `events` subscribers. */
function offer({ name, json, channel, credit }: HubCase): MicroCase {
  let pushed = 0;
  const subscribers = remembered((count): Subscribers => {
    const hub = new Hub({ heldBytesMax: 1 << 20, now: () => 1_763_900_000_001, wanted: () => {} });
    const outlets = Array.from({ length: count }, (): Outlet => {
      const push = (frame: Uint8Array) => {
        pushed += frame.length > 0 ? 1 : 0;
        return true;
      };
      return { json, push, end: () => fail('a subscriber was closed') };
    });
    const [kind, target] = channel.split(':') as ['key' | 'model', string];
    for (const outlet of outlets) {
      const request = { channel, target: { kind, name: target }, mode: 'latest', models: null } as const;
      hub.subscribe(outlet, { ...request, credit: credit ? CREDIT_MAX : 0 });
    }
    return { hub, outlets };
  });
  let offered = 0;
  const work = (events: number) => {
    const { hub, outlets } = subscribers(events);
    pushed = 0;
    offered += 1;
    hub.offer({ ...prediction, sid: `${1_763_900_000_000 + offered}-0` });
    if (pushed !== (credit ? events : 0)) fail(`${pushed} of ${events} pushes`);
    if (offered % 1000 !== 0 || !credit) return;
    for (const outlet of outlets) hub.credit(outlet, channel, 2000);
  };
  return { name, unit: 'subscriber', variants: twinOnly(work) };
}

function fail(message: string): never {
  throw new Error(message);
}

/** What every prediction of a stream is asked while anyone is subscribed at all. */
function uninterested(): MicroCase {
  const hub = new Hub({ heldBytesMax: 1 << 20, now: () => 0, wanted: () => {} });
  const outlet: Outlet = { json: true, push: () => true, end: () => {} };
  const request = { channel: 'key:nobody', target: { kind: 'key', name: 'nobody' } } as const;
  hub.subscribe(outlet, { ...request, mode: 'latest', models: null, credit: 1 });
  const keys = Array.from({ length: 256 }, (_, i) => `user-${i}`);
  const work = (events: number) => {
    for (let i = 0; i < events; i++) if (hub.interested(keys[i]!, 'mlp@1')) fail('nobody asked for it');
  };
  return { name: 'a prediction nobody wants', unit: 'prediction', variants: twinOnly(work) };
}

export function cases(): MicroCase[] {
  return [
    offer({ name: 'key, JSON', json: true, channel: 'key:user-42', credit: true }),
    offer({ name: 'key, MessagePack', json: false, channel: 'key:user-42', credit: true }),
    offer({ name: 'model, MessagePack', json: false, channel: 'model:mlp', credit: true }),
    offer({ name: 'model, held for lack of credit', json: false, channel: 'model:mlp', credit: false }),
    uninterested(),
  ];
}
