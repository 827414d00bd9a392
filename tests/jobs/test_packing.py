"""Rows become one sequence in which what they have in common stands once, and nothing of a row is lost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from socadapter_jobs.packing import NOWHERE, Packed, pack

pytestmark = pytest.mark.slow

LEAST = 16


def batch_of(rows: list[list[int]], *, width: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask of shape (rows, columns); odd rows are padded on the left, even ones on the right."""
    width = max([width, *map(len, rows)])
    ids, mask = torch.full((len(rows), width), 9), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        start = width - len(row) if number % 2 else 0
        ids[number, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
        mask[number, start : start + len(row)] = 1
    return ids, mask


def read_back(packed: Packed, row: int) -> list[int]:
    """A row's tokens, found by walking back from its last."""
    at = int(packed.places[row].max())
    tokens = []
    while at != NOWHERE:
        tokens.append(int(packed.ids[at]))
        at = int(packed.before[at])
    return tokens[::-1]


def visible(packed: Packed, token: int) -> list[int]:
    """The tokens that `token` attends to, by its span."""
    (span,) = (span for span in packed.spans if span.start <= token < span.end)
    spans = [*span.path, (span.start, token + 1)]
    return [int(packed.ids[at]) for start, end in spans for at in range(start, end)]


def a_group() -> list[list[int]]:
    """Two groups with the same instructions: of two trajectories that part late, and of three that part early."""
    instructions, one, other = list(range(100, 130)), [1] * 20, [2] * 20
    return [
        [*instructions, *one, *range(200, 220), 3, 4],
        [*instructions, *other, 5],
        [*instructions, *one, *range(200, 220), 6],
        [*instructions, *other, *range(300, 310), 7],
        [*instructions, *other, *range(300, 310), 8],
    ]


def test_a_tree_holds_each_common_beginning_once() -> None:
    """Instructions, the alert of each group, a common call; ten common tokens are too few for a span of their own."""
    packed = pack(*batch_of(a_group()))
    assert [30, 40, 2, 1, 20, 1, 11, 11] == [span.end - span.start for span in packed.spans]
    assert [0, 1, 2, 2, 1, 2, 2, 2] == [len(span.path) for span in packed.spans]
    assert 70 == packed.longest_path
    assert 30 + 40 + 3 + 20 + 23 == len(packed.ids)


def test_nothing_is_shared_where_it_is_not_asked_for() -> None:
    """Row after row, for a model that reads its rows apart."""
    rows = a_group()
    packed = pack(*batch_of(rows), share=False)
    assert [token for row in rows for token in row] == packed.ids.tolist()
    assert all(not span.path for span in packed.spans)


def test_rows_that_are_alike_stand_once() -> None:
    """Two trajectories that said the same are computed as one; a row without a token is nowhere."""
    rows = [list(range(40)), list(range(40)), [], list(range(20))]
    packed = pack(*batch_of(rows))
    assert list(range(40)) == packed.ids.tolist()
    assert [40, 40, 0, 20] == (packed.places != NOWHERE).sum(1).tolist()


@given(st.lists(st.lists(st.integers(0, 2), max_size=60), min_size=1, max_size=7), st.integers(0, 40), st.booleans())
def test_every_row_keeps_its_tokens_and_what_they_follow(rows: list[list[int]], common: int, share: bool) -> None:
    """Whatever the rows: each can be read back, in place and in order, and each token attends to exactly its row's
    beginning."""
    rows = [[1] * common + row for row in rows]
    if not any(rows):
        return
    packed = pack(*batch_of(rows), share=share)
    assert packed.spans[-1].end == len(packed.ids) <= sum(map(len, rows))
    for number, row in enumerate(rows):
        own = [at for at in packed.places[number].tolist() if at != NOWHERE]
        assert row == packed.ids[own].tolist()
        assert list(range(len(row))) == packed.positions[own].tolist()
        if row:
            assert row == read_back(packed, number)
            assert row == visible(packed, own[-1])
