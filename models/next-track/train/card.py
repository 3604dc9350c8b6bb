"""Writes the figures of report.json into card.md, between its two marks: python card.py"""
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
START, END = '<!-- figures: written by card.py -->', '<!-- end -->'
NAMES = {
    'next-track': '**next-track**',
    'next-track songs and set': 'next-track, place unknown',
    'next-track songs only': 'next-track, set and place unknown',
    'next-track last 3 only': 'next-track, only the last 3 songs',
    'next-track last 1 only': 'next-track, only the last song',
    'markov_four_years': 'Markov, the four years before',
    'markov_all_years': 'Markov, all years',
    'popularity': 'popularity',
}
SHORT = ('next-track', 'next-track songs only', 'markov_four_years')
METRICS = ('hit@1', 'hit@5', 'hit@10', 'mrr_top10')


def update(card, report):
    text = card.read_text(encoding='utf-8')
    before, rest = text.split(START)
    after = rest.split(END)[1]
    card.write_text(f'{before}{START}\n\n{figures(report)}\n{END}{after}', encoding='utf-8')


def figures(report):
    test, rolling, final = report['test'], report['rolling'], report['final']
    overall = test['overall']
    lines = table(('', *METRICS),
                  [(label, *(f'{overall[name][m]:.3f}' for m in METRICS)) for name, label in NAMES.items()])
    lines.append('')
    parts = [(f'all ({test["rows"]["all"]} rows)', overall)]
    parts += [(f'{label} ({test[key]["next-track"]["rows"]})', test[key]) for label, key in (
        ('without the first song', 'without_first_song'), ('first song of the show', 'first_song_only'),
        ('what can be predicted at all', 'predictable_targets_only'))]
    parts += [(f'{year} ({part["next-track"]["rows"]})', part) for year, part in test['by_year'].items()]
    lines += table(('hit@10', *(NAMES[name] for name in SHORT)), [hits(label, part) for label, part in parts])
    lines.append('')
    lines += table(('hit@10, fitted anew before each year', *(NAMES[name] for name in SHORT)),
                   [hits(label, part) for label, part in rolling.items()])
    lines.append('')
    known, alone = test['calibration'], test['calibration_songs_only']
    loss = test['log_loss_predictable']
    mass = known['mass_in_top_10']
    speed = final['ms_per_row_one_thread']
    years = [part['ece_first_choice'] for label, part in rolling.items() if label != 'all']
    lines += [
        f'- Calibration (ECE) of the first choice: {known["first_choice"]["ece"]:.3f}, with songs only '
        f'{alone["first_choice"]["ece"]:.3f}; of all ten: {known["all_ten"]["ece"]:.4f}. '
        f'The ten sum to {mass["predicted"]:.3f} on average and held the song in {mass["observed"]:.3f} of '
        f'the rows. Fitted anew each year, ECE of the first choice is {min(years):.3f} to {max(years):.3f}.',
        f'- Log loss where the song could be predicted: {loss["next-track"]:.3f} nats, '
        f'with songs only {loss["next-track songs only"]:.3f}.',
        f'- File: {final["bytes"] / 1e6:.2f} MB. On one thread of the machine it was trained on, per row: '
        + ', '.join(f'{ms:.3f} ms at {name.replace("_", " ")}' for name, ms in speed.items())
        + f'. At most {final["largest_difference_from_pytorch"]} away from PyTorch.',
        '',
    ]
    return '\n'.join(lines)


def hits(label, part):
    return label, *(f'{part[name]["hit@10"]:.3f}' for name in SHORT)


def table(head, rows):
    return [f'| {" | ".join(row)} |' for row in (head, ['---'] + ['---:'] * (len(head) - 1), *rows)]


if __name__ == '__main__':
    update(HERE / 'card.md', json.loads((HERE / 'report.json').read_text(encoding='utf-8')))
