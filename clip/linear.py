"""Products with frozen weights, by the faster of the two libraries that PyTorch has for them on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

# PyTorch gives products in fp32 to MKL. From this width on oneDNN, which it keeps for lower precisions and compiled
# models, was the faster one on the processors that we measured: it adds the bias on its way.
ONEDNN_WIDTH = 256
_ONEDNN = bool(torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, alpha: float = 1.0, beta: float = 1.0
) -> torch.Tensor:
    """Give alpha x weight^T + beta bias, `F.linear` where both factors are 1; differentiable in x alone.

    Args:
        x: [..., I]; a matrix if there are factors.
        weight: [O, I], may be a transposed view.
        bias: [O]; factors need one.
        alpha: Factor on the product.
        beta: Factor on the bias.

    Returns:
        [..., O].
    """
    if not _by_onednn(x, weight):
        if bias is None or alpha == beta == 1:
            return F.linear(x, weight, bias)
        return torch.addmm(bias, x, weight.t(), alpha=alpha, beta=beta)
    if alpha != 1 and x.shape[-1] < len(weight):  # the narrower side takes the factor
        x, alpha = x * alpha, 1
    result = _Linear.apply(x, weight, bias if bias is None or alpha == beta else bias * (beta / alpha))
    return result if alpha == 1 else result * alpha  # type: ignore[no-any-return]


def _by_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    if not _ONEDNN or x.device.type != "cpu" or min(weight.shape) < ONEDNN_WIDTH or weight.requires_grad:
        return False
    return x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.weight = weight
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _product(grad, ctx.weight.t()), None, None


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result
