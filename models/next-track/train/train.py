"""Trains next-track, measures it, and writes everything the engine serves.

    python train.py --data DIR [--out DIR] [--quick]

DIR holds setlist_songs.csv.gz. Takes some ten minutes on one core. --quick trains one epoch per member, to
see that all the parts work; give it another --out, or it replaces the model by a poor one.
"""
import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy
import onnx
import onnxruntime
import torch

import card
import check
from data import HISTORY, make_rows, read_shows, vocabulary
from evaluate import baselines, calibration, predict, ranking, where_it_loses
from export import compare, open_session, run, write_golden, write_labels, write_onnx
from fit import RECIPE, describe, fit, seen_by
from transitions import write_transitions

SPLIT, END = 1988, 1994  # the report: fitted before the one, measured from it to the other
SELECTION = 1985  # the recipe was chosen by fitting before this year and measuring up to SPLIT


def main():
    options = parse()
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    torch.use_deterministic_algorithms(True)
    began = time.monotonic()
    recipe = tuple(replace(m, epochs=1) for m in RECIPE) if options.quick else RECIPE

    def say(text):
        print(f'[{time.monotonic() - began:4.0f} s] {text}', flush=True)

    shows = read_shows(options.data)
    titles = vocabulary(shows)
    rows = make_rows(shows, titles)
    say(f'{len(shows)} shows, {len(rows)} songs played, {len(titles) - 2} titles')

    say(f'1/4 selection figures: before {SELECTION}, measured to {SPLIT - 1}')
    report = {'model': 'next-track', 'data': data_of(shows, rows, titles)}
    report['recipe'] = describe(recipe)
    model = fit(rows, len(titles), SELECTION, say, recipe, temperature=1.0)
    report['selection'] = measure_selection(model, rows, len(titles))

    say(f'2/4 report: before {SPLIT}, measured to {END - 1}')
    model = fit(rows, len(titles), SPLIT, say, recipe)
    report['test'] = measure(model, rows, len(titles), SPLIT, END)
    report['test']['where_it_loses'] = where_it_loses(report['test'])
    say(f'hit@10 {report["test"]["overall"]["next-track"]["hit@10"]}')

    say('3/4 rolling: fitted anew before each test year')
    report['rolling'] = measure_rolling(rows, len(titles), recipe, model.temperature, say)

    say(f'4/4 final fit on everything before {END}')
    model = fit(rows, len(titles), END, say, recipe)
    report['final'] = write_model(model, rows, shows, titles, options.out, say)
    report['versions'] = versions()
    report['quick'] = options.quick
    (options.out / 'train').mkdir(exist_ok=True)
    path = options.out / 'train' / 'report.json'
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    say(f'wrote {path}')
    if (path.parent / 'card.md').exists():  # not where --out is another directory
        card.update(path.parent / 'card.md', report)


def parse():
    parser = argparse.ArgumentParser(description='Trains next-track.')
    parser.add_argument('--data', required=True, type=Path, help='directory with setlist_songs.csv.gz')
    parser.add_argument('--out', type=Path, default=Path(__file__).resolve().parent.parent,
                        help='directory of the model; default: the one this script is in')
    parser.add_argument('--quick', action='store_true', help='one epoch per member')
    options = parser.parse_args()
    if not (options.data / 'setlist_songs.csv.gz').is_file():
        parser.error(f'--data {options.data}: no setlist_songs.csv.gz in it')
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def data_of(shows, rows, titles):
    return {
        'source': 'gdshowsdb, Jeff Smith and contributors, MIT',
        'commit': '2ccd86c1f0db284ed1f3967df17f8defc80a387e',
        'shows': len(shows), 'rows': len(rows), 'titles': len(titles) - 2,
    }


def measure_selection(model, rows, count):
    part = seen_by(rows, count, SELECTION).between(SELECTION, SPLIT)
    ids, _, _ = predict(model, part)
    alone_ids, _, _ = predict(model, part.songs_only())
    figures = {'fitted_before': SELECTION, 'measured_before': SPLIT,
               'next-track': ranking(ids, part.target),
               'next-track songs only': ranking(alone_ids, part.target)}
    for name, baseline in baselines(rows, SELECTION).items():
        figures[name] = ranking(baseline.predict(part), part.target)
    return figures


