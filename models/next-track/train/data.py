"""Reads the set lists and turns them into training rows.

A row is one song that was played: what came before it in the show, its set and position, and the song.
"""
import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import torch

HISTORY = 32  # songs the model looks back on; one show in a hundred is longer
SETS = 5  # 0 = unknown, 1, 2, 3, and 4 for everything later (119 rows of 37,326)
POSITIONS = 21  # 0 = unknown, 1..19, and 20 for everything later
PADDING, UNKNOWN, FIRST_SONG = 0, 1, 2


@dataclass
class Show:
    year: float  # 1977.5 is the middle of 1977
    songs: list[tuple[int, int, str]]  # (set, position in the set, title), in the order played


@dataclass
class Rows:
    """Columns; every tensor has one entry per row, `songs` is [rows, HISTORY]."""

    songs: torch.Tensor
    set: torch.Tensor
    position: torch.Tensor
    target: torch.Tensor
    year: torch.Tensor  # float64

    def __len__(self):
        return len(self.target)

    def pick(self, which):
        return Rows(self.songs[which], self.set[which], self.position[which], self.target[which],
                    self.year[which])

    def between(self, start, end):
        return self.pick((self.year >= start) & (self.year < end))

    def songs_only(self):
        """The same rows as seen from a client that knows neither set nor position."""
        return Rows(self.songs, self.set * 0, self.position * 0, self.target, self.year)

    def with_unknown(self, is_unknown):
        """Songs for which is_unknown[id] holds become UNKNOWN in the history; the target keeps its id."""
        songs = torch.where(is_unknown[self.songs], UNKNOWN, self.songs)
        return Rows(songs, self.set, self.position, self.target, self.year)

    @property
    def is_first(self):
        return self.songs[:, -1] == PADDING

    @property
    def is_repeat(self):
        """The target was already played: masked, so no ranking of ours can hold it."""
        return (self.songs == self.target[:, None]).any(1)


def read_shows(directory):
    """All shows in the order of their dates."""
    shows = {}
    with gzip.open(Path(directory) / 'setlist_songs.csv.gz', 'rt', encoding='utf-8') as file:
        for line in csv.DictReader(file):
            played = (int(line['set_number']), int(line['position']), line['song'])
            shows.setdefault((line['date'], line['show_uuid']), []).append(played)
    return [Show(as_year(date), sorted(songs)) for (date, _), songs in sorted(shows.items())]


def as_year(date):
    year, month, day = (int(part) for part in date.split('-'))
    return year + (month - 1) / 12 + (day - 1) / 372


def vocabulary(shows):
    """Titles by id, in the order in which they were first played, so a later refit only appends ids."""
    titles = {'': PADDING, '(unknown)': UNKNOWN}
    for show in shows:
        for _, _, title in show.songs:
            titles.setdefault(title, len(titles))
    return list(titles)


def make_rows(shows, titles):
    ids = {title: index for index, title in enumerate(titles)}
    songs, sets, positions, targets, years = [], [], [], [], []
    for show in shows:
        played = [ids[title] for _, _, title in show.songs]
        for i, (set_number, position, _) in enumerate(show.songs):
            history = played[max(0, i - HISTORY):i]
            songs.append([PADDING] * (HISTORY - len(history)) + history)
            sets.append(min(set_number, SETS - 1))
            positions.append(min(position, POSITIONS - 1))
            targets.append(played[i])
            years.append(show.year)
    columns = [torch.tensor(column) for column in (songs, sets, positions, targets)]
    return Rows(*columns, torch.tensor(years, dtype=torch.float64))


def first_played(rows, count):
    """Year in which each id was first played; ids that are no song come out as never."""
    year = torch.full((count,), float('inf'), dtype=torch.float64)
    return year.scatter_reduce(0, rows.target, rows.year, 'amin')
