"""Fits the members of the model on everything before a date."""
import copy
import time
from dataclasses import asdict, dataclass

import torch
from torch import nn

from counts import multi_hot, take_snapshot
from data import HISTORY, PADDING, UNKNOWN, Rows, first_played
from model import MASKED, Network, NextTrack, Weighing, allowed_songs

# Chosen on 1985-87 and on 1982-84, each time fitted on what came before; never on the test years.
FIRST_YEAR = 1972  # rows before it only feed the counts: their repertoire is gone
LAGS = 4  # a training row sees counts that are 0 to 3 years old, as a model in service would
UNKNOWN_BOTH, UNKNOWN_POSITION, UNKNOWN_SET = 0.25, 0.05, 0.05  # shares of rows that lose set or position
UNKNOWN_SONG = 0.05  # share of songs in the history that become unknown
CUT = 0.1  # share of rows that keep only their last songs, one to CUT_SONGS of them
CUT_SONGS = 6
CALIBRATION_YEARS = 3


@dataclass(frozen=True)
class Recipe:
    kind: str  # 'network' or 'weighing'
    weight: float  # in the pool; the weights sum to 1
    half_life: float  # years after which a row counts half
    epochs: int
    weight_decay: float
    seed: int
    learning_rate: float = 3e-3
    batch: int = 128


RECIPE = (
    Recipe('weighing', 0.4, half_life=2.0, epochs=8, weight_decay=0.05, seed=1),
    Recipe('network', 0.3, half_life=1.0, epochs=16, weight_decay=0.2, seed=2),
    Recipe('network', 0.3, half_life=2.0, epochs=16, weight_decay=0.05, seed=3),
)


def describe(recipe=RECIPE):
    return {
        'members': [asdict(member) for member in recipe],
        'first_year': FIRST_YEAR,
        'snapshot_lags_years': list(range(LAGS)),
        'unknown_shares': {
            'set_and_position': UNKNOWN_BOTH, 'position': UNKNOWN_POSITION, 'set': UNKNOWN_SET,
            'songs': UNKNOWN_SONG,
        },
        'cut_share': CUT, 'cut_songs': CUT_SONGS,
        'calibration_years': CALIBRATION_YEARS,
    }


