"""Counter-based random numbers: the same bits as in NumPy, and none of the faults of a weak hash."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.augmentation.counter_rng import CounterRng, mix, mix_int, uniform, uniform_8bit

CPU = torch.device("cpu")
LANES = 424
WORDS = npt.NDArray[np.uint32]


def numpy_mix(words: WORDS) -> WORDS:
    """Return `lowbias32` of unsigned words: the same function, in another library and number type."""
    words = (words ^ (words >> np.uint32(16))) * np.uint32(0x7FEB352D)
    words = (words ^ (words >> np.uint32(15))) * np.uint32(0x846CA68B)
    return words ^ (words >> np.uint32(16))


def unsigned(words: torch.Tensor) -> WORDS:
    """Return the bits of an int32 tensor as unsigned words."""
    return words.numpy().view(np.uint32)


def draw(images: int, *, seed: int = 1, epoch: int = 0, start: int = 0, lanes: int = LANES) -> torch.Tensor:
    """Return the words of consecutive images, `int32[images, lanes]`."""
    rng = CounterRng(seed, LANES, CPU)
    return rng.words(rng.keys(torch.arange(start, start + images), epoch), 0, lanes)


def chi_square(values: torch.Tensor, bins: int) -> float:
    """Return how many standard deviations the chi-square of values in [0, 1) is from its mean."""
    counts = torch.histc(values.flatten().double(), bins, 0, 1)
    expected = values.numel() / bins
    statistic = float(((counts - expected) ** 2).sum() / expected)
    return (statistic - (bins - 1)) / math.sqrt(2 * (bins - 1))


def largest_correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the largest correlation of columns, in standard deviations under independence."""
    a = (first - first.mean(0)) / first.std(0)
    b = (second - second.mean(0)) / second.std(0)
    correlations = a.T @ b / len(a)
    return float(correlations.abs().max()) * math.sqrt(len(a))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_the_mixer_gives_the_bits_of_the_unsigned_one(values: list[int]) -> None:
    """int32 with masks, uint32 in NumPy and Python's integers agree, with the highest bit set too."""
    words = np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 1, *values], dtype=np.uint32)
    mixed = unsigned(mix(torch.from_numpy(words.view(np.int32))))
    np.testing.assert_array_equal(mixed, numpy_mix(words))
    assert [mix_int(int(word)) for word in words] == mixed.tolist()


def test_the_mixer_leaves_its_argument_alone() -> None:
    """The operations in place are on fresh tensors."""
    words = torch.arange(10, dtype=torch.int32)
    mix(words)
    assert torch.equal(words, torch.arange(10, dtype=torch.int32))


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (1, 7), (2**31 - 1, 2**31 - 1), (2**63, 3), (-1, 0)])
def test_words_equal_a_rewrite_in_numpy(seed: int, epoch: int) -> None:
    """Keys and words follow the documented formula, step for step."""
    low, high = mix_int(seed & 0xFFFFFFFF), mix_int((seed >> 32 & 0xFFFFFFFF) ^ 0x9E3779B9)
    seeds = np.array([mix_int(low ^ high), mix_int((low + high) % 2**32)], dtype=np.uint32)
    a, b = numpy_mix(seeds + np.uint32(epoch))
    indices = np.array([0, 1, 59_999, 2**31 - 1], dtype=np.uint32)
    with np.errstate(over="ignore"):
        keys = numpy_mix(numpy_mix(indices ^ a) + b)
    salts = numpy_mix(np.arange(1, LANES + 1, dtype=np.uint32))
    rng = CounterRng(seed, LANES, CPU)
    ours = rng.words(rng.keys(torch.from_numpy(indices.astype(np.int64)), epoch), 3, 20)
    np.testing.assert_array_equal(unsigned(ours), numpy_mix(keys[:, None] + salts[3:23]))


def test_the_epoch_may_be_a_tensor() -> None:
    """A number and a tensor on the device give the same keys, so that a captured graph can advance."""
    rng = CounterRng(5, LANES, CPU)
    indices = torch.arange(100)
    for dtype in (torch.int32, torch.int64):
        assert torch.equal(rng.keys(indices, 9), rng.keys(indices, torch.tensor(9, dtype=dtype)))


