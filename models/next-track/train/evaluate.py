"""Measures a ranking against what was played, and the baselines beside it."""
from collections import Counter, defaultdict

import torch

TOP = 10


@torch.no_grad()
def predict(model, rows):
    """ids [rows, 10], probabilities [rows, 10] and the log probability of each target."""
    ids, chances, logs = [], [], []
    for start in range(0, len(rows), 512):
        part = rows.pick(slice(start, start + 512))
        scores = model.scores(part.songs, part.set[:, None], part.position[:, None])
        best = torch.topk(torch.exp(scores), TOP)
        ids.append(best.indices)
        chances.append(best.values)
        logs.append(scores.gather(1, part.target[:, None])[:, 0])
    return torch.cat(ids), torch.cat(chances), torch.cat(logs)


def ranking(ids, targets):
    """hit@1, @5, @10 and the mean reciprocal rank within the top ten (0 for a target outside it)."""
    if len(targets) == 0:
        return {'rows': 0}
    hit = ids == targets[:, None]
    reciprocal = (hit / torch.arange(1, TOP + 1)).sum(1)
    figures = {f'hit@{k}': hit[:, :k].any(1).float().mean().item() for k in (1, 5, 10)}
    return {'rows': len(targets), **rounded(figures), 'mrr_top10': round(reciprocal.mean().item(), 4)}


def calibration(ids, chances, targets, bins=10):
    """Reliability of the first choice, and of all ten together. Targets outside the labels are misses."""
    hit = (ids == targets[:, None]).float()
    top_error, top_bins = reliability(chances[:, 0], hit[:, 0], [i / bins for i in range(bins + 1)])
    edges = [0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4, 0.7, 1]
    all_error, all_bins = reliability(chances.flatten(), hit.flatten(), edges)
    return {
        'first_choice': {'ece': top_error, 'bins': top_bins},
        'all_ten': {'ece': all_error, 'bins': all_bins},
        'mass_in_top_10': {'predicted': round(chances.sum(1).mean().item(), 4),
                           'observed': round(hit.sum(1).mean().item(), 4)},
    }


def reliability(chance, hit, edges):
    error, table = 0.0, []
    for low, high in zip(edges, edges[1:]):
        inside = (chance > low) & (chance <= high)
        n = int(inside.sum())
        if n == 0:
            continue
        predicted, observed = chance[inside].mean().item(), hit[inside].mean().item()
        error += n / len(chance) * abs(predicted - observed)
        table.append({'from': low, 'to': high, 'count': n, 'predicted': round(predicted, 4),
                      'observed': round(observed, 4)})
    return round(error, 4), table


def rounded(figures):
    return {name: round(value, 4) for name, value in figures.items()}


def where_it_loses(test):
    """Every figure of measured rows at which a baseline is at least as good as the model, worst first."""
    parts = {name: test[name] for name in ('overall', 'without_first_song', 'first_song_only')}
    parts |= {f'year {year}': part for year, part in test['by_year'].items()}
    parts |= {f'set {number}': part for number, part in test['by_set'].items()}
    losses = []
    for part_name, part in parts.items():
        ours = {name: figures for name, figures in part.items() if name.startswith('next-track')}
        theirs = {name: figures for name, figures in part.items() if name not in ours}
        for metric in ('hit@1', 'hit@5', 'hit@10', 'mrr_top10'):
            best = max(theirs, key=lambda name: theirs[name][metric])
            for name, figures in ours.items():
                gap = round(theirs[best][metric] - figures[metric], 4)
                if gap >= 0:
                    losses.append({'rows': part_name, 'model': name, 'metric': metric, 'by': gap,
                                   'figure': figures[metric], 'baseline': best,
                                   'baseline_figure': theirs[best][metric]})
    return sorted(losses, key=lambda loss: -loss['by'])


class Markov:
    """First-order transitions counted from `start` to `end`, the first song after a start token; filled up to
    ten by popularity. With `masked`, songs that were played drop out, which is the stronger baseline."""

    def __init__(self, rows, start, end, masked=True, order=1):
        self.masked = masked
        self.order = order
        self.follows = defaultdict(Counter)
        self.popular = Counter()
        past = rows.between(start, end)
        for previous, target in zip(past.songs[:, -1].tolist(), past.target.tolist()):
            self.follows[previous][target] += 1
            self.popular[target] += 1
        self.ranked = {song: [s for s, _ in c.most_common()] for song, c in self.follows.items()}
        self.ranked_popular = [s for s, _ in self.popular.most_common(TOP + 40)]

    def predict(self, rows):
        out = []
        for history in rows.songs.tolist():
            played = set(history) if self.masked else ()
            likely = self.ranked.get(history[-1], []) if self.order else []
            best = [song for song in likely if song not in played][:TOP]
            for song in self.ranked_popular:
                if len(best) == TOP:
                    break
                if song not in best and song not in played:
                    best.append(song)
            out.append(best)
        return torch.tensor(out)


def baselines(rows, split):
    """Rankings by name, each counted before `split`."""
    return {
        'popularity': Markov(rows, 0, split, order=0),
        'popularity_unmasked': Markov(rows, 0, split, masked=False, order=0),
        'markov_all_years': Markov(rows, 0, split),
        'markov_all_years_unmasked': Markov(rows, 0, split, masked=False),
        'markov_four_years': Markov(rows, split - 4, split),
        'markov_four_years_unmasked': Markov(rows, split - 4, split, masked=False),
    }
