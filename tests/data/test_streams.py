"""The order of rows: whole passes, pure in (seed, stream, step), grouped by length."""

from collections import Counter

import pytest

from selgen_ray.data.streams import Stream


def stream(size=23, micro=2, num_micro=2, restarts="epoch", steps=None, seed=0, name="outcome", grouped=True):
    lengths = tuple((i * 7) % 13 + 1 for i in range(size))
    steps = steps or -(-size // (micro * num_micro))
    return Stream(name, lengths, micro, num_micro, seed, "train", steps, restarts, grouped)


def rows(stream, steps):
    return [i for step in steps for micro in stream.step(step) for i in micro]


@pytest.mark.parametrize("grouped", [True, False])
def test_an_epoch_is_one_pass_over_every_row(grouped):
    s = stream(grouped=grouped)
    first, second = rows(s, range(6)), rows(s, range(6, 12))
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second
    assert [len(m) for m in s.step(5)] == [2, 1]  # 23 = 5 x 4 + 3


@pytest.mark.parametrize("steps", [6, 1, 100])
def test_a_stream_that_never_restarts_runs_through_whole_passes(steps):
    s = stream(size=10, restarts="never", steps=steps)
    seen = rows(s, range(15))  # 60 rows: 6 passes
    assert all(sorted(seen[i : i + 10]) == list(range(10)) for i in range(0, 60, 10)) or Counter(seen) == Counter(
        dict.fromkeys(range(10), 6)
    )
    assert all(len(m) == 2 for step in range(15) for m in s.step(step))


def test_within_epoch_starts_anew_each_epoch():
    s = stream(size=5, restarts="within_epoch", steps=3)
    first, second = rows(s, range(3)), rows(s, range(3, 6))
    assert len(first) == len(second) == 12
    assert sorted(first[:5]) == list(range(5)) or set(first) == set(range(5))
    assert first != second


def test_a_step_is_a_pure_function_of_its_number():
    s, t = stream(), stream()
    forwards = [s.step(i) for i in range(12)]
    backwards = [t.step(i) for i in reversed(range(12))]
    assert forwards == backwards[::-1]


def test_seed_and_name_change_the_order():
    base = rows(stream(), range(6))
    assert base != rows(stream(seed=1), range(6))
    assert base != rows(stream(name="proxy"), range(6))


def test_accumulation_does_not_change_which_rows_a_step_has():
    one = stream(micro=4, num_micro=1)
    two = stream(micro=2, num_micro=2)
    for step in range(6):
        assert sorted(rows(one, [step])) == sorted(rows(two, [step]))


def padded(stream, steps):
    return sum(
        max(stream.lengths[i] for i in micro) * len(micro) for step in range(steps) for micro in stream.step(step)
    )


def test_grouping_by_length_pads_less():
    size = 512
    lengths = tuple((i * 7919) % 97 + 1 for i in range(size))
    grouped = Stream("o", lengths, 8, 1, 0, "train", 64, "epoch", True)
    mixed = Stream("o", lengths, 8, 1, 0, "train", 64, "epoch", False)
    real = sum(lengths)
    assert padded(grouped, 64) / real < 1.2
    assert padded(mixed, 64) / real > 1.5
    # and the batches still come in no order of length
    widths = [max(lengths[i] for i in grouped.step(s)[0]) for s in range(64)]
    assert widths != sorted(widths) and widths != sorted(widths, reverse=True)
