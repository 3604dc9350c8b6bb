/**
 * Edits from one word to the other: insert, remove, replace, swap two neighbours ("prot" for "port" is one).
 */
function distance(left: string, right: string): number {
  const first = Array.from({ length: right.length + 1 }, (_, column) => column);
  const rows = [first];
  for (let i = 1; i <= left.length; i++) {
    const row = [i];
    const above = rows[i - 1]!;
    for (let j = 1; j <= right.length; j++) {
      const replaced = above[j - 1]! + (left[i - 1] === right[j - 1] ? 0 : 1);
      row.push(Math.min(replaced, above[j]! + 1, row[j - 1]! + 1));
      const isSwap = left[i - 1] === right[j - 2] && left[i - 2] === right[j - 1];
      if (i > 1 && j > 1 && isSwap) row[j] = Math.min(row[j]!, rows[i - 2]![j - 2]! + 1);
    }
    rows.push(row);
  }
  return rows[left.length]![right.length]!;
}

/** The known word that was most likely meant, if one is near: a third of its letters may differ. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  // Nobody mistypes a word this long; the cost is quadratic and the word may come from a client.
  if (word.length > 64) return undefined;
  let best: string | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const edits = distance(word.toLowerCase(), candidate.toLowerCase());
    if (edits < bestDistance && edits <= Math.max(1, Math.floor(candidate.length / 3))) {
      best = candidate;
      bestDistance = edits;
    }
  }
  return best;
}
