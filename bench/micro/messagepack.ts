/**
 * MessagePack where events and predictions pass: the worker's reader and writer (infer/msgpack.ts), the
 * gateway's walk (gateway/msgpack.ts), and msgpackr on the same bytes, which both do without there.
 */
import { Packr, Unpackr } from 'msgpackr';
import { mapEntries, withEntry } from '../../src/gateway/msgpack.ts';
import { OutArena } from '../../src/infer/arena.ts';
import { MessagePackReader, putValue } from '../../src/infer/msgpack.ts';
import { type MicroCase, twinOnly } from './case.ts';
import { fieldNames, packedMap } from './maps.ts';
import { OUTPUT } from './stream.ts';

const FIELDS = 8;
const packed = packedMap(FIELDS);
const view = new DataView(packed.buffer, packed.byteOffset, packed.length);
const plain = Object.fromEntries(fieldNames(FIELDS).map((name, i) => [name, i / FIELDS]));

function read(): MicroCase {
  const reader = new MessagePackReader();
  const work = (events: number) => {
    let sum = 0;
    for (let i = 0; i < events; i++) {
      const count = reader.begin(packed, view, 0, packed.length);
      for (let field = 0; field < count; field++) {
        reader.key();
        sum += reader.value() as number;
      }
      reader.finish();
    }
    if (sum !== (events * (FIELDS - 1)) / 2) throw new Error(`the fields add up to ${sum}`);
  };
  return { name: 'read 8 fields', variants: twinOnly(work) };
}

function readMap(): MicroCase {
  const reader = new MessagePackReader();
  const work = (events: number) => {
    for (let i = 0; i < events; i++) {
      const map = reader.map(packed, view, 0, packed.length);
      if (map['feature_4'] !== 0.5) throw new Error('a field is wrong');
    }
  };
  return { name: 'read 8 fields, as an object', variants: twinOnly(work) };
}

function readByMsgpackr(): MicroCase {
  const unpackr = new Unpackr({ useRecords: false });
  const work = (events: number) => {
    for (let i = 0; i < events; i++) {
      const map = unpackr.unpack(packed) as Record<string, unknown>;
      if (map['feature_4'] !== 0.5) throw new Error('a field is wrong');
    }
  };
  return { name: 'read 8 fields, as an object, by msgpackr', variants: twinOnly(work) };
}

function write(): MicroCase {
  const bytes = Buffer.alloc(65_536);
  const bytesView = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const out = new OutArena();
  const work = (events: number) => {
    out.reset(bytes, bytesView, 0, bytes.length);
    for (let i = 0; i < events; i++) putValue(out, plain);
    if (out.length < events * FIELDS) throw new Error('too little was written');
  };
  return { name: 'write 8 fields of an object', variants: twinOnly(work) };
}

function writeByMsgpackr(): MicroCase {
  const packr = new Packr({ useRecords: false });
  const work = (events: number) => {
    for (let i = 0; i < events; i++) if (packr.pack(plain).length < FIELDS) throw new Error('too little');
  };
  return { name: 'write 8 fields of an object, by msgpackr', variants: twinOnly(work) };
}

function walk(): MicroCase {
  const work = (events: number) => {
    for (let i = 0; i < events; i++) if (mapEntries(packed).length !== FIELDS) throw new Error('fields lost');
  };
  return { name: "the gateway's walk over 8 fields", variants: twinOnly(work) };
}

function splice(): MicroCase {
  const work = (events: number) => {
    for (let i = 0; i < events; i++) {
      if (withEntry(packed, 'd', OUTPUT).length < packed.length) throw new Error('too little');
    }
  };
  return { name: 'one more entry in a map', variants: twinOnly(work) };
}

export function cases(): MicroCase[] {
  return [read(), readMap(), readByMsgpackr(), write(), writeByMsgpackr(), walk(), splice()];
}
