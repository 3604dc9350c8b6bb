/** Events with named fields, encoded as clients do it. */
import { OutArena } from '../../src/infer/arena.ts';
import { putFloat32, putMapHeader, putString } from '../../src/infer/msgpack.ts';

export const fieldNames = (count: number) => Array.from({ length: count }, (_, i) => `feature_${i}`);

/** A map of `count` float32 values, in MessagePack. */
export function packedMap(count: number): Buffer {
  const bytes = Buffer.alloc(32 * count + 16);
  const out = new OutArena();
  out.reset(bytes, new DataView(bytes.buffer, bytes.byteOffset, bytes.length), 0, bytes.length);
  putMapHeader(out, count);
  for (const [i, name] of fieldNames(count).entries()) {
    putString(out, name);
    putFloat32(out, i / count);
  }
  return bytes.subarray(0, out.at);
}

/** The same as JSON. */
export function jsonMap(count: number): Buffer {
  const entries = fieldNames(count).map((name, i) => [name, i / count]);
  return Buffer.from(JSON.stringify(Object.fromEntries(entries)));
}
