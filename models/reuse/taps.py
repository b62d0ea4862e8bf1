"""Taps: named submodules answered by a function of ours for a while, and left as they were."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from ...errors import ArgumentError, UnknownNameError
from .outputs import tensors

Where: TypeAlias = "str | Iterable[str] | Callable[[str, nn.Module], bool]"

_PATCHING = threading.RLock()  # modules are shared between threads: one thread's patches at a time


@dataclass(slots=True)
class Call:
    """One call of a tapped module, before it is made.

    Attributes:
        name: Of the module, "" for the outermost.
        number: How many calls of it came before, since the taps were entered; a module may be used twice.
        module: The module.
        run: Its own forward.
        args, kwargs: What it was called with.
    """

    name: str
    number: int
    module: nn.Module
    run: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def rows(self) -> int | None:
        """First dimension of the first tensor that it was called with."""
        first = self.args[0] if self.args else None
        if isinstance(first, Tensor) and first.ndim:
            return first.shape[0]
        sizes = (leaf.shape[0] for leaf in tensors((self.args, self.kwargs)) if leaf.ndim)
        return next(sizes, None)


class Mode(Protocol):
    """What a tap does in the place of a module's forward; see :mod:`.modes` for those there are."""

    def __call__(self, call: Call) -> Any:
        """The module's output, made with ``call.run(*call.args, **call.kwargs)`` or without."""
        ...


class Patch:
    """What stands in the place of a module's ``forward`` inside the block; ``__wrapped__`` is what stood there."""

    __slots__ = ("__wrapped__", "mode", "module", "name", "taps")

    def __init__(self, taps: Taps, name: str, module: nn.Module, mode: Mode, run: Callable[..., Any]) -> None:
        self.taps, self.name, self.module, self.mode, self.__wrapped__ = taps, name, module, mode, run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The mode's output; in another thread, the module's own."""
        number = self.taps.count(self.name)
        if number is None:
            return self.__wrapped__(*args, **kwargs)
        return self.mode(Call(self.name, number, self.module, self.__wrapped__, args, kwargs))


class Taps:
    """Taps on submodules of a network, for as long as a ``with`` block lasts.

    Forward hooks can change what goes into a module and what comes out, but cannot skip it; so the instance attribute
    ``forward`` is replaced, and the class is not touched. Leaving the block restores every module as it was found, and
    complains if another tool has patched one in between and is still there. A call from another thread than the one
    that entered runs the module itself; a second thread that wants to enter waits.

    Args:
        module: The network. Not a compiled one: patch before compiling, or compile its blocks.

    Raises:
        ArgumentError: Not a module, or a compiled one.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> taps = Taps(net).tap("1", lambda call: call.args[0])
        >>> with taps:
        ...     y = net(torch.full((1, 2), -1.0))
        >>> bool((y == net[0](torch.full((1, 2), -1.0))).all()), "forward" in vars(net[1])
        (True, False)
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module):
            hint = "Functions have no submodules to tap"
            raise ArgumentError("module", got=type(module).__name__, expected="a torch.nn.Module", hint=hint)
        if hasattr(module, "_orig_mod"):
            hint = "Patch the module first, or compile its blocks"
            raise ArgumentError("module", got="a compiled module", expected="the module itself", hint=hint)
        self.module = module
        self._modules = dict(module.named_modules(remove_duplicate=False))
        self._modes: dict[str, Mode] = {}
        self._entered: int | None = None
        self._patches: list[tuple[str, Any, Patch]] = []
        self._calls: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The tapped modules, in the order in which they were named."""
        return tuple(self._modes)

    def tap(self, where: Where, mode: Mode) -> Taps:
        """Answer these modules by ``mode`` inside the block.

        Args:
            where: A name as in ``named_modules()``, several, or a predicate of (name, module).
            mode: A function of a :class:`Call`.

        Returns:
            These taps.

        Raises:
            UnknownNameError: No module of that name; lists the closest ones.
            ArgumentError: A predicate that matches nothing; a module tapped twice; the block has been entered.
        """
        if self._entered is not None:
            raise ArgumentError("tap", got="a new tap inside the block", expected="all of them before it is entered")
        taken = {id(self._modules[name]): name for name in self._modes}
        for name in self._names(where):
            module = self._modules[name]
            if id(module) in taken:
                other = taken[id(module)]
                said = f"{name!r} again" if other == name else f"{name!r}, which is the module {other!r}"
                raise ArgumentError("tap", got=said, expected="each module tapped once")
            taken[id(module)] = name
            self._modes[name] = mode
        return self

    def _names(self, where: Where) -> list[str]:
        if callable(where):
            found = [name for name, module in self._modules.items() if where(name, module)]
            if not found:
                raise ArgumentError("tap", got="a predicate that matches nothing", expected="a module at least")
            return found
        names = [where] if isinstance(where, str) else list(where)
        for name in names:
            if name not in self._modules:
                close = difflib.get_close_matches(name, self._modules, n=3, cutoff=0.0)
                kind = type(self.module).__name__
                raise UnknownNameError("tap", got=repr(name), expected=f"a module of {kind}, such as {close}")
        return names

    def __enter__(self) -> Taps:
        _PATCHING.acquire()
        if self._entered is not None:
            _PATCHING.release()
            raise ArgumentError("taps", got="entered twice", expected="one block at a time")
        self._entered = threading.get_ident()
        self._calls = dict.fromkeys(self._modes, 0)
        for name, mode in self._modes.items():
            module = self._modules[name]
            own = vars(module).get("forward")
            patch = vars(module)["forward"] = Patch(self, name, module, mode, module.forward)
            self._patches.append((name, own, patch))
        return self

    def __exit__(self, *_: object) -> None:
        foreign = []
        try:
            for name, own, patch in reversed(self._patches):
                attributes = vars(self._modules[name])
                if attributes.get("forward") is not patch:
                    foreign.append(name)
                elif own is None:
                    del attributes["forward"]
                else:
                    attributes["forward"] = own
        finally:
            self._patches.clear()
            self._entered = None
            _PATCHING.release()
        if foreign:
            hint = "What is patched inside the block must be restored inside it"
            raise ArgumentError(
                f"tap {foreign[0]!r}", got="another tool's patch", expected="our own, to remove it", hint=hint
            )

    def count(self, name: str) -> int | None:
        """How many calls of a tapped module came before, counting this one from now on; None in another thread.

        Raises:
            ArgumentError: After the block.
        """
        if self._entered is None:
            raise ArgumentError(f"tap {name!r}", got="a use after exit", expected="the module's own forward")
        if threading.get_ident() != self._entered:
            return None
        number = self._calls[name]
        self._calls[name] = number + 1
        return number
