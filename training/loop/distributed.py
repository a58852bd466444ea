"""More than one process: `torchrun --nproc-per-node N -m training fit ...`.

Every process walks through the same order of batches and takes its slice of each, so a batch holds
the same images whatever the number of processes, and the averaged gradient is the batch's. Rank 0
alone writes files and speaks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed as dist
from torch import nn

from training.errors import DeviceError

SYNC_EVERY_STEPS = 16
"""Steps between two agreements on whether to stop: each one is a message among all processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The processes that train together; the default is one alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_writer(self) -> bool:
        """Tell whether this process writes checkpoints, metrics and bundles."""
        return self.rank == 0

    def slice(self, batch: torch.Tensor) -> torch.Tensor:
        """Return this process's part of a batch of indices, `int64[b]`; parts differ by one at most."""
        return batch if self.size == 1 else batch.tensor_split(self.size)[self.rank]

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module to call for a training step: it averages gradients over the processes."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes; one alone gets it back as it is."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def max(self, value: int, device: torch.device) -> int:
        """Return the largest value that any process has; all of them must ask."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, device=device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest.item())

    def gather(self, value: torch.Tensor, device: torch.device) -> list[torch.Tensor]:
        """Return everyone's tensor (of one shape and dtype, on the CPU), by rank."""
        if self.size == 1:
            return [value]
        mine = value.to(device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return [part.cpu() for part in parts]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def writer_first(self) -> Iterator[None]:
        """Let the writer through the block, and then the others."""
        if not self.is_writer:
            self.wait()
        yield
        if self.is_writer:
            self.wait()


@contextmanager
def join(*, cuda: bool) -> Iterator[World]:
    """Join the processes that torchrun started (it says so in the environment), and leave them at the end.

    Raises:
        DeviceError: there are more processes on this machine than CUDA devices.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if cuda:
        if local_rank >= torch.cuda.device_count():
            raise DeviceError(
                f"process {local_rank} has no CUDA device: there are {torch.cuda.device_count()}; "
                "lower --nproc-per-node, or train with --device cpu"
            )
        torch.cuda.set_device(local_rank)
    # Bound to its device, a process connects at once, and a barrier need not guess which device is meant.
    device = torch.device("cuda", local_rank) if cuda else None
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device)
    try:
        yield World(rank=dist.get_rank(), size=size, local_rank=local_rank)
    finally:
        dist.destroy_process_group()
