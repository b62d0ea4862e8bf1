"""Finding out what a network returns, and refusing what it does not."""

import math

import pytest
import torch

from pushforward.errors import ArgumentError
from pushforward.models import (
    DiscreteDDPM,
    adapt,
    from_diffusers,
    identify,
    prediction,
    reference_mixture,
    validate,
)
from pushforward.models.probing import TIMES, checked, described, hypotheses, nested_noise, noise_ratio

ORACLE = reference_mixture()
DATA = ORACLE.sample(100, seed=1)
STEPS = "1000*(1-t)"
EXACT = {"dtype": torch.float64, "time_dtype": torch.float64}
DECLARATIONS = [
    ("velocity", {}),
    ("velocity", {"sign": -1, "network_time": "1000*(1-t)"}),
    ("noise", {"network_time": "1-t"}),
    ("denoised", {"network_time": "1000*t"}),
    ("denoised", {"input": "ratio"}),
    ("score", {}),
    ("v", {"network_time": "nu"}),
    ("edm", {}),
]


@pytest.mark.parametrize(("kind", "options"), DECLARATIONS, ids=str)
def test_the_right_hypothesis_is_first(kind, options):
    """It is the posterior mean, and no function of the same input has a smaller expected error."""
    network = ORACLE.network(kind, **options)
    first, second, *_ = identify(network, DATA, **EXACT)
    assert first.prediction == prediction(kind, "linear", **options)
    assert first.error < 0.95 * second.error
    exact = [
        (ORACLE.denoised(t * (DATA + noise), t) - DATA).square().mean().item()
        for t, noise in zip(TIMES, nested_noise(DATA, TIMES, 0), strict=True)
    ]
    assert first.errors == pytest.approx(exact, rel=1e-9)


def test_networks_of_discrete_levels_are_found_among_hypotheses_of_their_path():
    path = DiscreteDDPM.linear()
    network = reference_mixture(path).network("v")
    found = identify(network, DATA, hypotheses(["linear", path]), **EXACT)
    # 1000 (1 - t) differs from the index by one in a thousand, and so hardly in what it explains.
    assert {one.prediction for one in found[:2]} == {prediction("v", path), prediction("v", path, network_time=STEPS)}
    assert found[1].error < 1.01 * found[0].error < found[2].error


def test_hypotheses_under_which_a_network_cannot_be_called_come_last():
    def network(x, t):
        if (t > 1).any():  # as a table of times would
            raise KeyError("no such time")
        return ORACLE.velocity(x, t)

    found = identify(network, DATA, **EXACT)
    assert found[0].prediction == prediction("velocity", "linear")
    assert found[-1].error == math.inf
    assert str(found[-1]).endswith(": inf")
    assert found[0].errors[0] > found[0].errors[-1]


def test_a_conditional_network_is_asked_with_its_conditions():
    label = (DATA[:, 0] > 0).long()

    def network(x, t, y):
        return ORACLE.velocity(x, t) if torch.equal(y, label) else 0 * x

    assert identify(network, DATA, condition={"y": label}, **EXACT)[0].prediction == prediction("velocity", "linear")


@pytest.mark.parametrize(("kind", "options"), DECLARATIONS, ids=str)
def test_true_declarations_are_accepted(kind, options):
    found = validate(adapt(ORACLE.network(kind, **options), kind, "linear", **EXACT, **_time(options)), DATA)
    assert found.times == TIMES
    assert found.variance == pytest.approx(DATA.var(0).mean().item())
    assert max(abs(drift) for drift in found.drifts) < 0.25
    assert all(later < earlier for earlier, later in zip(found.errors, found.errors[1:], strict=False))


WRONG = [("velocity", {"sign": -1, "network_time": "1000*(1-t)"}), ("noise", {})]


