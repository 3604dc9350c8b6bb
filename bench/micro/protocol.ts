/** What a WebSocket client says and is told (gateway/codec.ts, protocol.ts, prediction-frame.ts). */
import { pack } from 'msgpackr';
import { CODECS, type Codec, recode } from '../../src/gateway/codec.ts';
import { headOf, predictionFrame, SharedTail } from '../../src/gateway/prediction-frame.ts';
import { Protocol } from '../../src/gateway/protocol.ts';
import { limitsDefault } from '../../src/limits.ts';
import type { Prediction } from '../../src/publish/prediction.ts';
import type { Answer } from '../../src/schedule/direct.ts';
import { type MicroCase, twinOnly } from './case.ts';
import { fieldNames } from './maps.ts';
import { OUTPUT } from './stream.ts';

const encodings = [...CODECS.values()].map((codec) => ({
  codec,
  title: codec.json ? 'JSON' : 'MessagePack',
  bytesOf: (frame: object): Uint8Array => (codec.json ? Buffer.from(JSON.stringify(frame)) : pack(frame)),
}));
type Encoding = (typeof encodings)[number];

const event = {
  t: 'event',
  id: 42,
  key: 'user-42',
  model: 'mlp',
  eid: 'load-42',
  d: Object.fromEntries(fieldNames(8).map((name, i) => [name, i / 8])),
};
const CHANNEL = 'key:user-42';
/** One client's own rates would refuse what is measured here. */
const limits = { ...limitsDefault, eventsPerSecondMax: 1e12 };

function opened({ codec, bytesOf }: Encoding): Protocol {
  const protocol = new Protocol({
    limits,
    connection: 'c1',
    epoch: 'e',
    json: codec.json,
    modelKnown: (name) => name === 'mlp',
    openedMs: 0,
  });
  for (const frame of [{ t: 'hello' }, { t: 'sub', ch: CHANNEL }])
    protocol.receive(codec.decode(bytesOf(frame)), 0);
  return protocol;
}

/** An event in, the engine's answer out. */
function exchange(encoding: Encoding): MicroCase {
  const { codec, title, bytesOf } = encoding;
  const protocol = opened(encoding);
  const frame = bytesOf(event);
  const answer: Answer = {
    status: 'ok',
    model: 'mlp@1',
    outputs: recode(OUTPUT, codec.json),
    detail: '',
    retryMs: 0,
    waitUs: 812,
    inferUs: 84,
  };
  const work = (events: number) => {
    let bytes = 0;
    for (let i = 0; i < events; i++) {
      const [action] = protocol.receive(codec.decode(frame), 1);
      if (action?.do !== 'infer') throw new Error('the event was refused');
      const [send] = protocol.answered(action.id, action.event, answer);
      if (send?.do !== 'send') throw new Error('nothing was answered');
      bytes += codec.encode(send.frame, send.outputs).length;
    }
    if (bytes < events * 20) throw new Error('too little was sent');
  };
  return { name: `event in, prediction out, ${title}`, unit: 'event', variants: twinOnly(work) };
}

function flow(encoding: Encoding): MicroCase {
  const { codec, title, bytesOf } = encoding;
  const protocol = opened(encoding);
  const frame = bytesOf({ t: 'flow', ch: CHANNEL, credit: 32 });
  const work = (events: number) => {
    for (let i = 0; i < events; i++) {
      const [action] = protocol.receive(codec.decode(frame), 1);
      if (action?.do !== 'credit') throw new Error('the credit was refused');
    }
  };
  return { name: `credit, ${title}`, unit: 'frame', variants: twinOnly(work) };
}

const prediction: Prediction = {
  sid: '1763900000000-0',
  key: 'user-42',
  model: 'mlp@1',
  status: 'ok',
  event: 'load-42',
  source: '1763900000000-0',
  outputs: OUTPUT,
  waitUs: 812,
  inferUs: 84,
};

/** A prediction for one subscriber: the part that all would share, and the head. */
function push({ codec, title }: { codec: Codec; title: string }): MicroCase {
  const head = headOf(CHANNEL, codec.json);
  const work = (events: number) => {
    let bytes = 0;
    for (let seq = 1; seq <= events; seq++) {
      const tail = new SharedTail(prediction).bytes(codec.json);
      bytes += predictionFrame(head, codec.json, seq, 0, tail).length;
    }
    if (bytes < events * 20) throw new Error('too little was sent');
  };
  return { name: `push, ${title}`, unit: 'frame', variants: twinOnly(work) };
}

export function cases(): MicroCase[] {
  return [...encodings.map(exchange), ...encodings.map(flow), ...encodings.map(push)];
}
