"""Random numbers as a function of (seed, epoch, image, lane), the same on every device.

A generator that is stepped gives numbers that depend on the batch and on the device. A hash of a
counter does not: whoever asks for number `lane` of image `index` in `epoch` gets the same bits, in
any batch, any order, on any device. Everything is 32-bit integer arithmetic with wrap-around, in a
few operations on whole tensors, so that nothing waits for the device and a CUDA graph can hold it.

The idea is that of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The
mixer is lighter than theirs: `lowbias32` of C. Wellons, "Prospecting for hash functions" (2018),
found by a search for the least avalanche bias of its form. It is no cryptography.
"""

import torch

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B
_MASK = 0xFFFFFFFF


def mix(words: torch.Tensor) -> torch.Tensor:
    """Scramble `int32[...]`: a bijection of the 32-bit words, read as unsigned.

    torch shifts int32 arithmetically; the masks make the shifts logical.
    """
    mixed = words ^ ((words >> 16) & 0xFFFF)
    mixed = mixed.mul_(_FIRST)
    mixed ^= (mixed >> 15).bitwise_and_(0x1FFFF)
    mixed *= _signed(_SECOND)
    mixed ^= (mixed >> 16).bitwise_and_(0xFFFF)
    return mixed


class CounterRng:
    """Noise for the images of a data set: equal arguments give equal bits, on every device.

    Each image of an epoch has a key, `mix(mix(index ^ a) + b)` with `a` and `b` made from seed and
    epoch; within an epoch no two images share one, as every step is a bijection of the index. Word
    `lane` of an image is `mix(key + salt[lane])`. The salts are themselves hashed, so that two keys
    that lie close together do not give the same words, shifted by a few lanes.
    """

    def __init__(self, seed: int, lanes: int, device: torch.device) -> None:
        """Prepare the noise.

        Args:
            seed: any integer; its low 64 bits count.
            lanes: how many words an image may ask for.
            device: where the words are wanted.
        """
        low, high = mix_int(seed & _MASK), mix_int((seed >> 32 & _MASK) ^ 0x9E3779B9)
        seeds = [_signed(mix_int(low ^ high)), _signed(mix_int((low + high) & _MASK))]
        self._seeds = torch.tensor(seeds, dtype=torch.int32, device=device)
        self._salts = mix(torch.arange(1, lanes + 1, dtype=torch.int32, device=device))

    def keys(self, indices: torch.Tensor, epoch: int | torch.Tensor) -> torch.Tensor:
        """Return each image's key, `int32[n]`.

        Args:
            indices: `int64[n]`, positions in the data set, below 2^32.
            epoch: a number, or a tensor of shape `()` on the device (for a captured graph, in which
                a number would be frozen).
        """
        if isinstance(epoch, int):
            epoch = torch.full((), epoch, dtype=torch.int32, device=indices.device)
        a, b = mix(self._seeds + epoch.to(torch.int32)).unbind()
        return mix(mix(indices.to(torch.int32) ^ a) + b)

    def words(self, keys: torch.Tensor, first: int, count: int) -> torch.Tensor:
        """Return lanes `first` to `first + count` of each image, `int32[n, count]`."""
        return mix(keys[:, None] + self._salts[first : first + count])


def uniform(words: torch.Tensor) -> torch.Tensor:
    """Turn `int32[...]` into `float32[...]` in [0, 1): their upper 24 bits, which a float32 holds exactly."""
    return ((words >> 8) & 0xFFFFFF).float().mul_(2**-24)


def uniform_8bit(words: torch.Tensor) -> torch.Tensor:
    """Turn `int32[n, m]` into `float32[n, 4m]` in (-1, 1): each byte one of 256 evenly spaced values.

    A byte is enough for noise that will be blurred. Its mean is exactly 0, its variance
    1/3 (1 - 2^-16), and its discrete steps vanish in a weighted sum of hundreds of them; it costs a
    quarter of the hashing, which is the largest part of drawing an elastic deformation.
    """
    return words.view(torch.int8).float().add_(0.5).mul_(1 / 128)


def mix_int(word: int) -> int:
    """Do as `mix` does to one unsigned 32-bit word, in Python's integers."""
    word = (word ^ word >> 16) * _FIRST & _MASK
    word = (word ^ word >> 15) * _SECOND & _MASK
    return word ^ word >> 16


def _signed(word: int) -> int:
    """Return the int32 with the bits of an unsigned 32-bit word."""
    return word - 2**32 if word >= 2**31 else word
