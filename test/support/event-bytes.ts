/** Events as bytes, written in all the ways in which the formats let the same be written. */
import type { AnyEvent } from './events.ts';
import type { Random } from './random.ts';

function big(token: number, bytes: number, write: (buffer: Buffer) => void): Buffer {
  const buffer = Buffer.alloc(1 + bytes);
  buffer[0] = token;
  write(buffer.subarray(1));
  return buffer;
}

/** Of the widths that hold `size`, in bytes, any one. */
function width(random: Random, size: number, widths: readonly number[]): number {
  return random.pick(widths.filter((bytes) => size < 2 ** (8 * bytes)));
}

function header(random: Random, count: number, fix: number, fixMost: number, wide: number, widths: number[]) {
  if (count <= fixMost && random.chance(0.7)) return Buffer.of(fix | count);
  const bytes = width(random, count, widths);
  return big(wide + widths.indexOf(bytes), bytes, (at) => at.writeUIntBE(count, 0, bytes));
}

function packedNumber(random: Random, value: number): Buffer {
  const whole = Number.isSafeInteger(value) && !Object.is(value, -0);
  if (!whole || random.chance(0.2)) {
    if (Math.fround(value) === value && random.chance(0.7))
      return big(0xca, 4, (at) => at.writeFloatBE(value));
    return big(0xcb, 8, (at) => at.writeDoubleBE(value));
  }
  if (value >= -32 && value < 128 && random.chance(0.7)) return Buffer.of(value & 255);
  if (value >= 0 && random.chance(0.5)) {
    const bytes = width(random, value, [1, 2, 4, 8]);
    if (bytes === 8) return big(0xcf, 8, (at) => at.writeBigUInt64BE(BigInt(value)));
    return big(0xcc + Math.log2(bytes), bytes, (at) => at.writeUIntBE(value, 0, bytes));
  }
  const bytes = width(random, Math.abs(value) * 2 + 1, [1, 2, 4, 8]);
  if (bytes === 8) return big(0xd3, 8, (at) => at.writeBigInt64BE(BigInt(value)));
  return big(0xd0 + Math.log2(bytes), bytes, (at) => at.writeIntBE(value, 0, bytes));
}

function packed(random: Random, value: unknown): Buffer {
  if (value === null) return Buffer.of(0xc0);
  if (typeof value === 'boolean') return Buffer.of(value ? 0xc3 : 0xc2);
  if (typeof value === 'number') return packedNumber(random, value);
  if (typeof value === 'bigint') {
    if (value < 0n) return big(0xd3, 8, (at) => at.writeBigInt64BE(value));
    return big(0xcf, 8, (at) => at.writeBigUInt64BE(value));
  }
  if (typeof value === 'string') return packedText(random, value);
  if (Buffer.isBuffer(value)) {
    return Buffer.concat([header(random, value.length, 0, -1, 0xc4, [1, 2, 4]), value]);
  }
  if (Array.isArray(value)) {
    const items = value.map((item) => packed(random, item));
    return Buffer.concat([header(random, items.length, 0x90, 15, 0xdc, [2, 4]), ...items]);
  }
  return packedMap(random, Object.entries(value as object));
}

function packedText(random: Random, text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([header(random, bytes.length, 0xa0, 31, 0xd9, [1, 2, 4]), bytes]);
}

function packedMap(random: Random, entries: AnyEvent['entries']): Buffer {
  const items = entries.flatMap(([key, value]) => [packedText(random, key), packed(random, value)]);
  return Buffer.concat([header(random, entries.length, 0x80, 15, 0xde, [2, 4]), ...items]);
}

export function eventMsgpack(random: Random, { entries }: AnyEvent): Buffer {
  return packedMap(random, entries);
}

function space(random: Random): string {
  return random.chance(0.8) ? '' : random.pick([' ', '\n', '\r', '\t', '  \n']);
}

function jsonNumber(random: Random, value: number): string {
  // JSON knows neither; what stands there then is no JSON.
  if (!Number.isFinite(value)) return random.chance(0.5) ? String(value) : '1e999';
  if (Object.is(value, -0)) return random.pick(['-0', '-0.0', '-0e1']);
  const digits = random.int(1, 25);
  const forms = [String(value), JSON.stringify(value), value.toExponential()];
  if (Math.abs(value) < 1e9) forms.push(`${value.toFixed(20)}`);
  if (random.chance(0.1)) forms.push(value.toPrecision(digits), `${value}`.replace('e', 'E'));
  if (Number.isInteger(value) && Math.abs(value) < 1e15)
    forms.push(`${value}.0`, `${value}e0`, `${value}0e-1`);
  return random.pick(forms);
}

function json(random: Random, value: unknown): string {
  if (typeof value === 'number') return jsonNumber(random, value);
  if (typeof value === 'bigint') return String(value);
  if (Buffer.isBuffer(value)) return JSON.stringify(value.toString('latin1'));
  if (Array.isArray(value)) {
    const items = value.map((item) => space(random) + json(random, item) + space(random));
    return `[${items.join(',')}]`;
  }
  return JSON.stringify(value) ?? 'null';
}

function jsonKey(random: Random, key: string): string {
  // With a tab that JSON does not allow there.
  if (key.includes('\t') && random.chance(0.2)) return `"${key}"`;
  const text = JSON.stringify(key);
  if (random.chance(0.97) || key.length === 0) return text;
  return text.replace(key.charAt(0), `\\u${key.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

export function eventJson(random: Random, { entries }: AnyEvent): Buffer {
  const at = () => space(random);
  const fields = entries.map(
    ([key, value]) => `${at()}${jsonKey(random, key)}${at()}:${at()}${json(random, value)}${at()}`,
  );
  const mark = random.chance(0.02) ? '\ufeff' : '';
  return Buffer.from(`${mark}${at()}{${fields.length === 0 ? at() : fields.join(',')}}${at()}`);
}
