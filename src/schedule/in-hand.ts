/** Which entries have a row, by their ids. Looks at every row: for what is rare. */
import { type Batch, ID_BYTES_MAX } from './batch.ts';
import type { Lane } from './batcher.ts';

export function isInHand(lanes: readonly Lane<Batch>[], stream: number, id: string): boolean {
  const wanted = Buffer.from(id, 'latin1');
  for (const lane of lanes) {
    for (const { rows, origin, ids, idBytes } of lane.all) {
      for (let row = 0; row < rows; row += 1) {
        if (origin[row] !== stream || idBytes[row] !== wanted.length) continue;
        const at = row * ID_BYTES_MAX;
        // Ids differ at their ends.
        let left = wanted.length - 1;
        while (left >= 0 && ids[at + left] === wanted[left]) left -= 1;
        if (left < 0) return true;
      }
    }
  }
  return false;
}

/** Those that a worker has. */
export function runningIds(lanes: readonly Lane<Batch>[], stream: number): string[] {
  const found: string[] = [];
  for (const { all } of lanes) {
    for (const batch of all) {
      if (!batch.running) continue;
      for (let row = 0; row < batch.live; row += 1) {
        if (batch.origin[row] === stream) found.push(batch.id(row));
      }
    }
  }
  return found;
}
