"""The recurrence in plain torch: what the kernels are tested against. Slow, differentiable, and easy to read."""

from __future__ import annotations

import torch
from torch import Tensor


def recurrence_reference(
    u: Tensor,
    x: Tensor | None,
    weight_c: Tensor,
    bias: Tensor,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    alpha: float = 1.0,
    chunk: int = 0,
    lookahead: int = 0,
) -> tuple[Tensor, Tensor]:
    """Same arguments and results as :func:`sru_asr.ops.recurrence`."""
    batch, frames, directions, parts, hidden = u.shape
    real = torch.float64 if u.dtype == torch.float64 else torch.float32
    if chunk == 0:
        chunk = frames
    size = chunk + lookahead
    windows = frames // size if size else 0
    if lengths is None:
        lengths = torch.full((batch,), windows * chunk + lookahead, device=u.device)
    highway = u[:, :, :, 3].to(real) if parts == 4 else x.to(real) if x is not None else None
    start = u.new_zeros(batch, directions, hidden, dtype=real) if initial_state is None else initial_state.to(real)
    outputs: list[list[Tensor]] = []
    finals: list[Tensor] = []
    for d in range(directions):
        v, b = weight_c[d].to(real), bias[d].to(real)
        h_at = [u.new_zeros(batch, hidden, dtype=real)] * frames

        def step(
            t: int, inside: Tensor, c: Tensor, d: int = d, v: Tensor = v, b: Tensor = b, h_at: list = h_at
        ) -> Tensor:
            candidate, forget, reset = u[:, t, d, :3].to(real).unbind(1)
            f = torch.sigmoid(forget + v[0] * c + b[0])
            r = torch.sigmoid(reset + v[1] * c + b[1])
            new_c = f * c + (1 - f) * candidate
            h = r * new_c
            if highway is not None:
                h = h + (1 - r) * alpha * highway[:, t, d]
            h_at[t] = torch.where(inside, h, 0)
            return torch.where(inside, new_c, c)

        c = final = start[:, d]
        for w in range(windows):
            inside = [(w * chunk + i < lengths)[:, None] for i in range(size)]
            if d == 0:
                for i in range(chunk):
                    c = step(w * size + i, inside[i], c)
                final = ahead = c
                for i in range(chunk, size):
                    ahead = step(w * size + i, inside[i], ahead)
            else:
                c = start[:, d]
                for i in reversed(range(size)):
                    c = step(w * size + i, inside[i], c)
                final = c if w == 0 else final
        outputs.append(h_at)
        finals.append(final)
    if frames == 0:
        return u.new_zeros(batch, 0, directions, hidden), torch.stack(finals, 1)
    h = torch.stack([torch.stack(at, 1) for at in outputs], 2)
    return h.to(u.dtype), torch.stack(finals, 1)
