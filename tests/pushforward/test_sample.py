from __future__ import annotations

import pytest
import torch

import pushforward as pf
from pushforward.errors import ArgumentError, DtypeError, GridError, ShapeError, SingularTimeError, UnknownNameError

gaussian = pf.models.GaussianOracle([0.7, -0.2], [[0.3, 0.1], [0.1, 0.2]])


GRIDS = ["uniform", "shifted", "cosine", "karras", "log_snr"]
CASES = [(path, grid) for path in ("linear", "trigonometric", "vp", "cosine", "ve") for grid in GRIDS]
CASES += [("edm", grid) for grid in ("cosine", "karras", "log_snr")]  # uniform levels from 80 leave out the data's own


@pytest.mark.parametrize(("path", "grid"), CASES)
def test_samples_have_the_right_mean_and_variance(path: str, grid: str) -> None:
    """Grids on interpolants, from noise to data, against the data's moments at 5 standard errors.

    160 Heun steps leave a bias that is well below the statistical error; one hundredth is allowed for it.
    """
    oracle = pf.models.GaussianOracle([0.7, -0.2], [[0.3, 0.1], [0.1, 0.2]], path)
    count = 4000
    x = pf.sample(oracle.model(), (count, 2), solver="heun", steps=160, grid=grid, dtype=torch.float64)
    spread = oracle.covariance.diagonal().sqrt()
    assert ((x.mean(0) - oracle.mean).abs() < 5 * spread / count**0.5 + 0.01).all()
    assert (x.var(0) / spread**2 - 1).abs().max() < 5 * (2 / count) ** 0.5 + 0.01


def test_backward_integration_inverts() -> None:
    model = gaussian.model()
    noise = pf.sample(model, gaussian.sample(8, seed=3), solver="rk4", steps=50, backward=True)
    exact = gaussian.flow_map(gaussian.sample(8, seed=3), 1.0, 0.0)
    assert (noise - exact).abs().max() < 1e-6
    again = pf.sample(model, noise, solver="rk4", steps=50)
    assert (again - gaussian.sample(8, seed=3)).abs().max() < 1e-6


def test_starts_are_the_noise_of_seed_and_sample() -> None:
    seen: list[torch.Tensor] = []
    model = pf.models.adapt(lambda x, t: seen.append(x.clone()) or x)
    pf.sample(model, (4, 3), steps=1, solver="euler", seed=9)
    pf.sample(model, (1, 3), steps=1, solver="euler", seed=9, samples=torch.tensor([2]))
    assert torch.equal(seen[1], seen[0][2:3])
    edm = pf.models.adapt(lambda x, t: seen.append(x.clone()) or x, "denoised", "edm")
    pf.sample(edm, (4, 3), steps=1, solver="ddim", seed=9)
    assert torch.equal(seen[2], 80.0 * seen[0])


def test_guidance_interval_skips_rows() -> None:
    rows: list[int] = []

    def network(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return -x * label.reshape(-1, 1)

    model = pf.models.adapt(network, null={"label": torch.zeros(1)})
    guidance = pf.models.Guidance(3.0, interval=(0.25, 0.75))
    pf.sample(model, (5, 2), solver="euler", steps=8, guidance=guidance, condition={"label": torch.ones(1)})
    assert rows == [5, 5, 10, 10, 10, 10, 5, 5]


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    pf.sample(gaussian.model(), (2, 2), steps=3, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "heun" in captured.err


def test_the_plan_is_what_sample_runs() -> None:
    plan = pf.make_plan(gaussian.model(), solver="heun", steps=7)
    network = gaussian.network("velocity")
    model = pf.models.adapt(network, network.prediction)
    pf.sample(model, (2, 2), solver="heun", steps=7, dtype=torch.float64)
    assert network.calls == plan.nfe == 14


def test_gradients_reach_parameters_and_start() -> None:
    network = torch.nn.Linear(2, 2)
    model = pf.models.adapt(lambda x, t: network(x))
    x0 = torch.ones(3, 2, requires_grad=True)
    assert not pf.sample(model, x0, steps=2).requires_grad
    for checkpoint in (False, True):
        x = pf.sample(model, x0, steps=2, differentiable=True, checkpoint=checkpoint)
        gradients = torch.autograd.grad(x.sum(), [x0, network.weight])
        assert all(g.abs().sum() > 0 for g in gradients)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ArgumentError, "steps: got 0, expected an integer, at least 1"),
        ({}, ArgumentError, "steps: got None|steps"),
        ({"steps": 4, "solver": "hoin"}, UnknownNameError, "solver: got 'hoin', expected one of"),
        ({"steps": 4, "grid": "linear"}, UnknownNameError, "grid: got 'linear'"),
        ({"grid": [0.0, 0.6, 0.5, 1.0]}, GridError, r"grid\[2\]: got 0.5 after 0.6"),
        ({"grid": [0.5, 1.0]}, ArgumentError, "not pure noise"),
        ({"steps": 4, "backward": True}, ArgumentError, "backward=True"),
        ({"steps": 4, "guidance": 2.0}, ArgumentError, "guidance weight 2"),
        ({"steps": 4, "guidance": float("nan")}, ArgumentError, "nan"),
        ({"steps": 4, "seed": -1}, ArgumentError, "seed"),
        ({"steps": 4, "dtype": torch.int64}, DtypeError, "dtype"),
        ({"steps": 4, "samples": torch.tensor([0])}, ShapeError, "samples"),
        ({"steps": 4, "last_step": "none"}, ArgumentError, "last_step"),
        ({"steps": 4, "check": "never"}, ArgumentError, "check"),
    ],
)
def test_bad_arguments_are_named(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pf.sample(gaussian.model(), (2, 2), **options)


def test_other_bad_starts_are_named() -> None:
    model = gaussian.model()
    with pytest.raises(ShapeError, match="start"):
        pf.sample(model, (2, -1), steps=2)
    with pytest.raises(ArgumentError, match="dtype, device"):
        pf.sample(model, torch.zeros(2, 2), steps=2, dtype=torch.float64)
    with pytest.raises(SingularTimeError, match="t: got 0"):
        pf.sample(gaussian.model("noise"), (2, 2), steps=2)
    with pytest.raises(DtypeError, match="x0"):
        pf.sample(model, torch.zeros(2, 2, dtype=torch.int32), steps=2)
