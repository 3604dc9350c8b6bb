"""Runs a model file on its golden cases: python check.py [directory of the model]"""
import json
import sys
from pathlib import Path

from export import open_session, run

HERE = Path(__file__).resolve().parent


def check(directory):
    """The number of cases that differ; each is told on stderr."""
    directory = Path(directory)
    version = max((p for p in directory.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    session = open_session(version / 'model.onnx')
    titles = json.loads((directory / 'labels.json').read_text(encoding='utf-8'))
    golden = json.loads((directory / 'golden.json').read_text(encoding='utf-8'))
    wrong = 0
    for i, case in enumerate(golden['cases']):
        inputs, expected = case['inputs'], case['outputs']
        ids, chances = run(session, inputs['songs'], inputs['set'], inputs['position'])
        songs = [titles[j] for j in ids[0]]
        away = max(abs(a - b) for a, b in zip(chances[0].tolist(), expected['probabilities'], strict=True))
        if songs != expected['songs'] or away > golden['tolerance']:
            wrong += 1
            print(f'case {i}: {songs} {chances[0].tolist()}, not {expected}', file=sys.stderr)
    print(f'{version.name}/model.onnx: {len(golden["cases"]) - wrong} passed, {wrong} failed')
    return wrong


if __name__ == '__main__':
    sys.exit(1 if check(sys.argv[1] if len(sys.argv) > 1 else HERE.parent) else 0)