def measure(model, rows, count, split, end):
    part = seen_by(rows, count, split).between(split, end)
    alone = part.songs_only()
    ids, chances, logs = predict(model, part)
    rankings = {'next-track': ids}
    alone_ids, alone_chances, alone_logs = predict(model, alone)
    rankings['next-track songs only'] = alone_ids
    set_only = replace(part, position=part.position * 0)
    rankings['next-track songs and set'] = predict(model, set_only)[0]
    for kept in (1, 3):
        cut = replace(alone, songs=alone.songs * (torch.arange(HISTORY) >= HISTORY - kept))
        rankings[f'next-track last {kept} only'] = predict(model, cut)[0]
    for name, baseline in baselines(rows, split).items():
        rankings[name] = baseline.predict(part)

    def table(which):
        return {name: ranking(ranked[which], part.target[which]) for name, ranked in rankings.items()}

    known = model.allowed[part.target]
    likely = known & ~part.is_repeat
    first = part.is_first
    year = part.year.floor()
    return {
        'fitted_before': split, 'measured': [split, end - 1],
        'temperature': round(model.temperature, 3),
        'rows': {'all': len(part), 'first_of_show': int(first.sum()),
                 'target_new_since_split': int((~known).sum()),
                 'target_played_before_in_show': int((known & part.is_repeat).sum()),
                 'predictable': int(likely.sum())},
        'note': 'Targets new since the split are misses for all; those played before, for masked rankings.',
        'overall': table(torch.ones_like(known)),
        'without_first_song': table(~first),
        'first_song_only': table(first),
        'predictable_targets_only': table(likely),
        'by_year': {str(y): table(year == y) for y in range(split, end)},
        'by_set': {name: table(part.set == n) for n, name in ((1, '1'), (2, '2'), (3, '3'))},
        'log_loss_predictable': {'next-track': round(-logs[likely].mean().item(), 4),
                                 'next-track songs only': round(-alone_logs[likely].mean().item(), 4)},
        'calibration': calibration(ids, chances, part.target),
        'calibration_songs_only': calibration(alone_ids, alone_chances, alone.target),
    }


def measure_rolling(rows, count, recipe, temperature, say):
    """Each year predicted by a model of everything before it, with the temperature of the fixed split."""
    figures = {}
    totals = {}
    for year in range(SPLIT, END):
        model = fit(rows, count, year, lambda text: None, recipe, temperature=temperature)
        part = seen_by(rows, count, year).between(year, year + 1)
        ids, chances, _ = predict(model, part)
        rankings = {'next-track': ids, 'next-track songs only': predict(model, part.songs_only())[0]}
        for name, baseline in baselines(rows, year).items():
            rankings[name] = baseline.predict(part)
        figures[str(year)] = {name: ranking(ranked, part.target) for name, ranked in rankings.items()}
        reliable = calibration(ids, chances, part.target)
        figures[str(year)]['ece_first_choice'] = reliable['first_choice']['ece']
        figures[str(year)]['mass_in_top_10'] = reliable['mass_in_top_10']
        for name, ranked in rankings.items():
            totals.setdefault(name, []).append((ranked, part.target))
        say(f'{year}: hit@10 {figures[str(year)]["next-track"]["hit@10"]}')
    figures['all'] = {name: ranking(torch.cat([r for r, _ in pairs]), torch.cat([t for _, t in pairs]))
                      for name, pairs in totals.items()}
    return figures


def write_model(model, rows, shows, titles, out, say):
    path = out / '1' / 'model.onnx'
    write_onnx(model, path)
    write_labels(out / 'labels.json', titles)
    session = open_session(path)
    worst, swapped = compare(model, session, rows.pick(slice(-1024, None)))
    write_golden(out / 'golden.json', session, titles, shows)
    if check.check(out):
        raise SystemExit('the golden cases fail on the file they were made from')
    write_transitions(out / 'transitions.json', shows, END)
    speed = {f'batch_{size}': time_batch(session, rows, size) for size in (1, 8, 64, 256)}
    say(f'model.onnx {path.stat().st_size} bytes, at most {worst:.1e} from PyTorch, {speed}')
    return {'fitted_before': END, 'temperature': round(model.temperature, 3), 'bytes': path.stat().st_size,
            'largest_difference_from_pytorch': float(f'{worst:.1e}'), 'ids_that_swapped': swapped,
            'ms_per_row_one_thread': speed}


def time_batch(session, rows, size):
    """Median milliseconds per row, one thread, after warm-up."""
    part = rows.pick(slice(-size, None))
    feeds = part.songs.numpy().reshape(-1, HISTORY), part.set.numpy(), part.position.numpy()
    times = []
    for i in range(220):
        start = time.perf_counter()
        run(session, *feeds)
        if i >= 20:
            times.append(time.perf_counter() - start)
    return round(sorted(times)[len(times) // 2] * 1000 / size, 4)


def versions():
    return {'python': platform.python_version(), 'torch': torch.__version__.split('+')[0],
            'numpy': numpy.__version__, 'onnx': onnx.__version__, 'onnxruntime': onnxruntime.__version__,
            'machine': platform.machine()}


if __name__ == '__main__':
    main()
