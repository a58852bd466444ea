"""Data augmentation as a whole: what it depends on, what it preserves, and what its limits mean."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.v2 import functional as reference

from common.errors import ConfigurationError
from tests.idx_arrays import read_idx
from training.augmentation.augmenter import CPU_CHUNK, LANES, Augmenter, Lane
from training.augmentation.counter_rng import CounterRng, uniform, uniform_8bit
from training.augmentation.geometry import inverse_affine
from training.settings import AugmentationSettings

CPU = torch.device("cpu")
CIRESAN = AugmentationSettings(
    rotation=15,
    shear=15,
    rotate_or_shear=True,
    scaling=0.15,
    elastic_alpha=36,
    elastic_sigma=5.5,
    gentle_classes=(1, 7),
)
EVERYTHING = CIRESAN.model_copy(update={"translation": 2.0, "erasing": 0.5})


def augmenter(limits: AugmentationSettings, *, seed: int = 0, paper: int = 0) -> Augmenter:
    """Return an augmenter for ten classes on the CPU."""
    return Augmenter(limits, classes=10, seed=seed, device=CPU, paper=paper)


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return noise as images, every class in turn, and positions that are not 0, 1, 2."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count) % 10, torch.arange(count) * 7 + 3


def assert_pixels(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare pixels of 0..255 up to float error."""
    torch.testing.assert_close(actual, expected, atol=2e-2, rtol=0)


