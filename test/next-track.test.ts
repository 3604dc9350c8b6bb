// The model that comes with the engine, through the whole engine.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { entriesOf, startTestEngine, type TestEngine, threeWays } from './support/engine.ts';

let running: TestEngine;
beforeAll(async () => {
  running = await startTestEngine('models');
});
afterAll(() => running.stop());

interface NextTrack {
  readonly songs: readonly string[];
  readonly probabilities: readonly number[];
}

async function ask(data: Record<string, unknown>): Promise<NextTrack> {
  const { stream, ws, http } = await threeWays(running, 'next-track', data);
  const { songs, probabilities } = stream as NextTrack;
  for (const other of [ws, http] as NextTrack[]) {
    expect(other.songs).toEqual(songs);
    other.probabilities.forEach((p, i) => {
      expect(p).toBeCloseTo(probabilities[i]!, 6);
    });
  }
  return { songs, probabilities };
}

test('ten different songs, likeliest first, none of them played; alike over all three ways', async () => {
  const played = ['Bertha', 'Me And My Uncle'];
  const { songs, probabilities } = await ask({ songs: played });
  expect(new Set(songs).size).toBe(10);
  expect(songs.every((song) => song.length > 1 && !song.startsWith('('))).toBe(true);
  for (const song of played) expect(songs).not.toContain(song);
  expect(probabilities).toEqual([...probabilities].sort((a, b) => b - a));
  const sum = probabilities.reduce((total, p) => total + p, 0);
  expect(sum).toBeGreaterThan(0.1);
  expect(sum).toBeLessThanOrEqual(1);
});

test('what was played, and where, changes the answer', async () => {
  const bare = await ask({ songs: [] });
  const after = await ask({ songs: ['Scarlet Begonias'] });
  // One ran into the other for eighteen years.
  expect(after.songs[0]).toBe('Fire On The Mountain');
  expect(bare.songs).not.toEqual(after.songs);
  const second = await ask({ songs: [], set: 2, position: 1 });
  expect(second.songs).not.toEqual((await ask({ songs: [], set: 1, position: 1 })).songs);
});

test('titles in any case, ids, unknown songs and long sessions are taken', async () => {
  const exact = await ask({ songs: ['Scarlet Begonias'] });
  expect(await ask({ songs: ['scarlet begonias'] })).toEqual(exact);
  expect((await ask({ songs: ['Never Played', 'Scarlet Begonias'] })).songs[0]).toBe('Fire On The Mountain');
  const long = [...Array.from({ length: 60 }, (_, i) => `Song ${i}`), 'Scarlet Begonias'];
  expect((await ask({ songs: long })).songs[0]).toBe('Fire On The Mountain');
});

test.each([
  [{ song: ['Bertha'] }, /^song: /],
  [{}, /^songs: .*(missing|required|must be)/],
  [{ songs: 'Bertha' }, /^songs: must be/],
  [{ songs: ['Bertha', null] }, /^songs\[1\]: /],
  [{ songs: [-1] }, /^songs\[0\]: /],
  [{ songs: ['Bertha'], set: 1.5 }, /^set: /],
  [{ songs: ['Bertha'], position: -1 }, /^position: /],
  [{ songs: Array.from({ length: 513 }, () => 'Bertha') }, /^songs: /],
])('%j is refused with the field and the reason', async (data, detail) => {
  const { client } = running;
  const source = await client.xadd(
    'events',
    '*',
    'key',
    'u',
    'model',
    'next-track',
    'data',
    JSON.stringify(data),
  );
  const letter = async () =>
    (await entriesOf(client, 'deadletters')).find((fields) => String(fields['source']) === source);
  await expect.poll(letter, { timeout: 5000 }).toBeDefined();
  expect(String((await letter())?.['detail'])).toMatch(detail);
});
