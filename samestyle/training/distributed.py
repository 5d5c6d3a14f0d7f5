"""Several training processes as one: each encodes its share of a batch and sees the vectors of all."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Processes:
    """This process among `world`, and the device that it owns. Alone, every method is free of communication."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this is the one that measures, prints and writes."""
        return self.rank == 0

    def share(self, size: int) -> slice:
        """The rows of a batch of `size` that this process encodes: consecutive, shares of like size."""
        return slice(self.rank * size // self.world, (self.rank + 1) * size // self.world)

    def gathered(self, views: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
        """Everybody's shares (rows, d) as whole batches (size, d), in order.

        Gradients reach this process's own rows only. As each process computes the loss of the whole batch, the sum of
        their gradients (`sum_gradients`) is that of one process with the whole batch, and no gradient need be sent.
        """
        if self.world == 1:
            return dict(views)
        own = torch.stack([view.float() for view in views.values()])
        shares = [Processes(rank, self.world).share(size) for rank in range(self.world)]
        longest = max(share.stop - share.start for share in shares)
        padded = own.new_zeros(len(own), longest, own.shape[2])
        padded[:, : own.shape[1]] = own.detach()
        parts = [torch.empty_like(padded) for _ in shares]
        distributed.all_gather(parts, padded)
        trimmed = [part[:, : share.stop - share.start] for part, share in zip(parts, shares, strict=True)]
        trimmed[self.rank] = own
        return dict(zip(views, torch.cat(trimmed, dim=1).unbind(), strict=True))

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Leave in every process the sum of all processes' gradients; a missing one counts as zero."""
        if self.world == 1:
            return
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """This process's place as torchrun tells it by the environment; alone where it does not."""
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local % torch.cuda.device_count()) if cuda else torch.device("cpu")
    if world == 1:
        yield Processes(device=device)
        return
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(distributed.get_rank(), world, device)
    finally:
        distributed.destroy_process_group()
