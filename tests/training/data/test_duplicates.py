"""Duplicates, planted and counted, against a comparison of every pair."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.dataset import Images
from training.data.duplicates import Duplicates, duplicates


def of(pictures: list[int], labels: list[int]) -> Images:
    """Return images that are equal where `pictures` are, and differ in one pixel elsewhere."""
    images = np.zeros((len(pictures), 28, 28), dtype=np.uint8)
    images[:, 27, 27] = pictures
    return Images(images=images, labels=np.array(labels, dtype=np.int64))


def naive(training: Images, test: Images) -> Duplicates:
    """Compare every image with every other one."""

    def equal(a: Images, i: int, b: Images, j: int) -> bool:
        return bool((a.images[i] == b.images[j]).all())

    n, m = range(len(training)), range(len(test))
    twins = {i: [j for j in n if j != i and equal(training, i, training, j)] for i in n}
    seen = {i: [j for j in n if equal(test, i, training, j)] for i in m}
    return Duplicates(
        within_training=sum(any(j < i for j in twins[i]) for i in n),
        within_training_conflicting=sum(
            any(training.labels[j] != training.labels[i] for j in twins[i]) for i in n
        ),
        between=sum(bool(seen[i]) for i in m),
        between_conflicting=sum(any(training.labels[j] != test.labels[i] for j in seen[i]) for i in m),
    )


def test_planted_duplicates_are_counted() -> None:
    """Each count is that of the images planted for it."""
    training = of([1, 2, 2, 3, 3, 3, 4], [0, 1, 1, 0, 1, 1, 1])
    test = of([2, 3, 4, 5, 5, 2], [1, 1, 0, 0, 0, 1])
    assert duplicates(training, test) == Duplicates(
        within_training=3,  # one of the 2s, two of the 3s
        within_training_conflicting=3,  # every 3
        between=4,  # both 2s, the 3, the 4; not the 5s, which only repeat each other
        between_conflicting=2,  # the 3, which training knows as 0 too, and the 4
    )


def test_the_sentence_has_the_counts() -> None:
    """The line for the log says each figure."""
    counted = Duplicates(
        within_training=11, within_training_conflicting=22, between=33, between_conflicting=44
    )
    assert all(figure in counted.sentence() for figure in ("11", "22", "33", "44"))


def test_one_pixel_apart_is_no_duplicate() -> None:
    """Images that differ by one level in the last pixel are different."""
    assert duplicates(of([1], [0]), of([2], [0])).between == 0


pictures = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=12)


@settings(deadline=None)
@given(training=pictures, test=pictures)
def test_counts_are_those_of_comparing_every_pair(
    training: list[tuple[int, int]], test: list[tuple[int, int]]
) -> None:
    """Hashing gives what a comparison of all pairs gives."""
    both = [of([p for p, _ in part], [label for _, label in part]) for part in (training, test)]
    assert duplicates(both[0], both[1]) == naive(both[0], both[1])
