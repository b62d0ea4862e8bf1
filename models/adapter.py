"""Model: a network together with how to call it and how to read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, UnknownNameError
from .binding import BoundModel, missing_branch
from .bound import Bound
from .calls import CALLS, Autocast, Call, call_x_t
from .capabilities import Remembers
from .clocks import Clock
from .guidance import CONDITIONAL, UNCONDITIONAL, BranchWeights, as_guidance
from .interpolants import Interpolant
from .predictions import Prediction, prediction

TIME_SHAPES = ("batch", "scalar", "one", "token")


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its dialect. Immutable and free of state: share it between runs and threads.

    Made by :func:`adapt`, by the adapters of families (``from_...``) or an oracle's ``model()``.

    Attributes:
        network: What is called.
        prediction: What it returns, on which path, and its clock.
        null: What replaces the condition in the unconditional branch, key by key; None if nobody said.
        branches: What replaces it in further branches of guidance, by their names; see :meth:`with_branches`.
        dtype: The network's dtype: inputs are cast to it and outputs cast back; None leaves both alone.
        time_dtype: Dtype of the times: float32, or float64 for float64 states, unless given.
        time_shape: "batch" ([B]), "one" ([1]), "scalar" ([]), or "token": [B], and [B, N] where tokens have times of
            their own.
        call: ``call(network, x, time, condition) -> Tensor``.
        shared: Keys of the condition whose tensors have no batch dimension.
        split_variance: The network returns 2C channels: a prediction, and a variance for solvers that ask for one.
        sequential: Run the branches of a guided step one after another: half the memory, more calls.
        channels: Size of dimension 1 of the states, if known.
        defaults: What the condition of every run starts from, key by key, in all its branches.
        latent: Whether the states are known to be latents of an autoencoder, which have no range to be kept in.
        output_hint: What to try if outputs have another shape than the state.
        null_hint: What to say where guidance lacks a null condition, if there is more to say.
    """

    network: Callable[..., Any]
    prediction: Prediction
    null: Mapping[str, Any] | None = None
    dtype: torch.dtype | None = None
    time_dtype: torch.dtype | None = None
    time_shape: str = "batch"
    call: Call = call_x_t
    shared: tuple[str, ...] = ()
    split_variance: bool = False
    sequential: bool = False
    channels: int | None = None
    defaults: Mapping[str, Any] | None = None
    output_hint: str | None = field(default=None, repr=False)
    branches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    null_hint: str | None = field(default=None, repr=False)
    latent: bool = False

    @property
    def interpolant(self) -> Interpolant:
        """The path of the prediction."""
        return self.prediction.interpolant

    @property
    def remembers(self) -> Remembers:
        """What answers depend on besides state, time and condition: a network and its dialect remember nothing."""
        return Remembers.NOTHING

    def on(self, path: Interpolant | str) -> Model:
        """The same network serving solvers on another path; D and the noise are the same functions of nu."""
        return dataclasses.replace(self, prediction=self.prediction.on(path))

    def reading(self, prediction: Prediction) -> Model:
        """The same network, whose output is read as another prediction says."""
        return dataclasses.replace(self, prediction=prediction)

    def with_branches(self, **conditions: Mapping[str, Any]) -> Model:
        """The model with further branches of guidance: the same network under other conditions.

        Args:
            **conditions: What replaces the run's condition, key by key, in the branch of that name.

        Raises:
            ArgumentError: A name that is taken, a condition that is no mapping.

        Example:
            >>> from pushforward.models import Blend
            >>> model = adapt(lambda x, t, y: y - x).with_branches(up={"y": torch.ones(1)}, far={"y": torch.zeros(1)})
            >>> sorted(model.bind({"y": torch.ones(1)}, guidance=Blend(up=3.0, far=-2.0)).conditions)
            ['cond', 'far', 'null', 'up']
        """
        taken = {CONDITIONAL, UNCONDITIONAL, *self.branches}
        for name, condition in conditions.items():
            if name in taken:
                raise ArgumentError("branch", got=repr(name), expected="a name other than " + ", ".join(sorted(taken)))
            check_mapping(name, condition)
        return dataclasses.replace(self, branches={**self.branches, **conditions})

    def with_networks(self, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Model:
        """The model with other networks in the places of its own: compiled ones, or such as count their calls.

        Example:
            >>> model = adapt(lambda x, t: -x).with_networks(lambda network: lambda x, t: 2 * network(x, t))
            >>> model.evaluate(torch.ones(1, 1), 0.5)
            (tensor([[-2.]]),)
        """
        return dataclasses.replace(self, network=change(self.network))

    def bind(
        self,
        condition: Mapping[str, Any] | None = None,
        null: Mapping[str, Any] | None = None,
        guidance: BranchWeights | float | None = None,
    ) -> Bound:
        """The model with the conditions of one run, and that run's buffers.

        Args:
            condition: Keyword arguments of the network: tensors of batch B or 1, or trees of them.
            null: What replaces them, key by key, in the unconditional branch; by default the model's own.
            guidance: Only to fail now rather than at the first guided step if a branch is missing.

        Raises:
            ArgumentError: A condition that is no mapping; guidance by a branch that the model does not have.
        """
        null = self.null if null is None else null
        for name, given in (("condition", condition), ("null", null)):
            if given is not None:
                check_mapping(name, given)
        own = {**(self.defaults or {}), **(condition or {})}
        conditions = {CONDITIONAL: own, UNCONDITIONAL: None if null is None else {**own, **null}}
        conditions.update({name: {**own, **other} for name, other in self.branches.items()})
        check_branches(conditions, guidance, self.null_hint)
        return BoundModel(self, conditions)

    def evaluate(
        self, x: Tensor, t: float, condition: Mapping[str, Any] | None = None, branches: tuple[str, ...] = ("cond",)
    ) -> tuple[Tensor, ...]:
        """One raw output for each branch, for one call; runs use :meth:`bind` and keep its tensors.

        Args:
            x: State times ``prediction.input_scale(t)``, shape [B, *D].
            t: Time in [0, 1]; the prediction's clock turns it into the network's.
            condition: As in :meth:`bind`.
            branches: "cond" and "null"; both are rows of one call.

        Returns:
            Tensors of the shape and dtype of x; two branches are views into one tensor.
        """
        return self.bind(condition).evaluate(x, t, branches)


def adapt(
    network: Callable[..., Any],
    prediction: str | Prediction = "velocity",
    interpolant: str | Interpolant = "linear",
    *,
    time: str | Clock | Mapping[str, Any] | Callable[[float], float] | None = None,
    null: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    time_dtype: torch.dtype | None = None,
    time_shape: str = "batch",
    call: str | Call = "x_t",
    shared: tuple[str, ...] = (),
    split_variance: bool = False,
    sequential: bool = False,
    channels: int | None = None,
    defaults: Mapping[str, Any] | None = None,
    latent: bool = False,
    autocast: torch.dtype | None = None,
    check: Tensor | None = None,
    **options: Any,
) -> Model:
    r"""A model from any callable.

    Args:
        network: Returns a tensor of the shape of its input x. Called as ``call`` says; must not write to x.
        prediction: What it returns: "velocity", "denoised", "noise", "score", "v", "edm" or a :class:`Prediction`.
        interpolant: The path it was trained on, by name or as an object.
        time: Its clock, as :func:`clock` takes it: "t", "1-t", "1000*(1-t)", "index", "log(nu)/4", "nu", a function.
        null: The unconditional condition, replacing the condition key by key, for classifier-free guidance.
        dtype: The network's dtype, if it is not that of the states: x and conditions are cast to it, outputs back.
            Times are never cast to it: in bfloat16, 999 is 1000.
        time_dtype: Dtype of the times, for instance torch.int64 for tables; by default float32, and float64 for
            float64 states.
        time_shape: "batch" for times [B], "one" for [1], "scalar" for [], "token" for [B] and, where tokens have times
            of their own, [B, N].
        call: "x_t" for ``network(x, time, **condition)``, "t_x" for ``network(time, x, **condition)``, "x" for
            ``network(x, **condition)``, or a function of (network, x, time, condition) returning the output tensor.
        shared: Keys of the condition whose tensors have no batch dimension (position ids).
        split_variance: The network returns twice the channels; the second half is dropped, but by
            ``pf.solver("ddpm", variance="learned")``.
        sequential: Run guided branches one after another.
        channels: Size of dimension 1 of the states, to check them.
        defaults: What the condition of every run starts from, key by key.
        latent: Whether the states are latents of an autoencoder; what is for pixels then refuses.
        autocast: Run the network, and nothing else, under torch.autocast with this dtype; outputs come back in the
            dtype of the states. None leaves whatever context there is.
        check: Clean samples [N, *D] to try the network on: :func:`validate` raises if it does not explain them as
            declared, and says what would. For a network that needs a condition call that function instead.
        **options: Of the prediction: ``sign``, ``input``, ``sigma_data``.

    Raises:
        UnknownNameError: No such prediction, interpolant, clock or call.
        ArgumentError: Options that contradict each other; a network that ``check`` finds misdeclared.

    Example:
        >>> model = adapt(lambda x, t: -x, "velocity", "linear", time="1-t", sign=-1)
        >>> model.evaluate(torch.ones(1, 2), 0.25)
        (tensor([[-1., -1.]]),)
    """
    if time is not None:
        options["network_time"] = time
    read = _prediction(prediction, interpolant, options)
    if isinstance(call, str):
        if call not in CALLS:
            raise UnknownNameError("call", got=repr(call), expected="'x_t', 't_x', 'x' or a function")
        call = CALLS[call]
    if time_shape not in TIME_SHAPES:
        raise UnknownNameError("time_shape", got=repr(time_shape), expected="'batch', 'one', 'scalar' or 'token'")
    if not callable(network):
        raise ArgumentError("network", got=type(network).__name__, expected="a callable")
    if autocast is not None:
        if autocast not in (torch.bfloat16, torch.float16):
            raise ArgumentError("autocast", got=autocast, expected="torch.bfloat16, torch.float16 or None")
        call = Autocast(call, autocast)
    hint = None if split_variance else "If the network also returns a variance, adapt it with split_variance=True"
    model = Model(
        network=network,
        prediction=read,
        null=null,
        dtype=dtype,
        time_dtype=time_dtype,
        time_shape=time_shape,
        call=call,
        shared=tuple(shared),
        split_variance=split_variance,
        sequential=sequential,
        channels=channels,
        defaults=defaults,
        output_hint=hint,
        latent=latent,
    )
    if check is not None:
        from .probing import validate

        validate(model, check)
    return model


def _prediction(kind: str | Prediction, path: str | Interpolant, options: dict[str, Any]) -> Prediction:
    """The prediction; an instance brings its own path and clock."""
    if isinstance(kind, Prediction):
        if options or path not in ("linear", kind.interpolant):
            raise ArgumentError("prediction", got=kind, expected="its name, if the path or options are given beside it")
        return kind
    return prediction(kind, path, **options)


def model_fields(model: Model) -> dict[str, Any]:
    """What every kind of model has, for another kind that speaks the same dialect."""
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(Model)}


def check_mapping(name: str, given: object) -> None:
    """Refuse a condition that does not name the network's arguments."""
    if not isinstance(given, Mapping):
        hint = "Name the network's argument, for instance {'y': labels}"
        raise ArgumentError(name, got=type(given).__name__, expected="a dict", hint=hint)


def check_branches(
    conditions: Mapping[str, object], guidance: BranchWeights | float | None, null_hint: str | None = None
) -> None:
    """Refuse guidance by branches that there are none of, before anything runs; ``null_hint`` if that is the null one.

    Raises:
        ArgumentError: A branch without a condition.
    """
    if guidance is None or (weights := as_guidance(guidance)) is None:
        return
    for branch in weights.branches:
        if conditions.get(branch) is None:
            if branch == UNCONDITIONAL and null_hint is not None:
                raise ArgumentError("null", hint=null_hint)
            raise missing_branch(branch, getattr(weights, "weight", None))
