/**
 * A session's songs to the model's row, and its ten ids back to titles.
 *
 * An event holds `songs` (titles or ids, oldest first) and may hold `set` and `position`: of the song to
 * come, from 1, with 0 for unknown. The model looks back on 32 songs: of a longer session it gets those.
 */
import { type Handler, type HandlerModel, InvalidEvent, type RowCodec } from '../../src/infer/handler.ts';

const HISTORY = 32;
/** A session this long is a client that never starts a new one: its events only get larger. */
const SONGS_MAX = 512;
const UNKNOWN = 1;
const FIELDS = ['songs', 'set', 'position'] as const;

export const handler: Handler = {
  fields: [
    { name: 'songs', dtype: 'string', shape: [-1] },
    { name: 'set', dtype: 'int64', shape: [], default: 0 },
    { name: 'position', dtype: 'int64', shape: [], default: 0 },
  ],
  predicts: [
    { name: 'songs', dtype: 'string', shape: [10] },
    { name: 'probabilities', dtype: 'float32', shape: [10] },
  ],

  create(model: HandlerModel): RowCodec {
    const titles = model.labels['songs_next'];
    if (titles === undefined) throw new Error('model.yaml: the output songs_next needs labels: labels.json');
    const ids = new Map<string, number>();
    const idsFolded = new Map<string, number>();
    titles.forEach((title, id) => {
      if (id <= UNKNOWN) return; // padding and the unknown song are no titles
      ids.set(title, id);
      idsFolded.set(title.toLowerCase(), id);
    });

    function idOf(song: unknown, at: number): number {
      if (typeof song === 'string') return ids.get(song) ?? idsFolded.get(song.toLowerCase()) ?? UNKNOWN;
      const id = typeof song === 'bigint' ? Number(song) : song;
      if (typeof id !== 'number') throw new InvalidEvent(`songs[${at}]`, 'must be a title or an id');
      if (!Number.isSafeInteger(id) || id < UNKNOWN) {
        throw new InvalidEvent(`songs[${at}]`, `must be a title or a whole id from ${UNKNOWN}, got ${id}`);
      }
      return id < titles!.length ? id : UNKNOWN;
    }

    return {
      decode(data, row) {
        for (const name of Object.keys(data)) {
          if (!(FIELDS as readonly string[]).includes(name)) {
            const shown = name.length > 64 ? `${name.slice(0, 61)}...` : name;
            throw new InvalidEvent(shown, `is not a field of this model; it has ${FIELDS.join(', ')}`);
          }
        }
        const { songs } = data;
        if (!Array.isArray(songs)) throw new InvalidEvent('songs', 'must be a list of titles or ids');
        if (songs.length > SONGS_MAX) {
          throw new InvalidEvent('songs', `must be at most ${SONGS_MAX} songs, got ${songs.length}`);
        }
        const history = row['songs'] as BigInt64Array;
        history.fill(0n);
        // All are checked, though only the last 32 count: a client's mistake should not come and go.
        const pad = HISTORY - songs.length;
        songs.forEach((song: unknown, at) => {
          const id = idOf(song, at);
          if (at + pad >= 0) history[at + pad] = BigInt(id);
        });
        (row['set'] as BigInt64Array)[0] = placeOf(data, 'set');
        (row['position'] as BigInt64Array)[0] = placeOf(data, 'position');
      },

      encode(outputs) {
        const best = outputs['songs_next'] as BigInt64Array;
        const chances = outputs['probabilities'] as Float32Array;
        return {
          songs: Array.from(best, (id) => titles[Number(id)] ?? ''),
          // Past six digits a float32 says nothing, and as a double it prints seventeen.
          probabilities: Array.from(chances, (chance) => Math.round(chance * 1e6) / 1e6),
        };
      },
    };
  },
};

/** A whole number from 0; missing or null is 0, unknown. The graph takes large ones as its last place. */
function placeOf(data: Record<string, unknown>, name: 'set' | 'position'): bigint {
  const value = data[name] ?? 0;
  if (typeof value === 'bigint' && value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER)) return value;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return BigInt(value);
  const got = typeof value === 'number' || typeof value === 'bigint' ? value : typeof value;
  throw new InvalidEvent(name, `must be a whole number of at least 0, got ${got}`);
}
