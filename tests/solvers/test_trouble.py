"""What a run says when something goes wrong: which step, which time, what came, what was expected."""

from __future__ import annotations

import pytest
import torch
from runs import ALL, GRID, field, make, noise

import pushforward as pf
from pushforward import models, solvers
from pushforward.errors import ArgumentError, DtypeError, NotFiniteError, PlanError, PushforwardError, ShapeError
from pushforward.solvers import Executor


def broken_at(step: int, value: float):
    def network(x: torch.Tensor, t: float, branches: tuple[str, ...]) -> list[torch.Tensor]:
        out = field(x, t)[0]
        if abs(t - GRID[step]) < 1e-9:
            out[1, 0] = value
        return [out]

    return network


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["euler", "ab3", "pseudo_corrector", "euler_maruyama"])
def test_a_bad_number_is_reported_with_step_and_time(name: str, value: float, backend: str) -> None:
    plan = make(name)
    step = next(e.step for e in plan.evaluations if abs(e.time - GRID[5]) < 1e-9)
    with pf.kernels.backend(backend), pytest.raises(NotFiniteError) as caught:
        Executor(plan, noise(3, 4)).run(broken_at(5, value))
    assert f"network output at step {step}, t = 0.6" in str(caught.value)
    assert "1 of 3 samples (rows 1)" in str(caught.value)
    assert (caught.value.step, round(caught.value.t, 9)) == (step, 0.6)


def test_checking_before_shows_input_and_last_state() -> None:
    with pytest.raises(NotFiniteError, match=r"step 5, t = 0\.6: got 1 NaN.*Its input was finite") as caught:
        Executor(make("euler"), noise(3, 4), check="before").run(broken_at(5, float("nan")))
    assert torch.isfinite(caught.value.x).all()
    assert torch.isfinite(caught.value.state).all()


def test_checks_can_be_turned_off() -> None:
    assert Executor(make("euler"), noise(3, 4), check="off").run(broken_at(5, float("nan"))).isnan().any()


def test_other_origins_of_bad_numbers_are_told_apart() -> None:
    with pytest.raises(NotFiniteError, match="x0: got 1 NaN"):
        Executor(make(), torch.tensor([[1.0, float("nan")]])).run(lambda x, t, b: [torch.ones_like(x)])
    with pytest.raises(NotFiniteError, match=r"left the range of torch\.float16"):
        Executor(make("euler"), torch.full((1, 2), 6e4, dtype=torch.float16)).run(
            lambda x, t, b: [torch.full_like(x, 6e4)]
        )
    model = models.GaussianOracle([0.5], [[0.3]]).model()
    with pytest.raises(NotFiniteError, match="transform 'transform' at step 0"):
        pf.sample(model, noise(3, 1, dtype=torch.float64), steps=4, transform=lambda d, t: d / 0)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (lambda x: x[:, :1], ShapeError, r"network output at step 2, t = 0\.3: got \[2, 1\], expected \[2, 3\]"),
        (lambda x: torch.cat([x, x], 1), ShapeError, "Twice the channels"),
        (lambda x: x.double(), DtypeError, r"network output at step 2, t = 0\.3: got torch\.float64"),
        (lambda x: x.to("meta"), PushforwardError, r"step 2, t = 0\.3: got meta, expected cpu"),
        (lambda x: None, DtypeError, "step 2.*NoneType"),
    ],
)
def test_a_bad_output_is_reported_with_step_and_time(output, error: type[Exception], message: str) -> None:
    def network(x: torch.Tensor, t: float, branches: tuple[str, ...]) -> list[torch.Tensor]:
        return [x.clone() if t < 0.29 else output(x)]

    with pytest.raises(error, match=message):
        Executor(make("euler"), noise(2, 3)).run(network)


def test_misuse_is_named() -> None:
    x0 = noise(2, 3)
    with pytest.raises(PlanError, match="expected 'optimised'"):
        Executor(solvers.plan(ALL["euler"], GRID), x0)
    with pytest.raises(DtypeError, match="x0"):
        Executor(make(), torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ShapeError, match="x0"):
        Executor(make(), torch.tensor(1.0))
    with pytest.raises(ArgumentError, match="check"):
        Executor(make(), x0, check="sometimes")
    with pytest.raises(ArgumentError, match="seed"):
        Executor(make("euler_maruyama"), x0, seed=-1).run(field)
    run = Executor(make(), x0)
    with pytest.raises(PlanError, match="pending request"):
        run.supply([x0])
    next(run)
    with pytest.raises(PlanError, match="supply"):
        next(run)
    with pytest.raises(ArgumentError, match="outputs"):
        run.supply([x0, x0])


def test_a_checkpointed_run_checks_its_network_too() -> None:
    def run(network) -> None:
        x0 = noise(2, 3).requires_grad_()
        Executor(make("heun"), x0, differentiable=True).run(network, checkpoint=True)

    with pytest.raises(ShapeError, match=r"network output at step 0, t = 0\.1: got \[2, 1\]"):
        run(lambda x, t, branches: [x[:, :1]])
    with pytest.raises(NotFiniteError, match=r"network output at step 4, t = 0\.6"):
        run(lambda x, t, branches: [x / 0 if t > 0.55 else x * t])
