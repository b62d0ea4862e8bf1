"""Residuals of block stacks: what the policies decide, and that one run knows nothing of another."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.errors import ArgumentError, UnknownNameError
from pushforward.models import reuse
from pushforward.models.reuse import ResidualCache, Schedule

STEPS = 12
TIMES = [i / STEPS for i in range(STEPS)]
ALWAYS: list[tuple[Any, dict[str, Any]]] = [
    (reuse.Interval(1), {}),
    (reuse.Interval(1), {"first": False}),
    (reuse.Accumulated(0.0, (1.0, -5.0)), {"first": False, "probe": "blocks.0.norm"}),
    (reuse.FirstBlock(0.0), {}),
    (reuse.FirstBlock(0.0), {"lag": 1}),
    (reuse.MagnitudeRatio([1.0] * STEPS, threshold=0.0), {"first": False}),
]
SOMETIMES: list[tuple[Any, dict[str, Any]]] = [
    (reuse.Accumulated(0.3, (0.5, 1.0, 0.0)), {"first": False, "probe": "blocks.0.norm"}),
    (reuse.Accumulated(0.3), {"first": False}),
    (reuse.FirstBlock(0.15), {}),
    (reuse.FirstBlock(0.15), {"probe": "blocks.0.norm"}),
    (reuse.FirstBlock(0.15), {"lag": 1}),
    (reuse.MagnitudeRatio([1.0] + [0.95] * (STEPS - 1), threshold=0.2), {"first": False}),
    (reuse.Interval(3), {}),
]


class Block(nn.Module):
    """Adaptive norm and a residual branch; with ``pair``, the second of two streams as well, until the last block."""

    def __init__(self, pair: bool, last: bool) -> None:
        super().__init__()
        self.pair, self.last, self.runs = pair, last, 0
        self.norm, self.branch = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, h: Tensor, text: Tensor | None = None, emb: Tensor | None = None) -> Any:
        self.runs += len(h)
        assert emb is not None
        h = h + torch.tanh(self.branch(self.norm(h) * (1 + emb[:, None])))
        if not self.pair:
            return h
        return (None if self.last else text + torch.tanh(h.mean(1, keepdim=True)), h)


class Transformer(nn.Module):
    """Tokens in, tokens out."""

    def __init__(self, pair: bool = False) -> None:
        super().__init__()
        self.pair = pair
        self.embed, self.time, self.head = nn.Linear(2, 4), nn.Linear(1, 4), nn.Linear(4, 2)
        self.blocks = nn.ModuleList([Block(pair, i == 3) for i in range(4)])
        self.text = nn.Parameter(torch.ones(1, 2, 4))

    def forward(self, x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
        h, emb = self.embed(x), self.time(t[:, None]) + shift[:, None]
        text = self.text.expand(len(x), 2, 4)
        for block in self.blocks:
            if self.pair:
                text, h = block(h=h, text=text, emb=emb)
            else:
                h = block(h, emb=emb)
        return self.head(h * (1 + emb[:, None]))


@cache
def network(pair: bool = False) -> Transformer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Transformer(pair).double().requires_grad_(False)


@cache
def base(pair: bool = False) -> pf.models.Model:
    return pf.models.adapt(network(pair), null={"shift": torch.zeros(1, dtype=torch.float64)})


def cached(policy: Any, pair: bool = False, **own: Any) -> ResidualCache:
    return ResidualCache.around(base(pair), schedule=Schedule(TIMES, policy), **{"blocks": "blocks", **own})


SHIFT = {"shift": torch.tensor([0.1, -0.2], dtype=torch.float64)}
START = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def execute(model: pf.models.Model, guidance: float = 1.0, start: Tensor = START) -> tuple[Tensor, Any]:
    bound = model.bind(SHIFT)
    plan = pf.make_plan(model, solver="euler", steps=STEPS, guidance=guidance)
    return pf.solvers.Executor(plan, start).run(bound.evaluate), bound


def fresh(bound: Any) -> list[bool]:
    return [decision.fresh for decision in bound.log]


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize(("policy", "own"), ALWAYS, ids=str)
def test_threshold_zero_is_the_model_bit_for_bit(policy: Any, own: dict[str, Any], pair: bool) -> None:
    found, bound = execute(cached(policy, pair, **own), guidance=2.0)
    assert torch.equal(found, execute(base(pair), guidance=2.0)[0])
    assert fresh(bound) == [True] * STEPS


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize(("policy", "own"), SOMETIMES, ids=str)
def test_runs_reuse_and_are_independent(policy: Any, own: dict[str, Any], pair: bool) -> None:
    model, net = cached(policy, pair, **own), network(pair)
    before = [block.runs for block in net.blocks]
    first, bound = execute(model)
    skipped = fresh(bound).count(False)
    runs = [block.runs - old for block, old in zip(net.blocks, before, strict=True)]
    assert 0 < skipped < STEPS
    assert runs[1:] == [2 * (STEPS - skipped)] * 3
    partly = 0 if own.get("first", True) or own.get("probe") else skipped
    assert runs[0] == 2 * (STEPS - partly)
    exact = execute(base(pair))[0]
    assert 0 < float((first - exact).norm()) < 0.2 * float(exact.norm())
    plan = pf.make_plan(model, solver="euler", steps=STEPS)
    bounds = [bound, model.bind(SHIFT)]  # a second run with what remembers the first, and another beside it
    starts = [START, 2 * START.flip(0)]
    turns = [pf.solvers.Executor(plan, start) for start in starts]
    for requests in zip(*turns, strict=True):
        for run, here, request in zip(turns, bounds, requests, strict=True):
            run.supply(here.evaluate(request.input, request.time, request.branches))
    assert torch.equal(turns[0].result, first)
    assert torch.equal(turns[1].result, execute(model, start=starts[1])[0])
    assert not [name for name, module in net.named_modules() if "forward" in vars(module)]


def test_accumulated_changes_are_those_of_a_replay() -> None:
    polynomial, threshold = (3.0, 0.4, -0.01), 0.12
    _, bound = execute(cached(reuse.Accumulated(threshold, polynomial), first=False))
    changes = np.array([np.nan if d.change is None else d.change for d in bound.log])
    pattern, total = [], 0.0
    for k in range(STEPS):  # NumPy alone, from the changes
        total += 0.0 if k == 0 else max(np.polyval(polynomial, changes[k]), 0.0)
        compute = k in (0, STEPS - 1) or total >= threshold
        pattern.append(compute)
        total = 0.0 if compute else total
    assert fresh(bound) == pattern
    assert 3 < sum(pattern) < STEPS - 2


def test_the_probe_of_a_first_block_is_its_residual_since_the_last_computed_one() -> None:
    """The first decision, by hand."""
    net, model = network(False), cached(reuse.FirstBlock(1e9))
    bound, x = model.bind(SHIFT), START
    for index in (0, 1, 2):
        bound.evaluate(x + 0.1 * index, TIMES[index])

    def residual(x: Tensor, t: float) -> Tensor:
        h = net.embed(x)
        return net.blocks[0](h, emb=net.time(torch.full((2, 1), t, dtype=torch.float64)) + SHIFT["shift"][:, None]) - h

    old, new = residual(x, TIMES[0]), residual(x + 0.2, TIMES[2])
    assert bound.log[2].change == pytest.approx(float((new - old).abs().mean() / old.abs().mean()), rel=1e-12)


def test_a_late_reading_decides_one_step_later() -> None:
    logs = []
    for lag in (0, 1):
        bound = cached(reuse.Accumulated(1e9), first=False, probe="blocks.0.norm", lag=lag).bind(SHIFT)
        for index, t in enumerate(TIMES):  # the probe depends on the state and the time alone
            bound.evaluate(START + 0.1 * index**2, t)
        logs.append(bound.log)
    prompt, late = ([decision.change for decision in log] for log in logs)
    assert prompt[0] is late[0] is late[1] is None
    assert late[2:] == prompt[1:-1]
    assert [d.index for d in logs[1] if d.fresh] == [0, 1, STEPS - 1], "nothing is known at the second"


def test_branches_in_two_calls_have_memories_of_their_own() -> None:
    policy = reuse.Accumulated(0.3)
    apart = dataclasses.replace(base(), sequential=True)
    model = ResidualCache.around(apart, schedule=Schedule(TIMES, policy), blocks="blocks", first=False)
    _, bound = execute(model, guidance=2.0)
    assert len(bound.log) == 2 * STEPS
    conditional = [d.change for d in bound.log[::2]]
    alone = [d.change for d in execute(model, guidance=1.0)[1].log]
    assert conditional[1] == pytest.approx(alone[1], rel=0.2), "compared with its own branch"


def test_magnitudes_are_measured_and_steer() -> None:
    measured = execute(cached(reuse.Interval(1), first=False, measure=True))[1]
    table = measured.magnitude_ratios()
    bound, inputs, outputs, net = base().bind(SHIFT), [], [], network(False)
    hooks = [
        net.blocks[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0])),
        net.blocks[3].register_forward_hook(lambda module, args, out: outputs.append(out)),
    ]
    pf.solvers.Executor(pf.make_plan(base(), solver="euler", steps=STEPS), START).run(bound.evaluate)
    for hook in hooks:
        hook.remove()
    norms = torch.stack([(y - x).norm(dim=-1).flatten() for x, y in zip(inputs, outputs, strict=True)])
    expected = (norms[1:] / norms[:-1]).mean(1).numpy()
    np.testing.assert_allclose(table[1:], expected, rtol=1e-10)
    policy = reuse.MagnitudeRatio(table, threshold=0.06)
    keys, (product, error, row) = [], (1.0, 0.0, 0)
    for k in range(STEPS):
        product, row = product * table[k], row + 1
        error += abs(1 - product)
        if k < 0.2 * STEPS or error >= 0.06 or row > 3:
            keys.append(k)
            product, error, row = 1.0, 0.0, 0
    assert Schedule(TIMES, policy).keys == tuple(keys)
    with pytest.raises(ArgumentError, match=r"no ratios at evaluations \[1, 2"):
        execute(cached(reuse.Interval(2), first=False))[1].magnitude_ratios()


def test_a_table_of_another_length_keeps_its_products() -> None:
    table = [1.0, *np.exp(np.linspace(-0.2, 0.1, 20))]
    with pytest.raises(ArgumentError, match=r"21 ratios, expected 12, as the run\. Or interpolate=True"):
        Schedule(TIMES, reuse.MagnitudeRatio(table))
    policy = reuse.MagnitudeRatio(table, interpolate=True)
    products = np.cumprod([policy.ratio(k, 11) for k in range(11)])
    np.testing.assert_allclose(products, np.cumprod(table)[::2], rtol=1e-12)


def test_transformers_of_diffusers_with_two_streams() -> None:
    module = pipelines.seeded(
        pipelines.diffusers.SD3Transformer2DModel, sample_size=8, patch_size=2, in_channels=4, num_layers=3,
        attention_head_dim=4, num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=8,
        pooled_projection_dim=6, out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip
    plain = pf.models.from_diffusers(module, pipelines.diffusers.FlowMatchEulerDiscreteScheduler())
    condition = {"encoder_hidden_states": pipelines.normal(2, 5, 8), "pooled_projections": pipelines.normal(2, 6)}
    x, run = pipelines.normal(2, 4, 8, 8), {"solver": "euler", "steps": 4}
    plan = pf.make_plan(plain, **run)

    def result(policy: Any, **own: Any) -> Tensor:
        model = ResidualCache.around(plain, schedule=Schedule.of(plan, policy), blocks="transformer_blocks", **own)
        return pf.sample(model, x, condition=condition, **run)

    dense = pf.sample(plain, x, condition=condition, **run)
    for own in ({}, {"first": False}, {"first": False, "probe": "transformer_blocks.0.norm1"}):
        assert torch.equal(result(reuse.FirstBlock(0.0), **own), dense)
        reused = result(reuse.FirstBlock(1e9), **own)
        assert 0 < float((reused - dense).abs().max()) < float(dense.abs().max())


def test_bad_stacks() -> None:
    schedule = Schedule(TIMES, reuse.FirstBlock(0.1))
    around = lambda **own: ResidualCache.around(base(), schedule=schedule, **own)  # noqa: E731
    with pytest.raises(ArgumentError, match=r"blocks: got .*, expected two or more"):
        around(blocks="blocks.0")
    with pytest.raises(UnknownNameError, match=r"'block', expected a module of Transformer"):
        around(blocks=["block", "blocks.1"])
    with pytest.raises(ArgumentError, match=r"a submodule of the first block, blocks.0\.\*"):
        around(blocks="blocks", probe="blocks.1.norm")
    with pytest.raises(ArgumentError, match="lag"):
        around(blocks="blocks", lag=2)
    with pytest.raises(ArgumentError, match=r"expected a reuse\.Schedule"):
        ResidualCache.around(base(), schedule=TIMES, blocks="blocks")
    odd = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).double()
    model = pf.models.adapt(nn.Sequential(odd), call="x")
    with pytest.raises(ArgumentError, match="blocks that return tensors of the same shapes"):
        execute_once(ResidualCache.around(model, schedule=Schedule(TIMES), blocks="0"))


def execute_once(model: ResidualCache) -> None:
    model.bind().evaluate(torch.ones(1, 2, dtype=torch.float64), 0.0)


def test_bad_policies() -> None:
    with pytest.raises(ArgumentError, match=r"table: got nothing.*Measure one"):
        reuse.MagnitudeRatio()
    with pytest.raises(ArgumentError, match="positive ratios"):
        reuse.MagnitudeRatio([1.0, -1.0])
    for kind, options in (
        (reuse.Accumulated, {"threshold": -0.1}),
        (reuse.FirstBlock, {"threshold": math.nan}),
        (reuse.FirstBlock, {"threshold": math.inf}),
        (reuse.MagnitudeRatio, {"table": [1.0, 1.0], "threshold": -1.0}),
    ):
        with pytest.raises(ArgumentError, match="threshold"):
            kind(**options)
    with pytest.raises(ArgumentError, match="polynomial"):
        reuse.Accumulated(0.1, (math.nan,))
    with pytest.raises(ArgumentError, match="warmup"):
        reuse.MagnitudeRatio([1.0, 1.0], warmup=2.0)
    with pytest.raises(ArgumentError, match="warmup"):
        reuse.Interval(2, warmup=-1)
