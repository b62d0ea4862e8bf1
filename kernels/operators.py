"""How an operation becomes a `torch.library` operator, which tracing, compilation and autograd see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_is_compiling = torch.compiler.is_compiling
modes = torch._C._len_torch_dispatch_stack  # a mode (fake tensors, tracing, counting) wants to see an operator
_fragments: list[torch.library.Library] = []


def operator(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    setup: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Any:
    """Register ``pushforward::<schema>`` and return the operator.

    Args:
        schema: Name, arguments and results in torch's schema language. The operator is functional: it returns new
            tensors that share no memory with its arguments.
        run: Computes the results; looks up the implementation itself.
        fake: Makes empty results of the right shapes from arguments that have no data.
        setup: ``setup(ctx, inputs, output)``, before ``backward``.
        backward: ``backward(ctx, *gradients)``, a gradient or None for each argument. Where it is itself recorded
            (``torch.is_grad_enabled()``), it must consist of differentiable operations.
    """
    library = torch.library.Library("pushforward", "FRAGMENT")
    _fragments.append(library)  # an operator lives as long as the library object that defined it
    name = schema.partition("(")[0]
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"pushforward::{name}", fake, lib=library)
    if backward is not None:
        torch.library.register_autograd(f"pushforward::{name}", backward, setup_context=setup, lib=library)
    return getattr(torch.ops.pushforward, name)


def tracing() -> bool:
    """True while something wants to see operators: compilation, fake tensors, counting."""
    return _is_compiling() or modes() > 0


def needs_operator(*tensors: Tensor) -> bool:
    """True if a call with these tensors must go through an operator: tracing, gradients, subclasses of tensors."""
    grad = torch.is_grad_enabled()
    return tracing() or any([type(x) is not Tensor or (grad and x.requires_grad) for x in tensors])
