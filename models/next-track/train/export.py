"""Writes the fitted model as one ONNX graph, its labels, and the golden cases the engine checks at load."""
import json
import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import torch

from data import FIRST_SONG, HISTORY, PADDING, UNKNOWN

OPSET = 20
CLOSE = 1e-6  # some ten times what float32 sums differ by
TOLERANCE = 1e-4  # on probabilities, between PyTorch and ONNX Runtime and between machines


def write_onnx(model, path):
    """Exports with a free batch dimension and checks the file; it loads without any other file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    example = (torch.zeros(3, HISTORY, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64),
               torch.zeros(3, 1, dtype=torch.int64))
    batch = torch.export.Dim('batch', min=1, max=4096)
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the three inputs share their batch dimension, as they should
        program = torch.onnx.export(
            model, example, dynamo=True, opset_version=OPSET, verbose=False, external_data=False,
            input_names=['songs', 'set', 'position'], output_names=['songs_next', 'probabilities'],
            dynamic_shapes={'songs': {0: batch}, 'set_number': {0: batch}, 'position': {0: batch}},
        )
    proto = program.model_proto
    for node in proto.graph.node:  # where in our sources each node came from: noise that differs by machine
        del node.metadata_props[:]
        node.doc_string = ''
    for value in proto.graph.value_info:
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def run(session, songs, set_number, position):
    feeds = {'songs': np.asarray(songs, np.int64).reshape(-1, HISTORY),
             'set': np.asarray(set_number, np.int64).reshape(-1, 1),
             'position': np.asarray(position, np.int64).reshape(-1, 1)}
    return session.run(['songs_next', 'probabilities'], feeds)


@torch.no_grad()
def compare(model, session, rows):
    """The largest difference in probability between PyTorch and the file over several batch sizes, and how
    many places hold another id: neighbours with the same chance to the last digit may swap."""
    worst, swapped = 0.0, 0
    start = 0
    for size in (1, 2, 7, 64, 512):
        part = rows.pick(slice(start, start + size))
        start += size
        columns = part.songs, part.set[:, None], part.position[:, None]
        ids, chances = (tensor.numpy() for tensor in model(*columns))
        got_ids, got_chances = run(session, *(column.numpy() for column in columns))
        worst = max(worst, float(np.abs(chances - got_chances).max()))
        swapped += int((ids != got_ids).sum())
    if worst > TOLERANCE:
        raise SystemExit(f'the ONNX file is {worst:.2e} away from PyTorch; at most {TOLERANCE:.0e} is right')
    return worst, swapped


def encode_history(songs, ids):
    """What handler.ts does: the last 32 titles as ids, left-padded."""
    history = [ids.get(title, UNKNOWN) for title in songs[-HISTORY:]]
    return [PADDING] * (HISTORY - len(history)) + history


def golden_cases(short, long):
    """Events as clients send them. `short` and `long` are songs of a show; `long` is more than HISTORY."""
    return [
        {'songs': []},
        {'songs': [], 'set': 1, 'position': 1},
        {'songs': ['Bertha', 'Me And My Uncle'], 'set': 1, 'position': 3},
        {'songs': ['Bertha', 'Me And My Uncle']},
        {'songs': ['Scarlet Begonias'], 'set': 2, 'position': 2},
        {'songs': ['A Song Nobody Has Played', 'China Cat Sunflower'], 'set': 2, 'position': 3},
        {'songs': ['A Song Nobody Has Played']},
        {'songs': short[:-1]},
        {'songs': short[:-3], 'set': 2, 'position': 6},
        {'songs': short, 'set': 3, 'position': 1},
        {'songs': long, 'set': 3, 'position': 2},
        {'songs': ['Drums', 'Space'], 'set': 9, 'position': 400},
    ]


def write_golden(path, session, titles, shows):
    ids = {title: index for index, title in enumerate(titles)}
    whole = [[title for _, _, title in show.songs] for show in shows]
    long = max(whole, key=len)
    if len(long) <= HISTORY:
        raise SystemExit('no show is long enough for the golden case of a long session')
    cases = []
    for data in golden_cases(whole[-1], long):
        songs = encode_history(data['songs'], ids)
        set_number, position = data.get('set', 0), data.get('position', 0)
        best, chances = run(session, songs, set_number, position)
        if best.min() < FIRST_SONG or set(best[0].tolist()) & set(songs):
            raise SystemExit(f'{data}: predicted what is no song, or was played')
        if (np.diff(chances[0]) > -CLOSE).any():
            continue  # on another machine the two could come the other way round
        cases.append({
            'data': data,
            'inputs': {'songs': songs, 'set': [set_number], 'position': [position]},
            'outputs': {'songs': [titles[i] for i in best[0]],
                        'probabilities': [round(float(chance), 7) for chance in chances[0]]},
        })
    path.write_text(one_line_each({'tolerance': TOLERANCE, 'cases': cases}, 'cases'), encoding='utf-8')


def one_line_each(document, key):
    """JSON with the entries of one list on a line each: readable, and a refit shows what moved."""
    rest = {name: value for name, value in document.items() if name != key}
    head = json.dumps(rest, ensure_ascii=False)[:-1]
    lines = ',\n'.join('  ' + json.dumps(entry, ensure_ascii=False) for entry in document[key])
    return f'{head}, "{key}": [\n{lines}\n]}}\n'


def write_labels(path, titles):
    path.write_text('[\n' + ',\n'.join(json.dumps(title, ensure_ascii=False) for title in titles) + '\n]\n',
                    encoding='utf-8')
