"""Counter-based random numbers: a function of (seed, epoch, image, lane), equal on every device.

The numbers of a sequential generator depend on the batch and on the device. A hash of a counter does not: lane `lane`
of image `index` in epoch `epoch` has the same bits in any batch and order, on any device. The arithmetic is on 32-bit
integers with wrap-around, in a few operations on whole tensors, so it never synchronises with the device and can be
captured in a CUDA graph.

The idea is that of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The mixer is lighter than
theirs: `lowbias32` of C. Wellons, "Prospecting for hash functions" (2018), which a search found to have the least
avalanche bias of its form. It is not cryptographic.
"""

import torch

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B
_MASK = 0xFFFFFFFF


def mix(words: torch.Tensor) -> torch.Tensor:
    """Hash `int32[...]` elementwise: a bijection of 32-bit words, taken as unsigned.

    PyTorch shifts int32 arithmetically; the masks make the shifts logical.
    """
    mixed = words ^ ((words >> 16) & 0xFFFF)
    mixed = mixed.mul_(_FIRST)
    mixed ^= (mixed >> 15).bitwise_and_(0x1FFFF)
    mixed *= _signed(_SECOND)
    mixed ^= (mixed >> 16).bitwise_and_(0xFFFF)
    return mixed


class CounterRng:
    """Counter-based random words for the images of a data set: equal arguments give equal bits, on every device.

    Each image of an epoch has a key, `mix(mix(index ^ a) + b)`, with `a` and `b` derived from seed and epoch. Within an
    epoch all keys differ, because each step is a bijection of the index. The word of `lane` is `mix(key + salt[lane])`.
    The salts are hashed as well, so that adjacent keys do not give the same words shifted by a few lanes.
    """

    def __init__(self, seed: int, lanes: int, device: torch.device) -> None:
        """Prepare seeds and salts.

        Args:
            seed: any integer, of which the low 64 bits are used.
            lanes: number of words of an image.
            device: of the words.
        """
        low, high = mix_int(seed & _MASK), mix_int((seed >> 32 & _MASK) ^ 0x9E3779B9)
        seeds = [_signed(mix_int(low ^ high)), _signed(mix_int((low + high) & _MASK))]
        self._seeds = torch.tensor(seeds, dtype=torch.int32, device=device)
        self._salts = mix(torch.arange(1, lanes + 1, dtype=torch.int32, device=device))

    def keys(self, indices: torch.Tensor, epoch: int | torch.Tensor) -> torch.Tensor:
        """Return each image's key, `int32[n]`.

        Args:
            indices: `int64[n]`, indices in the data set, below 2^32.
            epoch: an int, or a tensor of shape `()` on the device for a CUDA graph, in which an int would be constant.
        """
        if isinstance(epoch, int):
            epoch = torch.full((), epoch, dtype=torch.int32, device=indices.device)
        a, b = mix(self._seeds + epoch.to(torch.int32)).unbind()
        return mix(mix(indices.to(torch.int32) ^ a) + b)

    def words(self, keys: torch.Tensor, first: int, count: int) -> torch.Tensor:
        """Return lanes `first` to `first + count` of each image, `int32[n, count]`."""
        return mix(keys[:, None] + self._salts[first : first + count])


def uniform(words: torch.Tensor) -> torch.Tensor:
    """Convert `int32[...]` to uniform `float32[...]` in [0, 1) by their upper 24 bits, which float32 holds exactly."""
    return ((words >> 8) & 0xFFFFFF).float().mul_(2**-24)


def uniform_8bit(words: torch.Tensor) -> torch.Tensor:
    """Convert `int32[n, m]` to uniform `float32[n, 4m]` in (-1, 1): each byte gives one of 256 evenly spaced values.

    A byte suffices for noise that will be blurred: its mean is exactly 0, its variance 1/3 (1 - 2^-16), and the
    discrete steps vanish in a weighted sum of hundreds of them. It takes a quarter of the hashing, which dominates the
    cost of an elastic deformation.
    """
    return words.view(torch.int8).float().add_(0.5).mul_(1 / 128)


def mix_int(word: int) -> int:
    """Return `mix` of one unsigned 32-bit word, in Python integers."""
    word = (word ^ word >> 16) * _FIRST & _MASK
    word = (word ^ word >> 15) * _SECOND & _MASK
    return word ^ word >> 16


def _signed(word: int) -> int:
    """Return an unsigned 32-bit word reinterpreted as int32."""
    return word - 2**32 if word >= 2**31 else word
