"""`search`: inference-time search under a budget, one interface for all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import kernels
from ...errors import ArgumentError, DtypeError, ShapeError
from ...models import BranchWeights, Interpolant, Model, interpolant
from ...models.capabilities import check_rows_may_move, check_source_is_noise
from ...models.guidance import as_guidance
from ...models.verifiers import RankEnsemble, check_context, is_rowwise, name_of
from ..fitting import solver_for
from ..grids import GridFunction
from ..lowered import lowered_plan
from ..particles import Shard
from ..particles.distributed import GroupLike, shard_of
from ..run_times import run_times
from ..solver import FixedGridSolver
from ..start import check_starts_at_noise, network_device
from .budget import Budget, BudgetLike, Ledger
from .checkpoint import Checkpoint
from .driver import drive
from .fingerprint import fingerprint
from .method import Method, Outcome, at_least, methods
from .method import method as make_method
from .observers import Log, Observer, ProgressBar
from .plans import optimised_plan
from .result import SearchResult
from .task import Reward, Task
from .trace import Trace


def search(
    model: Model,
    reward: Reward,
    budget: BudgetLike,
    *,
    shape: Sequence[int],
    method: str | Method = "rbf",
    solver: str | FixedGridSolver | None = None,
    steps: int | None = None,
    grid: str | GridFunction | Sequence[float] | None = None,
    path: str | Interpolant | None = None,
    guidance: float | BranchWeights = 1.0,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    context: Any = None,
    held_out: Reward | None = None,
    keep: int = 1,
    seed: int = 0,
    requests: Tensor | None = None,
    batch: int | None = None,
    pad: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    checkpoint: str | Path | None = None,
    every: int = 1,
    every_seconds: float = 0.0,
    progress: bool = False,
    log: str | Path | None = None,
    observers: Sequence[Observer] = (),
    group: GroupLike = None,
    timeout: float | None = None,
) -> SearchResult:
    """Search for samples of high reward, within a budget of network evaluations.

    Args:
        model: A network with its prediction and interpolant; see :func:`pushforward.models.adapt`.
        reward: ``reward(x_clean[B, *D], context) -> [B]``, higher is better; see :mod:`pushforward.models.verifiers`.
            A :class:`RankEnsemble` where a method only compares finished samples: "best_of_n", "random", "zero_order".
        budget: A :class:`Budget`, or a number of evaluations, for each request.
        shape: [S, *D]: S independent requests (prompts), each searched for with a budget of its own.
        method: A name from :func:`methods`, or a method with its options, for instance ``SVDD(chains=4)``.
        solver, steps, grid, path: As in :func:`pushforward.sample`; by default the method's own. A grid that is given
            is on the model's path, unless that is given too; so is that of a fitted plan, which brings its own.
        guidance, condition, null: As in :func:`pushforward.sample`; tensors have S rows, or one.
        context: What the reward is told: a tree with an entry for each request, or for all; by default ``condition``,
            but for its shared tensors.
        held_out: A second verifier, asked about the best samples only, outside the budget.
        keep: How many of the best samples to return; methods that keep fewer return those.
        seed: Of all noise, in [0, 2**64).
        requests: Ids of the requests, int64 [S], distinct, in [0, 2**31): a request has the same result in any batch.
            0 .. S - 1 by default.
        batch: Rows of a network or reward call, at most.
        pad: Fill every network call up to ``batch`` rows, for results that do not depend on the batch by a single bit.
            These rows belong to nobody and are not counted. That takes a network to which all rows of such a call are
            alike: products of matrices may treat the last few apart, unless there are a multiple of 16.
        dtype, device: Of the states; by default float32 and the network's device.
        checkpoint: A file, with others beside it, in which the search is saved as it goes. If it is there already, the
            search goes on from it, and returns what it would have returned without the interruption, bit for bit; time
            spent before counts. See :class:`Checkpoint`.
        every, every_seconds: Saved after so many advances of the method, if so much time has passed.
        progress: Show a progress bar on stderr.
        log: A file for JSON lines, one whenever the search looks at its candidates; see :class:`Log`.
        observers: Functions of (task, state) that are called after every advance; see :class:`Observer`.
        group: Processes that share the rows: a process group of torch.distributed, True for the default one, "auto" for
            that if there is one. All of them make this call with the same arguments, and all have its result; see
            :class:`pushforward.solvers.particles.TorchShard`.
        timeout: Seconds that a process may keep the others waiting; by default the group's own.

    Returns:
        A :class:`SearchResult`.

    Raises:
        BudgetError: The budget does not pay for the least that the method needs; says how much would.
        CheckpointError: The checkpoint is of another search; says what differs.
        CorruptFileError: A file of the checkpoint is cut off or changed.
        DistributedError: Another process failed, is lost, or was given other arguments; says which.
        PushforwardError: A named error for every bad argument; what a reward or a network returns is checked.

    Example:
        >>> import pushforward as pf
        >>> model = pf.models.GaussianOracle([0.7], [[0.09]]).model()
        >>> result = pf.search(model, lambda x, _: x[:, 0], 100, shape=(1, 1), method="best_of_n", dtype=torch.float64)
        >>> result.ledger.nfe, bool(result.best > 0.9)
        (array([100]), True)

    """
    with shard_of(group, timeout) as shard, torch.no_grad():
        chosen = make_method(method)
        task = make_task(
            model,
            reward,
            Budget.of(budget),
            chosen,
            shape=shape,
            solver=solver,
            steps=steps,
            grid=grid,
            path=path,
            guidance=guidance,
            condition=condition,
            null=null,
            context=context,
            seed=seed,
            requests=requests,
            batch=batch,
            pad=pad,
            dtype=dtype,
            device=device,
            shard=shard,
        )
        at_least("keep", keep, 1)
        if shard.size > 1:
            saved = "none" if checkpoint is None else f"every {every} advances and {every_seconds:g} s"
            shard.check_same({**fingerprint(task, chosen), "keep": str(keep), "checkpoint": saved})
        watching = [*([ProgressBar()] if progress else []), *([] if log is None else [Log(log)]), *observers]
        store = None
        if checkpoint is not None:
            store = Checkpoint(checkpoint, task, chosen, every=every, every_seconds=every_seconds)
        outcome = drive(task, chosen, checkpoint=store, observers=watching)
        return result_of(task, chosen, outcome, held_out, keep)


def make_task(
    model: Model,
    reward: Reward,
    budget: Budget,
    method: Method,
    *,
    shape: Sequence[int],
    solver: str | FixedGridSolver | None = None,
    steps: int | None = None,
    grid: str | GridFunction | Sequence[float] | None = None,
    path: str | Interpolant | None = None,
    guidance: float | BranchWeights = 1.0,
    condition: Mapping[str, Any] | None = None,
    null: Mapping[str, Any] | None = None,
    context: Any = None,
    seed: int = 0,
    requests: Tensor | None = None,
    batch: int | None = None,
    pad: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    shard: Shard | None = None,
) -> Task:
    """What :func:`search` hands to a method; the arguments are the same."""
    sizes = tuple(shape)
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise ShapeError("shape", got=sizes, expected="[S, *D], positive integers: S requests of samples [*D]")
    if not dtype.is_floating_point:
        raise DtypeError("dtype", got=dtype, expected="a floating-point dtype")
    if budget.seconds is not None and not method.interruptible:
        expected = f"nfe or rewards: {method.name} cannot be cut short"
        raise ArgumentError("budget.seconds", got=budget.seconds, expected=expected)
    at_least("batch", batch, 1)
    check_reward_of_rows(reward, method)
    if pad and batch is None:
        raise ArgumentError("pad", got=True, expected="a number of rows as batch=")
    stepper = method.solver if solver is None else solver_for(model, solver, steps, guidance)
    target = interpolant(path or method.path or model.interpolant)
    own = stepper.times_on(model.interpolant) is not None
    if path is None and (grid is not None or own):  # explicit times are on the model's own path unless said otherwise
        target = model.interpolant
    schedule = method.grid if grid is None and not own else grid
    if steps is None and isinstance(schedule, str) and not own:
        steps = method.steps
    times = run_times(stepper, schedule, steps, target)
    chosen = as_guidance(guidance)
    prediction = model.prediction
    whole = (stepper, tuple(times), target, prediction, chosen)
    lowered = lowered_plan(*whole)
    lowered.check_plain("a search")
    check_starts_at_noise(lowered, "grid", "one that starts at noise")
    place = network_device(model) if device is None else torch.device(device)
    check_source_is_noise(model.prediction, "a search")
    check_rows_may_move(model)
    network = model.bind(condition, null, guidance)
    network.check_rows(sizes[0])
    if context is None and condition is not None:  # what has no batch is the network's alone
        context = {key: value for key, value in condition.items() if key not in model.shared}
    check_context(context, sizes[0])
    return Task(
        model=model,
        guidance=chosen,
        network=network,
        path=target,
        plan=optimised_plan(*whole),
        lowered=lowered,
        solver=stepper,
        schedule=schedule if not own and (isinstance(schedule, str) or callable(schedule)) else tuple(times),
        reward=reward,
        context=context,
        requests=check_requests(requests, sizes[0]),
        shape=sizes[1:],
        dtype=dtype,
        device=place,
        seed=kernels.Noise(seed, kernels.Draw(0, 0)).seed,
        ledger=Ledger(budget, sizes[0]),
        trace=Trace(),
        shard=shard or Shard(),
        batch=batch,
        pad=pad,
    )


def check_reward_of_rows(reward: Reward, method: Method) -> None:
    """Refuse a reward of sets, but for a rank ensemble where the method can take one.

    Raises:
        ArgumentError: Names the methods that can.
    """
    if is_rowwise(reward) or (method.ranks and isinstance(reward, RankEnsemble)):
        return
    able = ", ".join(repr(name) for name, other in methods() if other.ranks)
    expected = f"a reward of each row by itself, or a RankEnsemble with one of the methods {able}"
    hint = "Ranks among the finished samples are ensemble.scores(values), from the rewards of each verifier"
    raise ArgumentError("reward", got=f"{name_of(reward)} with {method.name}", expected=expected, hint=hint)


def check_requests(requests: Tensor | None, count: int) -> Tensor:
    """Ids of the requests, distinct.

    Raises:
        ShapeError, DtypeError: Not one int64 a request.
        ArgumentError: An id outside its range, or two requests that share one: they would receive the same noise.
    """
    if requests is None:
        return torch.arange(count)
    if not isinstance(requests, Tensor) or requests.dtype != torch.int64:
        raise DtypeError("requests", got=getattr(requests, "dtype", type(requests).__name__), expected="torch.int64")
    if requests.shape != (count,):
        raise ShapeError("requests", got=list(requests.shape), expected=f"[{count}], one id for each request")
    ids = requests.cpu()
    if int(ids.min()) < 0 or int(ids.max()) >= 2**31:
        raise ArgumentError("requests", got=f"{int(ids.min())} to {int(ids.max())}", expected="ids in [0, 2**31)")
    if len(torch.unique(ids)) < count:
        values, counts = torch.unique(ids, return_counts=True)
        shared = int(values[counts > 1][0])
        raise ArgumentError(
            "requests", got=f"id {shared} twice", expected="distinct ids", hint="Equal ids, equal noise"
        )
    return ids


def result_of(task: Task, method: Method, outcome: Outcome, held_out: Reward | None, keep: int) -> SearchResult:
    """The best samples of an outcome, with all that is known of them."""
    requests, count = outcome.rewards.shape
    if keep == 1:  # a hundredth of the time of sorting
        order = outcome.rewards.argmax(1, keepdim=True)
    else:
        order = torch.argsort(outcome.rewards, dim=1, descending=True, stable=True)[:, :keep]
    rows = (order + count * torch.arange(requests)[:, None]).reshape(-1)
    particles = outcome.particles
    samples = task.shard.fetch(particles.x, rows, len(particles))
    judged = None
    if held_out is not None:
        judged = task.judge(held_out, samples, particles.request[rows], lambda _: "held out").reshape(order.shape)
    return SearchResult(
        str(method),
        task.lowered.solver,
        samples.reshape(*order.shape, *task.shape),
        outcome.rewards,
        outcome.rewards.gather(1, order[:, :1])[:, 0],
        order,
        outcome.look_ahead,
        judged,
        outcome.log_weights,
        outcome.log_evidence,
        task.ledger,
        task.trace,
    )
