"""The model: two small networks and a weighing of counts, pooled as log probabilities."""
import torch
from torch import nn

from counts import FEATURES, FOLLOWS, Snapshot, multi_hot
from data import FIRST_SONG, HISTORY, POSITIONS, SETS, UNKNOWN

TOP = 10
MASKED = -1e4  # far below any score, finite so that nothing turns into NaN
RECENT = 4  # songs whose order counts; the others enter as a sum


class Context(nn.Module):
    """What is known of the session as one vector [batch, hidden]."""

    def __init__(self, count, width, hidden, dropout, input_dropout):
        super().__init__()
        self.song = nn.Embedding(count, width)
        nn.init.normal_(self.song.weight, 0, 0.1)
        self.set = nn.Embedding(SETS, 16)
        self.position = nn.Embedding(POSITIONS, 16)
        self.length = nn.Embedding(HISTORY + 1, 16)
        self.input_dropout = nn.Dropout(input_dropout)
        self.layers = nn.Sequential(
            nn.Linear(width * (RECENT + 1) + 48, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout),
        )

    def forward(self, songs, set_number, position):
        present = songs > 0
        length = present.sum(1)
        embedded = self.song(songs) * present[..., None]
        total = embedded.sum(1) / torch.sqrt(length[:, None] + 1.0)
        recent = embedded[:, -RECENT:].flatten(1)
        heard = self.input_dropout(torch.cat([recent, total], 1))
        parts = [heard, self.set(set_number), self.position(position), self.length(length)]
        return self.layers(torch.cat(parts, 1))


class Network(nn.Module):
    """Learns songs from scratch; sees no counts."""

    def __init__(self, count, width=48, hidden=192, dropout=0.5, input_dropout=0.2):
        super().__init__()
        self.context = Context(count, width, hidden, dropout, input_dropout)
        self.out = nn.Linear(hidden, count)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, songs, set_number, position, played, snapshot):
        return self.out(self.context(songs, set_number, position))


class Weighing(nn.Module):
    """Learns how far to trust each count, given the session; the counts themselves come with the snapshot."""

    def __init__(self, count, width=32, hidden=96, dropout=0.3, input_dropout=0.2):
        super().__init__()
        self.context = Context(count, width, hidden, dropout, input_dropout)
        self.gate = nn.Linear(hidden, FEATURES)
        nn.init.zeros_(self.gate.weight)
        with torch.no_grad():  # a sensible mixture to start from: mostly first-order transitions
            self.gate.bias.copy_(torch.tensor([0.3, 0.2, 0.1, 0.05, 0.3, 0.1, 0.0, 0.1]))

    def forward(self, songs, set_number, position, played, snapshot):
        gate = self.gate(self.context(songs, set_number, position))
        features = snapshot.features(songs, set_number, position, played)
        return (gate[:, :, None] * features).sum(1)


class NextTrack(nn.Module):
    """The graph that is served: members, weights and counts of one date.

    songs int64 [batch, 32], set int64 [batch, 1], position int64 [batch, 1]
    -> ids int64 [batch, 10] best first, probabilities float32 [batch, 10].
    """

    def __init__(self, members, weights, snapshot, allowed, temperature=1.0):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights = list(weights)
        self.temperature = temperature
        for i, table in enumerate(snapshot.follows):
            self.register_buffer(f'follows{i}', table)
        self.register_buffer('slot', snapshot.slot)
        self.register_buffer('popularity', snapshot.popularity)
        self.register_buffer('lift', snapshot.lift)
        self.register_buffer('allowed', allowed)  # bool [V]: songs that exist at this date

    def scores(self, songs, set_number, position):
        """Log probabilities over all ids [batch, V]; what was played and what is no song are masked out."""
        set_number = set_number[:, 0].clamp(0, SETS - 1)
        position = position[:, 0].clamp(0, POSITIONS - 1)
        count = self.allowed.shape[0]
        # An id from nowhere is an unknown song: a lookup outside a table would fail the whole batch.
        songs = torch.where((songs < 0) | (songs >= count), UNKNOWN, songs)
        played = multi_hot(songs, count)
        follows = [getattr(self, f'follows{i}') for i in range(len(FOLLOWS))]
        snapshot = Snapshot(follows, self.slot, self.popularity, self.lift)
        open_songs = self.allowed & (played == 0)
        pooled = 0
        for member, weight in zip(self.members, self.weights):
            score = torch.where(open_songs, member(songs, set_number, position, played, snapshot), MASKED)
            pooled = pooled + weight * torch.log_softmax(score, 1)
        pooled = torch.where(open_songs, pooled / self.temperature, MASKED)
        return torch.log_softmax(pooled, 1)

    def forward(self, songs, set_number, position):
        best = torch.topk(torch.softmax(self.scores(songs, set_number, position), 1), TOP)
        return best.indices, best.values


def allowed_songs(first_played, end):
    """Songs played before `end`; the ids below FIRST_SONG are never predicted."""
    allowed = first_played < end
    allowed[:FIRST_SONG] = False
    return allowed

