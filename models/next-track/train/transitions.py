"""Writes transitions.json: statistics of the latest years, from which the demo's listeners make up shows."""
import json
from collections import Counter, defaultdict

HALF_LIFE = 2.0  # years
YEARS = 8  # older shows weigh too little to matter
TOP = 20
LAST_SET = 3  # sets from the third on (encores, mostly) are told as one
END = ''  # in `next`: the set is over

ABOUT = {
    'what': 'How shows were made up, recent ones weighing more. Summed counts of set lists, not set lists.',
    'source': 'gdshowsdb (MIT), Copyright (c) 2013 Jeff Smith and contributors',
    'sets': 'sets[n] is the probability that a show has n sets; "3" also stands for more.',
    'starts': 'starts[set] lists [song, probability] for the first song of that set, likeliest first.',
    'next': 'next[set][song] lists [song, probability] for what follows; the song "" means that the set '
            'is over. Lists keep the 20 likeliest and sum to less than 1: draw in proportion, and leave out '
            'what the show has had. A song without a list, or with all of it used up, is followed by '
            'fallback[set].',
    'fallback': 'fallback[set] lists [song, probability] for any place in that set.',
    'longest': 'longest[set] is the longest that set was: end it there at the latest.',
}


def write_transitions(path, shows, end):
    sets, longest, follows = Counter(), Counter(), {}
    starts, anywhere = defaultdict(Counter), defaultdict(Counter)
    for show in shows:
        if not end - YEARS <= show.year < end:
            continue
        weight = 0.5 ** ((end - show.year) / HALF_LIFE)
        by_set = defaultdict(list)
        for number, _, title in show.songs:
            by_set[min(number, LAST_SET)].append(title)
        sets[min(len(by_set), LAST_SET)] += weight
        for number, songs in by_set.items():
            starts[number][songs[0]] += weight
            longest[number] = max(longest[number], len(songs))
            for song, after in zip(songs, [*songs[1:], END]):
                follows.setdefault(number, defaultdict(Counter))[song][after] += weight
                anywhere[number][song] += weight
    document = {
        'about': ABOUT,
        'sets': {str(n): p for n, p in sorted(shares(sets, TOP))},
        'starts': {str(n): shares(starts[n], 60) for n in sorted(starts)},
        'next': {str(n): {song: shares(after, TOP) for song, after in sorted(follows[n].items())}
                 for n in sorted(follows)},
        'fallback': {str(n): shares(anywhere[n], 40) for n in sorted(anywhere)},
        'longest': {str(n): longest[n] for n in sorted(longest)},
    }
    text = json.dumps(document, ensure_ascii=False, separators=(',', ':'))
    # A line per song keeps the file readable and its diffs small.
    text = text.replace('"about":{', '\n"about":{').replace('}},"', '}},\n"').replace(']],"', ']],\n"')
    json.loads(text)
    path.write_text(text + '\n', encoding='utf-8')


def shares(counts, top):
    total = sum(counts.values())
    kept = [(name, round(weight / total, 4)) for name, weight in counts.most_common(top)]
    return [[name, share] for name, share in kept if share > 0]