def fit_member(recipe, rows, end, first, snapshots, say):
    """One member, fitted on the rows before `end`. `snapshots` maps a year to the counts before it."""
    torch.manual_seed(recipe.seed)
    random = torch.Generator().manual_seed(recipe.seed)
    count = len(first)
    member = Weighing(count) if recipe.kind == 'weighing' else Network(count)
    groups = batches_by_year(rows, end)
    steps = recipe.epochs * sum(-(-len(group) // recipe.batch) for group in groups.values())
    optimizer = torch.optim.AdamW(member.parameters(), lr=recipe.learning_rate,
                                  weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps + 1,
                                                   pct_start=0.1)
    began = time.monotonic()
    for epoch in range(recipe.epochs):
        batches = []
        for year, group in groups.items():
            shuffled = group[torch.randperm(len(group), generator=random)]
            batches += [(year, batch) for batch in shuffled.split(recipe.batch)]
        total = torch.zeros(2)
        for i in torch.randperm(len(batches), generator=random).tolist():
            year, batch = batches[i]
            lag = int(torch.randint(0, LAGS, (1,), generator=random))
            seen_at = max(FIRST_YEAR, year - lag)
            batch = rows.pick(batch)
            # What cannot be predicted teaches nothing: a repeat is masked, a song newer than the counts is
            # unseen.
            useful = ~batch.is_repeat
            if recipe.kind == 'weighing':
                useful &= first[batch.target] < seen_at
                batch = batch.with_unknown((first >= seen_at) & first.isfinite())
            batch = forget(batch, random)
            played = multi_hot(batch.songs, count)
            score = member(batch.songs, batch.set, batch.position, played, snapshots[seen_at])
            score = score.masked_fill(played > 0, MASKED)
            target = torch.where(useful, batch.target, UNKNOWN)
            weight = useful * 0.5 ** ((end - batch.year) / recipe.half_life).float()
            loss = (nn.functional.cross_entropy(score, target, reduction='none') * weight).sum()
            optimizer.zero_grad()
            (loss / len(batch)).backward()
            nn.utils.clip_grad_norm_(member.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += torch.stack([loss.detach(), weight.sum()])
        say(f'{recipe.kind} {recipe.seed}: epoch {epoch + 1}/{recipe.epochs}, '
            f'loss {total[0] / total[1]:.3f}, {time.monotonic() - began:.0f} s')
    return member.eval()


def batches_by_year(rows, end):
    """Row indices by year: a batch is of one year, so that it shares one snapshot."""
    year = rows.year.floor().long()
    past = rows.year < end
    groups = {y: torch.nonzero((year == y) & past)[:, 0] for y in range(FIRST_YEAR + 1, int(end))}
    return {y: group for y, group in groups.items() if len(group)}


def forget(rows, random):
    """What clients leave out: set and position, the start of the session, songs that the labels lack."""
    draw = torch.rand(len(rows), generator=random)
    both = draw < UNKNOWN_BOTH
    no_position = both | (draw > 1 - UNKNOWN_POSITION)
    no_set = both | ((draw > 1 - UNKNOWN_POSITION - UNKNOWN_SET) & (draw <= 1 - UNKNOWN_POSITION))
    kept = torch.randint(1, CUT_SONGS + 1, (len(rows), 1), generator=random)
    cut = torch.rand(len(rows), 1, generator=random) < CUT
    gone = cut & (torch.arange(HISTORY) < HISTORY - kept)
    songs = rows.songs.masked_fill(gone, PADDING)
    lost = (torch.rand(rows.songs.shape, generator=random) < UNKNOWN_SONG) & (songs > 0)
    return Rows(torch.where(lost, UNKNOWN, songs), rows.set.masked_fill(no_set, 0),
                rows.position.masked_fill(no_position, 0), rows.target, rows.year)


def fit(rows, count, end, say, recipe=RECIPE, temperature=None):
    """The model as of `end` (a whole year). Without a temperature, one is calibrated on the latest years.

    Calibration fits the same recipe a second time, CALIBRATION_YEARS earlier, and looks at the years between:
    probabilities that are right for a model's own past would be too sure of its future.
    """
    if temperature is None:
        start = end - CALIBRATION_YEARS
        say(f'calibration: fit before {start}, temperature from {start} to {end - 1}')
        earlier = fit(rows, count, start, say, recipe, temperature=1.0)
        temperature = calibrate(earlier, seen_by(rows, count, start).between(start, end))
        say(f'temperature {temperature:.3f}')
    past = rows.pick(rows.year < end)
    first = first_played(past, count)
    snapshots = {y: take_snapshot(past, float(y), count) for y in range(FIRST_YEAR, end + 1)}
    members = [fit_member(one, past, end, first, snapshots, lambda text: say(f'before {end}: {text}'))
               for one in recipe]
    weights = [one.weight for one in recipe]
    return NextTrack(members, weights, snapshots[end], allowed_songs(first, end), temperature).eval()


def seen_by(rows, count, end):
    """All rows as a model fitted before `end` sees them: songs first played later are unknown to it."""
    first = first_played(rows, count)
    return rows.with_unknown((first >= end) & first.isfinite())


@torch.no_grad()
def calibrate(model, rows):
    """The temperature under which the ten probabilities fit how often those songs came, with and without set
    and position. Targets that the model cannot know count as misses, as they do for a client."""
    model = copy.deepcopy(model)
    model.temperature = 1.0
    scores, targets = [], []
    for view in (rows, rows.songs_only()):
        scores.append(model.scores(view.songs, view.set[:, None], view.position[:, None]))
        targets.append(view.target)
    scores, targets = torch.cat(scores), torch.cat(targets)
    best, ids = scores.topk(10)
    hit = (ids == targets[:, None]).float()

    def loss(temperature):
        chance = torch.exp(best / temperature - torch.logsumexp(scores / temperature, 1, keepdim=True))
        return nn.functional.binary_cross_entropy(chance.clamp(1e-6, 1 - 1e-6), hit).item()

    return min((0.8 + 0.02 * i for i in range(61)), key=loss)