@pytest.fixture(scope="module")
def digits(mnist_directory: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the first 5000 images of MNIST, their labels and positions."""
    images = read_idx(mnist_directory / "train-images-idx3-ubyte", 3)[:5000]
    labels = read_idx(mnist_directory / "train-labels-idx1-ubyte", 1)[:5000].astype(np.int64)
    return torch.from_numpy(images), torch.from_numpy(labels), torch.arange(5000)


def test_off_is_the_identity_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without limits the pixels are the images', bit for bit, as float32, and no noise is made."""
    monkeypatch.delattr(CounterRng, "keys")
    images, labels, indices = batch(20)
    out = augmenter(AugmentationSettings(elastic_sigma=5, gentle_classes=(1,)))(images, labels, indices, 3)
    assert out.dtype == torch.float32
    assert torch.equal(out, images.float())


@pytest.mark.parametrize(
    "limits", [CIRESAN, EVERYTHING, AugmentationSettings(erasing=1)], ids=["ciresan", "everything", "erasing"]
)
def test_it_is_a_function_of_seed_epoch_and_index(limits: AugmentationSettings) -> None:
    """Equal arguments give equal bits; another seed, epoch or position gives other pixels."""
    images, labels, indices = batch(50)
    first = augmenter(limits, seed=4)(images, labels, indices, 2)
    assert torch.equal(first, augmenter(limits, seed=4)(images, labels, indices, 2))
    for other in (
        augmenter(limits, seed=5)(images, labels, indices, 2),
        augmenter(limits, seed=4)(images, labels, indices, 3),
        augmenter(limits, seed=4)(images, labels, indices + 1, 2),
    ):
        changed = (first - other).abs().amax(dim=(1, 2)) > 1
        assert changed.float().mean() > 0.7


@pytest.mark.parametrize("count", [2, CPU_CHUNK, CPU_CHUNK + 1, 2 * CPU_CHUNK + 300])
def test_it_does_not_depend_on_the_batch(count: int) -> None:
    """One by one, shuffled, or in chunks, an image is deformed the same."""
    augment_ = augmenter(EVERYTHING)
    images, labels, indices = batch(count)
    together = augment_(images, labels, indices, 6)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    assert_pixels(augment_(images[order], labels[order], indices[order], 6), together[order])
    for i in {0, count // 2, count - 1}:
        one = slice(i, i + 1)
        assert_pixels(augment_(images[one], labels[one], indices[one], 6), together[one])


def test_the_epoch_may_be_a_tensor() -> None:
    """A tensor gives the pixels of the number in it."""
    arguments = batch(30)
    augment_ = augmenter(EVERYTHING)
    assert torch.equal(augment_(*arguments, 8), augment_(*arguments, torch.tensor(8)))


def test_nothing_waits_for_the_device() -> None:
    """On tensors without values it runs: no value is ever read on the host, no shape depends on one."""
    with FakeTensorMode():
        out = augmenter(EVERYTHING)(*batch_without_values(600), torch.tensor(1))
        assert out.shape == (600, 28, 28)


def batch_without_values(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a batch of the right shapes and types."""
    images = torch.empty(count, 28, 28, dtype=torch.uint8)
    return images, torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=torch.int64)


def test_it_is_one_graph() -> None:
    """torch.compile captures it whole, with the epoch as an input, and the graph gives the same pixels."""
    arguments, augment_ = batch(30), augmenter(EVERYTHING)
    captured = torch.compile(augment_, backend="eager", fullgraph=True)
    for epoch in (1, 2):
        assert_pixels(captured(*arguments, torch.tensor(epoch)), augment_(*arguments, epoch))


@pytest.fixture
def matrices(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Record the parameters that reach `inverse_affine`."""
    seen: list[dict[str, torch.Tensor]] = []

    def spy(*arguments: torch.Tensor) -> torch.Tensor:
        seen.append(dict(zip(("rotation", "shear", "scale", "translation"), arguments, strict=True)))
        return inverse_affine(*arguments)

    monkeypatch.setattr("training.augmentation.augmenter.inverse_affine", spy)
    return seen


def test_limits_are_reached_and_kept(matrices: list[dict[str, torch.Tensor]]) -> None:
    """Each parameter is uniform between plus and minus its limit, each axis by itself."""
    limits = AugmentationSettings(rotation=20, shear=10, scaling=0.2, translation=3)
    augmenter(limits)(*batch(1000), 0)
    drawn = matrices[0]
    for values, limit in (
        (drawn["rotation"], 20),
        (drawn["shear"], 10),
        (drawn["scale"][:, 0] - 1, 0.2),
        (drawn["scale"][:, 1] - 1, 0.2),
        (drawn["translation"][:, 0], 3),
        (drawn["translation"][:, 1], 3),
    ):
        assert 0.98 * limit < values.abs().max() <= limit * 1.0001
        assert abs(values.mean()) < 0.1 * limit
        assert abs(values.std() - limit / math.sqrt(3)) < 0.05 * limit
    table = torch.cat([v.view(1000, -1) for v in drawn.values()], dim=1).T
    assert torch.corrcoef(table).fill_diagonal_(0).abs().max() < 0.15


def test_gentle_classes_turn_less(matrices: list[dict[str, torch.Tensor]]) -> None:
    """The named classes keep half of the limits of rotation and shear, and all of the others."""
    limits = AugmentationSettings(
        rotation=15, shear=12, scaling=0.1, gentle_classes=(1, 7), gentle_factor=0.5
    )
    images, labels, indices = batch(1000)
    augmenter(limits)(images, labels, indices, 0)
    gentle, drawn = (labels == 1) | (labels == 7), matrices[0]
    for name, limit in (("rotation", 15), ("shear", 12)):
        assert 0.9 * limit / 2 < drawn[name][gentle].abs().max() <= limit / 2
        assert 0.9 * limit < drawn[name][~gentle].abs().max() <= limit
    assert (drawn["scale"][gentle] - 1).abs().max() > 0.09


def test_rotation_or_shear_is_one_of_them(matrices: list[dict[str, torch.Tensor]]) -> None:
    """With `rotate_or_shear` half of the images are rotated, the others sheared, none both."""
    augmenter(AugmentationSettings(rotation=15, shear=15, rotate_or_shear=True))(*batch(1000), 0)
    rotated, sheared = matrices[0]["rotation"] != 0, matrices[0]["shear"] != 0
    assert not (rotated & sheared).any()
    assert (rotated | sheared).float().mean() > 0.99
    assert 0.45 < rotated.float().mean() < 0.55


def test_affine_and_elastic_are_one_sampling() -> None:
    """Each image equals a chain of torchvision's own functions on the coordinates, sampled once."""
    images, labels, indices = batch(5)
    limits = AugmentationSettings(rotation=30, elastic_alpha=30, elastic_sigma=4)
    out = augmenter(limits, seed=9)(images, labels, indices, 1)
    rng = CounterRng(9, LANES, CPU)
    keys = rng.keys(indices, 1)
    angles = 30 * (2 * uniform(rng.words(keys, Lane.ROTATION, 1)) - 1)
    raw = uniform_8bit(rng.words(keys, Lane.ELASTIC, 392)).view(5, 2, 28, 28)
    fields = 30 * reference.gaussian_blur(raw, [33, 33], [4.0, 4.0])
    axis = torch.arange(28) - 13.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    for i in range(5):
        cosine, sine = torch.cos(torch.deg2rad(angles[i])), torch.sin(torch.deg2rad(angles[i]))
        moved = torch.stack((cosine * x + sine * y - x, cosine * y - sine * x - y)) + fields[i]
        expected = reference.elastic(
            images[i][None].float(),
            (moved * 2 / 28).permute(1, 2, 0)[None],
            interpolation=reference.InterpolationMode.BILINEAR,
        )[0]
        assert_pixels(out[i], expected)


def test_elastic_displacements_have_the_size_of_the_papers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Alpha times blurred uniform noise, far from the edges: deviation alpha / (sigma sqrt(12 pi)), mean 0.

    The sum of a Gaussian's squares is 1 / (4 pi sigma^2), the variance of uniform(-1, 1) is 1/3.
    Noise of 8 bits gives the figures of noise of 64.
    """
    seen: list[torch.Tensor] = []

    def spy(images: torch.Tensor, _: torch.Tensor, __: None, field: torch.Tensor, ___: int) -> torch.Tensor:
        seen.append(field)
        return images

    monkeypatch.setattr("training.augmentation.augmenter.warp", spy)
    augmenter(AugmentationSettings(elastic_alpha=34, elastic_sigma=3))(*batch(4000), 0)
    centre = torch.cat(seen)[:, :, 12:16, 12:16]
    expected = 34 / (3 * math.sqrt(12 * math.pi))
    assert abs(centre.std() / expected - 1) < 0.05
    assert abs(centre.mean()) < 0.06 * expected
    one = centre[:, 0, 0, 0] / expected
    assert abs(one.pow(4).mean() - 3) < 0.5  # as good as normal
    along_x, along_y = centre[:, 0].flatten(), centre[:, 1].flatten()
    assert abs(torch.corrcoef(torch.stack((along_x, along_y)))[0, 1]) < 0.1


def test_erasing_has_its_probability() -> None:
    """The share of images that get a hole is the probability that was asked for."""
    images = torch.full((2000, 28, 28), 200, dtype=torch.uint8)
    out = augmenter(AugmentationSettings(erasing=0.3))(
        images, torch.zeros(2000).long(), torch.arange(2000), 0
    )
    holes = (out == 0).flatten(1).sum(1)
    assert 0.26 < (holes > 0).float().mean() < 0.34
    assert set(out.flatten().tolist()) == {0.0, 200.0}
    share = holes[holes > 0] / 28**2
    assert share.min() > 0.01
    assert share.max() < 0.36


def test_black_on_white_is_the_negative() -> None:
    """With paper 255 the negative deforms to the negative, holes included."""
    images, labels, indices = batch(100)
    white = augmenter(EVERYTHING)(images, labels, indices, 1)
    black = augmenter(EVERYTHING, paper=255)(255 - images, labels, indices, 1)
    assert_pixels(black, 255 - white)


def test_ink_is_kept(digits: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    """Real digits keep their mean ink within 5%, and almost none runs out of the picture."""
    images = digits[0].float()
    out = augmenter(CIRESAN)(*digits, 0)
    assert abs(out.mean() / images.mean() - 1) < 0.05
    ratio = out.mean(dim=(1, 2)) / images.mean(dim=(1, 2))
    assert (ratio > 0.5).float().mean() > 0.995
    assert (out - images).abs().mean() > 5


limits_of_all_kinds = st.builds(
    AugmentationSettings,
    rotation=st.floats(0, 180),
    shear=st.floats(0, 60),
    rotate_or_shear=st.booleans(),
    scaling=st.floats(0, 0.9),
    translation=st.floats(0, 28),
    elastic_alpha=st.floats(0, 100),
    elastic_sigma=st.floats(0.1, 30),
    erasing=st.floats(0, 1),
    gentle_classes=st.sets(st.integers(0, 9)).map(lambda s: tuple(sorted(s))),
    gentle_factor=st.floats(0, 1),
)


@settings(deadline=None)
@given(limits_of_all_kinds, st.integers(0, 40), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_any_limits_give_pixels(limits: AugmentationSettings, count: int, seed: int, epoch: int) -> None:
    """Whatever the limits, the batch (an empty one too), seed and epoch: finite pixels in 0..255."""
    images, labels, indices = batch(count)
    before = images.clone()
    out = augmenter(limits, seed=seed)(images, labels, indices, epoch)
    assert out.shape == images.shape
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert ((out >= -1e-3) & (out <= 255.001)).all()
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotation": -1}, "greater than or equal to 0"),
        ({"rotation": math.nan}, "finite"),
        ({"shear": 90}, "less than or equal to 60"),
        ({"scaling": 1}, "less than or equal to 0.9"),
        ({"elastic_alpha": 34}, "elastic_alpha needs an elastic_sigma above 0"),
        ({"erasing": 1.5}, "less than or equal to 1"),
        ({"erasing_area": (0.5, 0.1)}, "erasing_area: the smallest"),
        ({"erasing_aspect": (0, 1)}, "greater than 0"),
        ({"gentle_classes": (-1,)}, "greater than or equal to 0"),
        ({"rotaton": 3}, "rotaton"),
    ],
    ids=str,
)
def test_wrong_limits_are_rejected(values: dict[str, object], message: str) -> None:
    """A limit out of range, or unknown, is an error that says which."""
    with pytest.raises(ValidationError, match=message):
        AugmentationSettings.model_validate(values)


def test_gentle_classes_must_exist() -> None:
    """A class beyond the last one is an error that names both."""
    with pytest.raises(ConfigurationError, match="class 12; there are 10"):
        augmenter(AugmentationSettings(gentle_classes=(1, 12)))


def test_every_limit_is_described() -> None:
    """The docstrings under the fields reach the help of the command line."""
    assert all(field.description for field in AugmentationSettings.model_fields.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
def test_cuda_gives_the_same_pixels(digits: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    """CPU and CUDA agree up to float error, CUDA never waits, and a captured graph follows its epoch."""
    cuda = torch.device("cuda")
    images, labels, indices = (tensor.to(cuda) for tensor in digits)
    there = Augmenter(EVERYTHING, classes=10, seed=0, device=cuda)
    epoch = torch.tensor(1, device=cuda)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = there(images, labels, indices, epoch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here = augmenter(EVERYTHING)
    assert_agreement(out.cpu(), here(*digits, 1))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = there(images, labels, indices, epoch)
    epoch.fill_(2)
    graph.replay()
    assert_agreement(out.cpu(), here(*digits, 2))


def assert_agreement(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare two devices: a side of a hole may round to the other pixel in one image of thousands."""
    far = (actual - expected).abs().amax(dim=(1, 2)) > 0.05
    assert far.float().mean() < 1e-3
