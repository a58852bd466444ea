"""Distributed data parallel training: `torchrun --nproc-per-node N -m training fit ...`.

All processes iterate over the same batches and take a slice of each, so a batch has the same images whatever the
number of processes, and the averaged gradient is the batch's. Only rank 0 writes files and prints.
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
"""Steps between two synchronisations on whether to stop; each is an all-reduce."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The process group; the default is a single process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_writer(self) -> bool:
        """Whether this process writes checkpoints, metrics and bundles: rank 0 does."""
        return self.rank == 0

    def slice(self, batch: torch.Tensor) -> torch.Tensor:
        """Return this process's slice of a batch of indices, `int64[b]`; the sizes of slices differ by at most one."""
        return batch if self.size == 1 else batch.tensor_split(self.size)[self.rank]

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module to call in a training step, which averages gradients over the processes."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def max(self, value: int, device: torch.device) -> int:
        """Return the largest value over all processes; a collective operation."""
        if self.size == 1:
            return value
        largest = torch.tensor(value, device=device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest.item())

    def gather(self, value: torch.Tensor, device: torch.device) -> list[torch.Tensor]:
        """Return the tensors of all processes (of equal shape and dtype, on the CPU), by rank."""
        if self.size == 1:
            return [value]
        mine = value.to(device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return [part.cpu() for part in parts]

    def wait(self) -> None:
        """Wait at a barrier for all processes."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def writer_first(self) -> Iterator[None]:
        """Run the block in the writer first, then in the other processes."""
        if not self.is_writer:
            self.wait()
        yield
        if self.is_writer:
            self.wait()


@contextmanager
def join(*, cuda: bool) -> Iterator[World]:
    """Join the process group of torchrun, as its environment variables describe it, and leave it at the end.

    Raises:
        DeviceError: this machine has more processes than CUDA devices.
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
    # With its device, a process connects eagerly, and a barrier does not have to guess the device.
    device = torch.device("cuda", local_rank) if cuda else None
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device)
    try:
        yield World(rank=dist.get_rank(), size=size, local_rank=local_rank)
    finally:
        dist.destroy_process_group()
