"""Dictionary-based mutation: inserts tokens that random byte changes rarely produce."""

from collections.abc import Callable, Sequence
from random import Random

MOST_GROWTH = 64
"""Maximum bytes added by a mutation: inputs stay small unless size reaches new coverage."""


def by_words(words: Sequence[bytes]) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator for Atheris: one of three mutations inserts a token, two are libFuzzer's."""

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        import atheris

        random = Random(seed)  # noqa: S311  no secret
        if random.random() < 0.67:
            mutated: bytes = atheris.Mutate(data, min(most, len(data) + MOST_GROWTH))
            return mutated
        start = random.randint(0, len(data))
        stop = start + random.choice((0, 0, 1, 2, 8))
        return (data[:start] + random.choice(words) + data[stop:])[:most]

    return mutate
