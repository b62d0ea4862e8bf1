"""`sdeint` against torchsde: the same Brownian motion gives the same states and gradients; statistics; refusals."""

import math

import pytest
import torch
import torchsde

import pushforward as pf
from pushforward.errors import (
    ArgumentError,
    DtypeError,
    GridError,
    ShapeError,
    UnknownNameError,
)

double = {"dtype": torch.float64}
CHANNELS = {"diagonal": 3, "additive": 2, "scalar": 1, "general": 2}
CASES = [(noise, method, {}) for noise in ("diagonal", "additive", "scalar") for method in ("euler", "milstein", "srk")]
CASES += [
    ("general", "euler", {}),
    ("diagonal", "milstein", {"grad_free": True}),
    ("scalar", "milstein", {"grad_free": True}),
]


class Equation(torch.nn.Module):
    sde_type = "ito"

    def __init__(self, noise):
        super().__init__()
        self.noise_type = noise
        self.a, self.b = (torch.nn.Parameter(torch.tensor(v, **double)) for v in (0.3, 0.5))
        self.mix = torch.linspace(-1, 1, 3 * CHANNELS[noise], **double).reshape(3, -1)

    def f(self, t, y):
        return self.a * torch.sin(y) + t

    def g(self, t, y):
        if self.noise_type == "diagonal":
            return self.b * torch.cos(y) * (1 + t)
        if self.noise_type == "additive":
            return (self.b * (1 + t) * self.mix).expand(len(y), 3, 2)
        return self.b * torch.cos(y)[..., None] * (1 if self.noise_type == "scalar" else self.mix)


class Both(torch.nn.Module):
    """An equation that has both functions in one, under another name."""

    sde_type, noise_type = "ito", "diagonal"

    def __init__(self):
        super().__init__()
        self.equation = Equation("diagonal")

    def together(self, t, y):
        return self.equation.f(t, y), self.equation.g(t, y)


def motion(noise, **more):
    more = {"levy_area_approximation": "space-time", **more}
    return torchsde.BrownianInterval(0.0, 1.0, size=(4, CHANNELS[noise]), entropy=5, **double, **more)


def start():
    return torch.linspace(-1, 1, 12, **double).reshape(4, 3)


TIMES = torch.tensor([0.0, 0.33, 1.0], **double)  # 0.33 lies within a step


@pytest.mark.parametrize(("noise", "method", "options"), CASES)
def test_states_and_gradients_are_torchsdes(noise, method, options):
    found = []
    for sdeint in (torchsde.sdeint, pf.sdeint):
        sde, y0 = Equation(noise), start().requires_grad_()
        states = sdeint(sde, y0, TIMES, bm=motion(noise), method=method, dt=0.1, options=options)
        states.square().sum().backward()
        found.append((states.detach(), y0.grad, sde.a.grad, sde.b.grad))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_single_precision_and_a_list_of_times():
    sde = Equation("diagonal").float()
    motion = torchsde.BrownianInterval(0.0, 1.0, size=(4, 3), entropy=1, dtype=torch.float32)
    times = [0.0, 0.5, 1.0]
    theirs = torchsde.sdeint(sde, start().float(), times, bm=motion, method="euler", dt=0.125)
    ours = pf.sdeint(sde, start().float(), times, bm=motion, method="euler", dt=0.125)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_other_names_and_one_function_for_both():
    names = {"drift_and_diffusion": "together"}
    both = pf.sdeint(Both(), start(), TIMES, bm=motion("diagonal"), dt=0.1, names=names)
    plain = pf.sdeint(Equation("diagonal"), start(), TIMES, bm=motion("diagonal"), dt=0.1)
    torch.testing.assert_close(both, plain, rtol=1e-13, atol=1e-13)
    states, extra = pf.sdeint(Equation("diagonal"), start(), TIMES, bm=motion("diagonal"), dt=0.1, extra=True)
    assert extra == ()
    assert torch.equal(states, plain)
    assert torch.equal(pf.sdeint(Equation("diagonal"), start(), [0.0])[0], start())


