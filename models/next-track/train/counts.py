"""Statistics of the past as log probabilities: what the counting member of the model weighs.

A snapshot is taken at a date and holds only what came before it. A training row sees a snapshot from before
its own year, so the weights that are learned are those for predicting a future from counts, not for repeating
a past.
"""
from dataclasses import dataclass

import torch

from data import FIRST_SONG, POSITIONS, SETS

# (how many songs back, half-life of the counts in years, songs' worth of prior). Recent counts follow the
# repertoire, longer ones have more to count.
FOLLOWS = ((1, 1.5, 4.0), (1, 5.0, 2.0), (2, 4.0, 4.0), (3, 4.0, 6.0))
POPULARITY_HALF_LIVES = (1.0, 3.0)
FEATURES = len(FOLLOWS) + 1 + len(POPULARITY_HALF_LIVES) + 1
FLOOR = 1e-6  # keeps the logarithms finite


@dataclass
class Snapshot:
    """All in log space, rounded to float16, as the model file stores them. V is the number of ids."""

    follows: list[torch.Tensor]  # [V, V] each: log P(next | song so many places back)
    slot: torch.Tensor  # [SETS * POSITIONS, V]: log P(song | set, position), unknown ones summed over
    popularity: torch.Tensor  # [2, V]
    lift: torch.Tensor  # [V, V]: how much likelier a song gets once another was played at any place before

    def features(self, songs, set_number, position, played):
        """[batch, FEATURES, V] for histories [batch, HISTORY]; `played` is the multi-hot [batch, V]."""
        columns = [table[songs[:, -back]].float() for table, (back, _, _) in zip(self.follows, FOLLOWS)]
        columns.append(self.slot[set_number * POSITIONS + position].float())
        popularity = self.popularity.float()
        columns += [popularity[i].expand_as(columns[0]) for i in range(len(POPULARITY_HALF_LIVES))]
        columns.append(played @ self.lift.float())
        return torch.stack(columns, 1)


def take_snapshot(rows, end, count):
    """Counts the rows before `end` (a year), the recent ones more."""
    past = rows.pick(rows.year < end)
    index = past.target
    age = (end - past.year).float()

    def weights(half_life):
        return 0.5 ** (age / half_life)

    def count_by(key, keys, half_life):
        flat = torch.zeros(keys * count).index_add(0, key * count + index, weights(half_life))
        return flat.reshape(keys, count)

    def share(counts, prior):
        return (counts + prior * base) / (counts.sum(-1, keepdim=True) + prior)

    everything = torch.zeros_like(index)
    base = count_by(everything, 1, 3.0)[0] + 0.3 * count_by(everything, 1, 8.0)[0]
    base = torch.where(base > 0, base + 1e-3, 0.0)
    base = base / base.sum()

    follows = []
    for back, half_life, prior in FOLLOWS:
        follows.append(torch.log(share(count_by(past.songs[:, -back], count, half_life), prior) + FLOOR))

    slot = count_by(past.set * POSITIONS + past.position, SETS * POSITIONS, 3.0)
    slot = slot.reshape(SETS, POSITIONS, count)
    slot[0] = slot.sum(0)
    slot[:, 0] = slot.sum(1)
    slot = torch.log(share(slot, 8.0) + FLOOR).reshape(SETS * POSITIONS, count)

    popularity = torch.cat([count_by(everything, 1, half_life) for half_life in POPULARITY_HALF_LIVES])
    popularity = torch.log(share(popularity, 5.0) + FLOOR)

    played = multi_hot(past.songs, count)
    weighted = weights(4.0)[:, None]
    together = played.T @ (torch.nn.functional.one_hot(index, count) * weighted)
    seen = (played * weighted).sum(0)[:, None]
    lift = torch.log((together + 20 * base) / (seen + 20) / (base + FLOOR) + 1e-3)
    lift = torch.where(base > 0, lift, 0.0)
    lift[:FIRST_SONG] = 0.0
    halves = [table.half() for table in (*follows, slot, popularity, lift)]
    return Snapshot(halves[:len(FOLLOWS)], *halves[len(FOLLOWS):])


def multi_hot(songs, count):
    """[batch, count]: 1 where a song was played; padding and unknown songs are no columns of it."""
    played = torch.zeros(songs.shape[0], count).scatter(1, songs, 1.0)
    return played * (torch.arange(count) >= FIRST_SONG)