def test_one_flipped_bit_flips_half() -> None:
    """Every bit of the argument changes every bit of the result with a probability near 1/2."""
    words = draw(500, lanes=40).flatten()
    bits = torch.arange(32, dtype=torch.int32)
    for bit in range(32):
        changed = mix(words) ^ mix(words ^ (torch.ones((), dtype=torch.int32) << bit))
        share = ((changed[:, None] >> bits) & 1).float().mean(0)
        assert (share - 0.5).abs().max() < 0.03


def test_no_two_images_of_an_epoch_share_a_key() -> None:
    """Keys are a bijection of the index; a random function would repeat about 500 of these."""
    keys = CounterRng(3, LANES, CPU).keys(torch.arange(1 << 21), 4)
    assert len(np.unique(keys.numpy())) == 1 << 21


def test_words_repeat_as_often_as_chance_has_it() -> None:
    """Two images never share a run of words: N words repeat about N^2 / 2^33 times."""
    words = draw(4000)
    repeated = words.numel() - len(np.unique(words.numpy()))
    expected = words.numel() ** 2 / 2**33
    assert abs(repeated - expected) < 5 * expected**0.5


def test_uniform_numbers_are_the_upper_bits() -> None:
    """The whole range of words maps onto 0 to 1 - 2^-24, in order."""
    words = np.array([0, 255, 256, 2**31 - 1, 2**31, 2**32 - 1], dtype=np.uint32)
    numbers = uniform(torch.from_numpy(words.view(np.int32)))
    assert numbers.tolist() == [0, 0, 2**-24, 0.5 - 2**-24, 0.5, 1 - 2**-24]


@pytest.mark.parametrize("seed", range(5))
def test_uniform_numbers_are_uniform(seed: int) -> None:
    """Mean, variance and chi-square over 1024 bins are those of [0, 1), together and lane by lane."""
    numbers = uniform(draw(10_000, seed=seed, epoch=seed, lanes=64))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    count = numbers.numel()
    assert abs(numbers.mean() - 1 / 2) < 5 * (1 / 12 / count) ** 0.5
    assert abs(numbers.double().var() - 1 / 12) < 5 * (1 / 180 / count) ** 0.5
    assert abs(chi_square(numbers, 1024)) < 5
    assert max(abs(chi_square(lane, 64)) for lane in numbers.T) < 5


@pytest.mark.parametrize("seed", range(5))
def test_coarse_numbers_are_uniform(seed: int) -> None:
    """Each byte of a word takes 256 evenly spaced values equally often, symmetrically about 0."""
    numbers = uniform_8bit(draw(5000, seed=seed, lanes=64))
    assert numbers.shape == (5000, 256)
    assert numbers.max() == 255 / 256
    assert numbers.min() == -255 / 256
    count = numbers.numel()
    assert abs(numbers.mean()) < 5 * (1 / 3 / count) ** 0.5
    assert abs(numbers.double().var() - (1 - 2**-16) / 3) < 5 * (4 / 45 / count) ** 0.5
    for byte in range(4):
        assert abs(chi_square(numbers[:, byte::4] / 2 + 0.5, 256)) < 5


def test_lanes_are_independent() -> None:
    """No two lanes of an image correlate, nor do two bytes of a word."""
    numbers = uniform(draw(20_000, lanes=100))
    apart = numbers - numbers.mean(0)
    correlations = torch.corrcoef(apart.T).fill_diagonal_(0)
    assert correlations.abs().max() * 20_000**0.5 < 5.5
    bytes_ = torch.corrcoef(uniform_8bit(draw(20_000, lanes=50)).T).fill_diagonal_(0)
    assert bytes_.abs().max() * 20_000**0.5 < 5.5


@pytest.mark.parametrize(
    "other",
    [
        {"start": 1},
        {"start": 1024},
        {"epoch": 1},
        {"epoch": 256},
        {"seed": 2},
        {"seed": 1 + 2**32},
    ],
    ids=str,
)
def test_neighbours_are_independent(other: dict[str, int]) -> None:
    """The next image, the next epoch and the next seed give noise that correlates in no lane."""
    first, second = uniform(draw(20_000, lanes=64)), uniform(draw(20_000, lanes=64, **other))
    assert largest_correlation(first, second) < 5.5


def test_values_of_two_lanes_fill_the_square() -> None:
    """Pairs of neighbouring lanes are uniform over a 32x32 grid of the unit square."""
    numbers = uniform(draw(20_000, lanes=64))
    cells = (numbers * 32).long()
    pairs = (cells[:, :-1] * 32 + cells[:, 1:]).double() / 1024
    assert abs(chi_square(pairs + 0.5 / 1024, 1024)) < 5