@pytest.mark.parametrize(
    ("kind", "options", "declared"),
    [(*one, WRONG[i % 2]) for i, one in enumerate(DECLARATIONS) if one != WRONG[0]],
    ids=str,
)
def test_wrong_declarations_are_answered_with_what_fits(kind, options, declared):
    model = adapt(ORACLE.network(kind, **options), declared[0], "linear", **EXACT, **_time(declared[1]))
    with pytest.raises(ArgumentError, match="explains the data worse") as caught:
        validate(model, DATA)
    said = str(caught.value)
    assert f"got {described(model.prediction)} explains" in said
    assert f"expected {described(prediction(kind, 'linear', **options))} (" in said


def _time(options):
    return {("time" if key == "network_time" else key): value for key, value in options.items()}


def test_a_model_is_checked_when_it_is_adapted():
    network = ORACLE.network("velocity")
    assert adapt(network, check=DATA, **EXACT).channels is None
    with pytest.raises(ArgumentError, match=r"expected velocity on linear, time TimeClock\(scale=1\.0\)"):
        adapt(network, "velocity", sign=-1, check=DATA, **EXACT)


def test_a_trained_network_passes():
    import pushforward as pf

    model = pf.models.load("digits28-small")
    labels = torch.arange(10)
    data = pf.sample(model, (10, 1, 28, 28), steps=5, condition={"label": labels})
    found = validate(model, data, condition={"label": labels}, times=(0.3, 0.7))
    assert found.errors[1] < found.errors[0] < found.variance


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda x, t: 5 + 0 * x, "network: got an error of .* at t = 0.3, with data of variance"),
        (lambda x, t: x.new_tensor(math.nan) * x, "network: got an error of nan at t = 0.3"),
    ],
    ids=["too far", "nan"],
)
def test_networks_that_nothing_explains(network, message):
    with pytest.raises(ArgumentError, match=message):
        validate(adapt(network, "denoised", **EXACT), DATA)


def test_noises_are_nested():
    """Every one is the next less noisy one and an independent normal more; standard errors of 4000 samples."""
    data = torch.zeros(2000, 2, dtype=torch.float64)
    noises = nested_noise(data, TIMES, 3)
    for t, noise in zip(TIMES, noises, strict=True):
        assert noise.var().item() == pytest.approx(noise_ratio(t) ** 2, rel=4 * math.sqrt(2 / 4000))
    for later, earlier in zip(noises[1:], noises, strict=False):
        more = earlier - later
        bound = 4 * more.std() * later.std() / math.sqrt(4000)
        assert abs((more * later).mean()) < bound


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: identify(ORACLE.network(), DATA[:1]), r"data: got \[1, 2\], expected finite clean samples"),
        (lambda: identify(ORACLE.network(), [1.0]), "data: got list"),
        (lambda: identify(ORACLE.network(), DATA * math.nan), "data: got"),
        (lambda: identify(ORACLE.network(), DATA, []), "tried: got no hypotheses"),
        (lambda: identify(ORACLE.network(), DATA, times=(0.0,)), "times: got 0.0"),
        (lambda: identify(3, DATA), "network: got int"),
        (lambda: validate(ORACLE.model(), DATA, times=(0.5,)), "times: got .*at least two times"),
        (lambda: validate(adapt(lambda x: x), DATA), "network: got TypeError"),
        (lambda: validate(adapt(lambda x, t: x[:, :1], **EXACT), DATA), "network output: got"),
        (lambda: checked(DATA.long()), "data: got"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_a_declaration_from_a_wrong_scheduler_is_found():
    """A module of SD3's family with a scheduler that says the noise is predicted."""

    class Module(torch.nn.Module):
        config = {"_class_name": "SD3Transformer2DModel", "in_channels": 2}  # noqa: RUF012

        def forward(self, x, timestep, return_dict):
            return (-ORACLE.velocity(x, 1 - timestep.double() / 1000),)

    ddpm = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
    model = from_diffusers(Module().eval(), ddpm | {"prediction_type": "epsilon"})
    with pytest.raises(ArgumentError, match=r"got noise on ddpm.*expected -velocity on linear, time Reverse.*1000"):
        validate(model, DATA)