@pytest.mark.parametrize("method", ["euler", "milstein", "srk"])
def test_adaptive_steps_converge_along_the_path(method):
    """To a run with fine fixed steps along the same motion, closer at a smaller tolerance; gradients of those steps."""
    noise = "additive" if method == "euler" else "diagonal"
    times = torch.tensor([0.0, 0.375, 1.0], **double)  # ends of fine steps: between those a line is no path
    tree = pf.BrownianTree((4, CHANNELS[noise]), 0.0, 1.0, seed=3, **double)
    with torch.no_grad():
        fine = pf.sdeint(Equation(noise), start(), times, bm=tree, method="srk", dt=1 / 512)
    errors = []
    for tolerance in (1e-2, 1e-4):
        kwargs = {"bm": tree, "method": method, "dt": 0.1, "adaptive": True, "rtol": 0.0, "atol": tolerance}
        with torch.no_grad():
            plain = pf.sdeint(Equation(noise), start(), times, **kwargs)
        errors.append(float((plain - fine).abs().max()))
    assert errors[1] < min(0.5 * errors[0], 1e-2)
    sde, y0 = Equation(noise), start().requires_grad_()
    states = pf.sdeint(sde, y0, times, **kwargs)
    torch.testing.assert_close(states.detach(), plain, rtol=1e-10, atol=1e-10)
    states.sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (y0, sde.a, sde.b))


def test_moments_of_geometric_brownian_motion_with_the_default_motion():
    """Mean and second moment of exp((a - b^2 / 2) + b W); four deviations of 20000 samples."""

    class Geometric:
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, y):
            return 0.3 * y

        def g(self, t, y):
            return 0.5 * y

    count, y0 = 20_000, torch.ones(20_000, 1, **double)
    torch.manual_seed(4)
    first = pf.sdeint(Geometric(), y0, [0.0, 1.0], dt=0.1)[-1]
    torch.manual_seed(4)
    assert torch.equal(pf.sdeint(Geometric(), y0, [0.0, 1.0], dt=0.1)[-1], first)
    assert not torch.equal(pf.sdeint(Geometric(), y0, [0.0, 1.0], dt=0.1)[-1], first)
    for power in (1, 2):
        exact, fourth = (math.exp(0.3 * k + 0.125 * k * (k - 1)) for k in (power, 2 * power))
        assert abs(float((first**power).mean()) - exact) < 4 * math.sqrt((fourth - exact**2) / count) + 2e-3


def test_refusals_are_named():
    def call(sde=None, y0=None, ts=(0.0, 1.0), **more):
        return pf.sdeint(sde or Equation("diagonal"), start() if y0 is None else y0, ts, **{"dt": 0.5, **more})

    def changed(**attributes):
        sde = Equation("diagonal")
        for name, value in attributes.items():
            setattr(sde, name, value)
        return sde

    cases = [
        ({"sde": changed(sde_type="stratonovich")}, UnknownNameError, "sde_type"),
        ({"sde": changed(noise_type="purple")}, UnknownNameError, "noise_type"),
        ({"sde": Equation("general"), "method": "srk"}, UnknownNameError, "method"),
        ({"method": "reversible_heun"}, UnknownNameError, "method"),
        ({"sde": object()}, UnknownNameError, "sde_type"),
        ({"names": {"drift": "missing"}}, ArgumentError, "no attribute 'missing'"),
        ({"sde": changed(g=lambda t, y: y[..., None])}, ShapeError, "^g"),
        ({"sde": changed(f=lambda t, y: y[:1])}, ShapeError, "^f"),
        ({"y0": torch.zeros(3, **double)}, ShapeError, "y0"),
        ({"y0": torch.zeros(2, 3, dtype=torch.int64)}, DtypeError, "y0"),
        ({"ts": [0.0, 0.0]}, GridError, "ts"),
        ({"ts": []}, GridError, "ts"),
        ({"dt": 0.0}, ArgumentError, "dt"),
        ({"adaptive": True, "dt_min": -1.0}, ArgumentError, "dt_min"),
        ({"adaptive": True, "atol": -1.0}, ArgumentError, "atol"),
        ({"bm": 3}, ArgumentError, "bm"),
        ({"bm": pf.BrownianTree((4, 2), 0.0, 1.0)}, ShapeError, "bm"),
        ({"bm": pf.BrownianTree((4, 3), 0.0, 1.0, area=False)}, ArgumentError, "bm"),
        ({"bm": lambda s, u: torch.zeros(4, 3, **double)}, ArgumentError, "bm"),
        ({"options": {"grad_free": True}}, ArgumentError, "options"),
        ({"logqp": True}, ArgumentError, "logqp"),
        ({"extra_solver_state": ()}, ArgumentError, "extra_solver_state"),
    ]
    for arguments, kind, message in cases:
        with pytest.raises(kind, match=message):
            call(**arguments)
    with pytest.warns(UserWarning, match="unused arguments rtl"):
        call(rtl=1.0)
    with pytest.warns(UserWarning, match="need not converge"):
        call(method="euler", adaptive=True, rtol=0.1, atol=0.1)
