// As much of cmsgpack.unpack as the engine's scripts need.

/** What our scripts unpack: MessagePack arrays of strings, one after the other. */
export function unpackColumns(bytes: string): string[][] {
  let at = 0;
  const number = (size: number) => {
    let value = 0;
    for (let i = 0; i < size; i += 1) value = value * 256 + bytes.charCodeAt(at++);
    return value;
  };
  const sizes: Readonly<Record<number, number>> = { 217: 1, 218: 2, 219: 4 };
  const text = () => {
    const head = number(1);
    const isShort = head >= 0xa0 && head < 0xc0;
    const size = sizes[head];
    if (!isShort && size === undefined) throw new Error(`no string begins with 0x${head.toString(16)}`);
    const length = isShort ? head - 0xa0 : number(size as number);
    at += length;
    return bytes.slice(at - length, at);
  };
  const columns: string[][] = [];
  while (at < bytes.length) {
    if (number(1) !== 0xdc) throw new Error('not an array of 16 bits');
    columns.push(Array.from({ length: number(2) }, text));
  }
  return columns;
}
