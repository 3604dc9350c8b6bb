/**
 * JSON numbers straight from the bytes of a request. A request for inference consists of them nearly to the
 * last byte, and JSON.parse would make a text of it first and a list of values after. The numbers are the
 * same as JSON.parse's, to the last bit.
 */

/** Lists may nest this deep here. */
const DEPTH_MAX = 8;

/** Below it whole doubles are exact, so digits can be collected in one. */
const EXACT = 2 ** 53;
/** Powers of ten up to this one are exact doubles, and a quotient or product with one is rounded once. */
const EXACT_POWER = 22;
const POWERS = Float64Array.from({ length: 41 }, (_, power) => Number(`1e${power}`));
/**
 * With up to 20 digits and any power above, a value is off by at most four products, four sums, the power and
 * a quotient or product, each rounded by up to 2^-53 of it. NEAR is more than all of them.
 */
const NEAR_DIGITS = 20;
const NEAR = 2 ** -48;

const { fround } = Math;
const [MINUS, POINT, ZERO, NINE, COMMA, OPEN, CLOSE] = [0x2d, 0x2e, 0x30, 0x39, 0x2c, 0x5b, 0x5d] as const;

/** Just past the number that was read last; -1: it is none. */
let next = 0;

/**
 * Reads the list in `bytes[start, end)`, brackets included, of numbers or lists of them, into the first
 * `count` places of `into`. False: it is no such list, or has another number of numbers; `into` may then be
 * half filled. `isSingle`: doubles that round to the right float32 are enough.
 */
export function readNumbers(
  bytes: Buffer,
  start: number,
  end: number,
  into: Float64Array,
  count: number,
  isSingle: boolean,
): boolean {
  let at = start;
  let found = 0;
  let depth = 0;
  // A value may stand here: a bracket or a comma came before.
  let isOpen = true;
  while (at < end) {
    const byte = bytes[at] as number;
    if (byte === MINUS || (byte >= ZERO && byte <= NINE)) {
      if (!isOpen || depth === 0 || found === count) return false;
      into[found] = readNumber(bytes, at, isSingle);
      if (next < 0) return false;
      isOpen = false;
      found += 1;
      at = next;
    } else {
      at += 1;
      if (byte === COMMA) {
        if (isOpen) return false;
        isOpen = true;
      } else if (byte === OPEN) {
        depth += 1;
        if (!isOpen || depth > DEPTH_MAX) return false;
      } else if (byte === CLOSE) {
        depth -= 1;
        if (isOpen) return false;
        if (depth === 0) return at === end && found === count;
      } else if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return false;
    }
  }
  return false;
}

function readNumber(bytes: Buffer, first: number, isSingle: boolean): number {
  const isNegative = bytes[first] === MINUS;
  let at = isNegative ? first + 1 : first;
  const whole = at;
  let byte = bytes[at] as number;
  let digits = 0;
  for (; byte >= ZERO && byte <= NINE; byte = bytes[++at] as number) digits = digits * 10 + (byte - ZERO);
  let length = at - whole;
  next = -1;
  // No digit, or a zero in front of others.
  if (length === 0 || (length > 1 && bytes[whole] === ZERO)) return 0;
  let power = 0;
  if (byte === POINT) {
    const point = at;
    byte = bytes[++at] as number;
    for (; byte >= ZERO && byte <= NINE; byte = bytes[++at] as number) digits = digits * 10 + (byte - ZERO);
    power = point + 1 - at;
    if (power === 0) return 0;
    length -= power;
  }
  if ((byte | 0x20) === 0x65) {
    const end = exponentEnd(bytes, at + 1);
    if (end < 0) return 0;
    power += Number(bytes.toString('latin1', at + 1, end));
    at = end;
  }
  next = at;
  if (digits < EXACT && power <= 0 && power >= -EXACT_POWER) {
    const value = digits / (POWERS[-power] as number);
    return isNegative ? -value : value;
  }
  return hardNumber(bytes, first, at, digits, length, power, isSingle);
}

/** Just past the exponent that begins at `at`, after its `e`; -1: there is none. */
function exponentEnd(bytes: Buffer, at: number): number {
  let end = bytes[at] === MINUS || bytes[at] === 0x2b ? at + 1 : at;
  const first = end;
  while ((bytes[end] as number) >= ZERO && (bytes[end] as number) <= NINE) end += 1;
  return end === first ? -1 : end;
}

/** More digits or powers than a double has room for. */
function hardNumber(
  bytes: Buffer,
  first: number,
  end: number,
  digits: number,
  length: number,
  power: number,
  isSingle: boolean,
): number {
  const size = Math.abs(power);
  if (isSingle && length <= NEAR_DIGITS && size < POWERS.length) {
    const scale = POWERS[size] as number;
    const near = power < 0 ? digits / scale : digits * scale;
    if (fround(near * (1 - NEAR)) === fround(near * (1 + NEAR))) return bytes[first] === MINUS ? -near : near;
  }
  return Number(bytes.toString('latin1', first, end));
}
