"""Muon: the momentum of a matrix, orthogonalised, is its step (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

torch's own takes whole matrices, one after the other, in bfloat16. A layer of the SRU is a stack of matrices, one for
each direction and gate, and the gates' gradients are of very different sizes: each is orthogonalised by itself here,
which is also half the work, and those of all layers in one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from sru_asr.ops import kernel_name

# Of four quintics, one after the other. Each takes what the one before leaves, at first 0.003 to 1, as near to 1 as an
# odd polynomial of its degree can, by the largest deviation (Amsel et al. 2025, arXiv:2505.16932).
QUINTICS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)
# By which the bound of the singular values is raised, and all are divided before each quintic but the last, as that
# paper advises: bfloat16 rounds, and what is a hundredth too great for one quintic it makes much greater for the next.
MARGIN = 1.02
MOMENTUM = 0.95
# Root mean square of a step in units of the learning rate: about AdamW's, so that both can share one (Liu et al. 2025,
# arXiv:2502.16982).
STEP_SIZE = 0.2


class Muon(torch.optim.AdamW):
    """Muon for some groups of parameters, AdamW for the others.

    Args:
        groups: as for AdamW. A group with a `block_rows` of n > 0 holds matrices to be updated by Muon, in blocks of n
            rows (of all rows, if it is more than they have).
        momentum: decay of Muon's momentum.
        options: AdamW's but for `maximize`; `lr` and `weight_decay` are Muon's, too.

    Raises:
        ValueError: a group for Muon has parameters other than matrices, or `maximize` is asked for.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float = MOMENTUM, **options: Any) -> None:
        if options.get("maximize"):
            raise ValueError("Muon minimises: negate the loss instead of asking for maximize")
        self._own_defaults = {"block_rows": 0, "momentum": momentum}
        super().__init__(groups, **options)
        # A fused AdamW would take a scaled gradient, and look for infinite ones, by itself: Muon does not.
        self._step_supports_amp_scaling = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As AdamW's, which unpickling and `load_state_dict` go by; older states have no momentum in their groups."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("momentum", MOMENTUM)
        self._own_defaults = {"block_rows": 0, "momentum": self.param_groups[0]["momentum"]}
        self._step_supports_amp_scaling = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As for AdamW; a group with `block_rows` is Muon's."""
        group = self._own_defaults | param_group
        params = group["params"]
        group["params"] = [params] if isinstance(params, Tensor) else list(params)
        if group["block_rows"] and any(parameter.dim() != 2 for parameter in group["params"]):
            raise ValueError("Muon is for matrices, found parameters of other dimensions; leave those to AdamW")
        super().add_param_group(group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step. The gradients of matrices are gone after it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["block_rows"]:
                self._step_matrices(group)
        super().step()  # passes over what has no gradient
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        blocks: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)  # parameters and directions, by shape
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
                state["step"] = torch.tensor(0.0)  # which AdamW asks of every state that it loads
            state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            direction = torch.lerp(parameter.grad, state["momentum"], group["momentum"])  # Nesterov's
            parameter.grad = None
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            rows = group["block_rows"]
            for pair in zip(parameter.split(rows), direction.split(rows), strict=True):
                blocks[pair[0].shape].append(pair)
        for shape, pairs in blocks.items():
            directions = torch.stack([direction for _, direction in pairs])
            steps = orthogonalize(directions.to(_quickest_dtype(directions)))
            size = group["lr"] * STEP_SIZE * max(shape) ** 0.5
            torch._foreach_add_([parameter for parameter, _ in pairs], list(steps.to(pairs[0][0])), alpha=-size)


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly, of the same singular vectors.

    Singular values become 0.76 to 1.2 where they are 0.003 of their bound or more, less where not. In the first
    hundreds of steps one direction is all but the whole gradient, and half of the others are below 0.005 of it; with
    three quintics, made for 0.02 and more, they would be left at a quarter. The bound is the fourth root of the sum of
    fourth powers, which a matrix times itself tells, and nearer to the greatest than the root of the sum of squares.

    Args:
        matrices: (batch, rows, columns), of any scale.

    Returns:
        The same shape and dtype; bfloat16 is enough.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.mT).mT
    x = matrices / (matrices.abs().amax((1, 2), keepdim=True) + 1e-30)  # fourth powers of small numbers would be none
    gram = x @ x.mT
    bound = MARGIN * torch.linalg.matrix_norm(gram, keepdim=True).sqrt() + 1e-12
    x, gram = x / bound, gram / bound**2
    for number, (a, b, c) in enumerate(QUINTICS):
        if number:
            gram = x @ x.mT
        if number < len(QUINTICS) - 1:
            a, b, c = a / MARGIN, b / MARGIN**3, c / MARGIN**5
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _quickest_dtype(matrices: Tensor) -> torch.dtype:
    """bfloat16 where products are quicker in it: on GPUs, and on CPUs that have instructions for it."""
    quick = matrices.device.type != "cpu" or kernel_name() in ("avx512_bf16", "amx")
    return torch.bfloat16 if quick else torch.float32
