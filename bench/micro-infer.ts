/**
 * Rows per second of one worker's path on the 64-256-128-1 MLP: decode, run, encode, without pool and
 * threads. Each way in shows the share of `session.run` alone. Rows per second of processor time, so that a
 * busy machine counts less.
 *
 *   node bench/micro-infer.ts [seconds per case]
 */
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { OutArena } from '../src/infer/arena.ts';
import { loadModel } from '../src/infer/load.ts';
import { putFloat32, putMapHeader, putString } from '../src/infer/msgpack.ts';
import type { ModelSpec } from '../src/infer/protocol.ts';
import type { SlabView } from '../src/infer/session.ts';
import { limitsDefault } from '../src/limits.ts';
import { scanModels } from '../src/repository/repository.ts';
import { ENCODING, FORM, ROW, ROW_COLUMNS } from '../src/schedule/slab.ts';

const WIDTH = 64;
const names = Array.from({ length: WIDTH }, (_, i) => `feature_${i}`);
const seconds = Number(process.argv[2] ?? 1);

const { specs } = scanModels(fileURLToPath(new URL('./models', import.meta.url)), limitsDefault);
const plain = specs.find(({ name }) => name === 'mlp') as ModelSpec;
const fields = names.map((name) => ({ name, dtype: null, default: undefined }));
const named: ModelSpec = {
  ...plain,
  inputs: [{ name: 'features', dtype: null, shape: null, fields, finite: true }],
};

function packedRow(): Buffer {
  const bytes = Buffer.alloc(4096);
  const out = new OutArena();
  out.reset(bytes, new DataView(bytes.buffer, bytes.byteOffset, bytes.length), 0, bytes.length);
  putMapHeader(out, WIDTH);
  for (const [i, name] of names.entries()) {
    putString(out, name);
    putFloat32(out, i / WIDTH);
  }
  return bytes.subarray(0, out.at);
}

function arrayRow(): Buffer {
  return Buffer.from(JSON.stringify({ features: names.map((_, i) => i / WIDTH) }));
}

function place(slab: SlabView, rows: number, event: Buffer | null, encoding: number): void {
  const { table, layout, bytes } = slab;
  for (let row = 0; row < rows; row++) {
    const at = row * ROW_COLUMNS;
    table[at + ROW.form] = event === null ? FORM.features : FORM.data;
    table[at + ROW.encoding] = encoding;
    if (event === null) continue;
    table[at + ROW.inOffset] = row * event.length;
    table[at + ROW.inLength] = event.length;
    event.copy(bytes, layout.arenaInOffset + row * event.length);
  }
}

const object = JSON.stringify(Object.fromEntries(names.map((name, i) => [name, i / WIDTH])));
const cases: [title: string, spec: ModelSpec, event: Buffer | null, encoding: number][] = [
  ['features -> MessagePack', plain, null, ENCODING.msgpack],
  ['features -> JSON', plain, null, ENCODING.json],
  ['64 fields, MessagePack -> MessagePack', named, packedRow(), ENCODING.msgpack],
  ['64 fields, JSON -> JSON', named, Buffer.from(object), ENCODING.json],
  ['array of 64, JSON -> MessagePack', plain, arrayRow(), ENCODING.msgpack],
];

console.log(`${cpus()[0]?.model}, Node ${process.version}; ${seconds} s a case`);
for (const [title, spec, event, encoding] of cases) {
  const { model } = await loadModel({ ...spec, goldenPath: null }, ['cpu'], 1_048_576);
  const slab = model.scratch();
  for (const rows of [1, 32, 128, 256]) {
    place(slab, rows, event, encoding);
    for (let i = 0; i < 50; i++) await model.runSlab(slab, 0, rows);
    let batches = 0;
    let inferUs = 0;
    let runUs = 0;
    const began = performance.now();
    const cpu = process.cpuUsage();
    while (performance.now() - began < seconds * 1000) {
      const result = await model.runSlab(slab, 0, rows);
      inferUs += result.inferUs;
      runUs += result.runUs;
      batches++;
    }
    const { user, system } = process.cpuUsage(cpu);
    const rowUs = (user + system) / batches / rows;
    const share = runUs / inferUs;
    const perSecond = (1e6 / rowUs).toFixed(0).padStart(8);
    const beside = (rowUs * (1 - share)).toFixed(2);
    console.log(
      `${title.padEnd(38)} batch ${String(rows).padStart(3)}: ${perSecond} rows/s, ` +
        `session.run ${(share * 100).toFixed(0)}%, decode and encode ${beside} us a row`,
    );
  }
}
