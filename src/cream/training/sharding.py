"""A model on several ranks: torch's FSDP2, the same steps, the same result beyond rounding.

A rank is a process with a shard of every weight, gradient and moment. How a step is cut does not
depend on how many there are: rank r takes micro-batches r, r + size, ... of it. Gradients are
*summed* over ranks, since a contribution is already divided by the items of the whole step;
averaging them would show in no loss and, under Adam, hardly in a weight, only in the gradient norm.

A rank that has nothing left in a round runs a micro-batch as all others do and counts it 0 times (a
ghost): every collective needs every rank.

Source: torch.distributed.fsdp (``fully_shard``); a torchrun environment is all that is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from cream.errors import ModelError
from cream.models.hidden import decoder_layers

Value = TypeVar("Value")
Root = TypeVar("Root", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class World:
    """The ranks of one training, seen from one of them."""

    rank: int
    """This one; 0 reads, writes and tells."""
    size: int
    device: torch.device
    mesh: DeviceMesh

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over the ranks, which all give the same names, in float64."""
        names = sorted(values)
        vector = torch.tensor([values[n] for n in names], dtype=torch.float64, device=self.device)
        dist.all_reduce(vector)
        return dict(zip(names, vector.tolist(), strict=True))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of parameters that every rank holds whole."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def from_first(self, value: Value | None = None) -> Value:
        """What rank 0 gives, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def from_all(self, value: Value) -> list[Value]:
        """What every rank gives, in their order."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def share(self, step: Sequence[Value]) -> Iterator[tuple[Value, bool]]:
        """The micro-batches of a step that this rank runs, and whether each counts."""
        for first in range(0, len(step), self.size):
            mine = first + self.rank
            yield (step[mine], True) if mine < len(step) else (step[-1], False)

    def rows(self, count: int) -> slice:
        """Rows of a whole tensor that this rank holds, as torch.chunk cuts them."""
        chunk = -(-count // self.size)
        return slice(min(self.rank * chunk, count), min((self.rank + 1) * chunk, count))


@contextmanager
def joined_world(device_type: str, *, timeout_seconds: float = 1800.0) -> Iterator[World]:
    """The ranks that torchrun's environment variables speak of, for as long as the block lasts.

    Args:
        device_type: ``cpu`` (gloo) or ``cuda`` (NCCL).
        timeout_seconds: Longest wait for the other ranks at any point.
    """
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device(device_type, local) if device_type == "cuda" else torch.device("cpu")
    if device_type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    try:
        size = dist.get_world_size()
        mesh = init_device_mesh(device_type, (size,))
        yield World(dist.get_rank(), size, device, mesh)
    finally:
        dist.destroy_process_group()


def shard(root: Root, model: Any, dtype: torch.dtype, world: World) -> Root:
    """Shard a model; forward and backward run in `dtype`, sums and steps in the weights' own type.

    Args:
        root: What is called in its place, with the model in it: embedding, norm and head are whole
            during a call.
        model: On rank 0 with its weights; on the others weights on ``meta`` will do. Changed.
        dtype: Arithmetic of forward and backward.
        world: The ranks.

    Raises:
        ModelError: The model has no list of decoder layers to shard by.
    """
    try:
        layers = decoder_layers(model)
    except (ModelError, AttributeError) as error:
        raise ModelError(
            f"{type(model).__name__} has no list of decoder layers, by which it could be divided "
            "among ranks. Set compute.ranks: 1."
        ) from error
    whole = {n: p.detach() for n, p in model.named_parameters()} if world.rank == 0 else {}
    precision = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32
    )
    for module in (*layers, root):  # embedding, norm and head stay in the root: they may be tied
        fully_shard(module, mesh=world.mesh, mp_policy=precision)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    _materialise(root, world)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _hand_out(parameter, whole.get(name), world)
    return root


def _materialise(root: nn.Module, world: World) -> None:
    """Give shards on ``meta`` memory; weights that are tied stay one."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in root.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not local_part(parameter).is_meta:
                continue
            if parameter not in made:
                empty = torch.empty_like(parameter, device=world.device)
                made[parameter] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            module._parameters[name] = made[parameter]


def _hand_out(parameter: nn.Parameter, whole: Tensor | None, world: World) -> None:
    """Every rank's rows of a weight that rank 0 has."""
    if whole is None:
        given = torch.empty(parameter.shape, dtype=parameter.dtype, device=world.device)
    else:
        given = whole.to(world.device).contiguous()
    dist.broadcast(given, src=0)
    local_part(parameter).copy_(given[world.rows(len(given))])


def gather(root: nn.Module, world: World) -> None:
    """Give rank 0 its model back whole, on the CPU; on the others nothing of use is left."""
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in root.modules():
        for name, parameter in module._parameters.items():
            if not isinstance(parameter, DTensor):
                continue
            if parameter not in made:
                shards: Any = parameter.detach()
                whole = shards.full_tensor()
                kept = whole.cpu() if world.rank == 0 else torch.empty_like(whole, device="meta")
                made[parameter] = nn.Parameter(kept, requires_grad=parameter.requires_grad)
            module._parameters[name] = made[parameter]


def local_part(tensor: Tensor) -> Tensor:
    """What of a tensor is in this process: its rows, or all of it."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def like(parameter: Tensor, part: Tensor) -> Tensor:
    """This process's part of a tensor, divided as a parameter is."""
    moved = part.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return moved
    return DTensor.from_local(
        moved,
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
