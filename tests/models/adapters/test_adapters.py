"""What each adapter reads from its network, how it calls it, and what it refuses."""

import functools
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from dialects import ADM, CHANNELS, DDPM, EDM, IMAGE, LABELS, LFM, CrossFlow, DiT, KDenoiser, MetaVelocity, SiT

import pushforward as pf
from pushforward.errors import ArgumentError, ShapeError, UnknownNameError
from pushforward.models import (
    DiscreteDDPM,
    GaussianOracle,
    IndexClock,
    Linear,
    Trigonometric,
    VPLinear,
    adapt,
    from_adm,
    from_crossflow,
    from_edm,
    from_flow_matching,
    from_k_diffusion,
    from_lfm,
    from_sit,
    to_k_diffusion,
)

STATE = torch.randn(IMAGE, generator=torch.Generator().manual_seed(1))
TABLE = DiscreteDDPM.linear()


class Spy:
    """Returns its state, and remembers how it was called."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)
        self.calls = []

    def __call__(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return args[0] if args else kwargs["x"]


@pytest.mark.parametrize("t", [0.3, 0.9999])
def test_edm_networks_get_the_ratio_and_the_noise_level(t):
    spy = Spy(sigma_min=0.0, sigma_max=math.inf, label_dim=3)
    model = from_edm(spy)
    assert model.dtype == torch.float32
    assert (model.interpolant.sigma_min, model.interpolant.sigma_max) == (0.002, 80.0)
    assert model.null["class_labels"].tolist() == [[0.0, 0.0, 0.0]]
    model.bind({"class_labels": torch.eye(3)[:1]}).evaluate(STATE, t, ("cond", "null"))
    (x, sigma), said = spy.calls[0]
    assert x.dtype == sigma.dtype == torch.float32
    assert model.evaluate(STATE.double(), t)[0].dtype == torch.float64
    assert spy.calls[1][0][0].dtype == torch.float32
    assert sigma.tolist() == pytest.approx([80 * (1 - t)] * 8)
    assert said["class_labels"].sum(1).tolist() == [1.0] * 4 + [0.0] * 4


def test_the_levels_of_an_edm_network_narrow_those_of_the_run():
    path = from_edm(Spy(sigma_min=0.02, sigma_max=100.0), 0.002, 160.0).interpolant
    assert (path.sigma_min, path.sigma_max) == (0.02, 100.0)
    assert from_edm(Spy()).null is None
    assert from_edm(EDM()).channels == CHANNELS


def test_adm_networks_get_the_index_of_training():
    spy = Spy(in_channels=CHANNELS, out_channels=CHANNELS)
    for path, scale in ((TABLE, 1.0), (DiscreteDDPM.linear(500), 2.0)):
        bound = from_adm(spy, path, rescale_timesteps=True).bind()
        for index in (0, 250, path.levels - 1):
            bound.evaluate(STATE, path.time_of_index(index))
            assert spy.calls[-1][0][1].tolist() == [index * scale] * 4
    from_adm(spy, DiscreteDDPM.linear(500)).evaluate(STATE, 0.0)
    assert spy.calls[-1][0][1].tolist() == [499.0] * 4


def test_a_respaced_network_is_a_shorter_table_with_whole_times():
    """guided-diffusion's wrapper takes the place in its list, and looks the index up."""
    places = [0, 249, 499, 749, 999]
    inner = ADM()
    seen = []

    class Wrapped:
        timestep_map, rescale_timesteps, original_num_steps, model = places, False, 1000, inner

        def __call__(self, x, ts, **kwargs):
            seen.append(ts)
            return inner(x, torch.tensor(places)[ts].float(), **kwargs)

    model = from_adm(Wrapped(), TABLE)
    path = model.interpolant
    assert path.alphas_bar == tuple(TABLE.alphas_bar[place] for place in places)
    assert model.split_variance
    grid = [path.time_of_index(index) for index in (4, 3, 2, 1, 0)]
    respaced = pf.sample(model, STATE.double(), solver="ddim", grid=grid, condition={"y": LABELS})
    assert [one.tolist() for one in seen] == [[4] * 4, [3] * 4, [2] * 4, [1] * 4]
    assert seen[0].dtype == torch.int64
    whole = [TABLE.time_of_index(index) for index in reversed(places)]
    direct = pf.sample(from_adm(inner, TABLE), STATE.double(), solver="ddim", grid=whole, condition={"y": LABELS})
    assert (respaced - direct).abs().max() < 1e-12
    with pytest.raises(ArgumentError, match=r"expected an integer, for torch\.int64"):
        model.bind({"y": LABELS}).evaluate(STATE, 0.33)


@pytest.mark.parametrize(
    ("given", "returned", "said", "concatenated", "split"),
    [
        (4, 4, None, 0, False),
        (4, 8, None, 0, True),
        (8, 8, None, 4, True),
        (8, 4, None, 4, False),
        (4, 8, True, 0, True),
    ],
)
def test_the_variance_is_found_by_the_channels(given, returned, said, concatenated, split):
    network = Spy(in_channels=given, out_channels=returned)
    model = from_adm(network, TABLE, learn_sigma=said, concatenated=concatenated)
    assert (model.split_variance, model.channels) == (split, 4)


def test_an_upsampler_gets_its_picture_as_channels():
    spy = Spy(in_channels=2 * CHANNELS, out_channels=2 * CHANNELS)
    model = from_adm(spy, TABLE, concatenated=CHANNELS)
    model.bind({"concatenated": torch.ones(1, *IMAGE[1:])}).evaluate(STATE, 0.5)
    assert torch.equal(spy.calls[0][0][0], torch.cat([STATE, torch.ones_like(STATE)], 1))


def test_dropped_labels_are_read_from_the_table():
    for model in (from_adm(DiT(), TABLE), from_sit(SiT()), from_lfm(LFM())):
        assert model.null["y"].tolist() == [2]
    undropped = SimpleNamespace(num_classes=3, embedding_table=SimpleNamespace(num_embeddings=3))
    assert from_sit(Spy(y_embedder=undropped)).null is None
    assert from_lfm(Spy(), null={"y": torch.tensor([0])}).null["y"].tolist() == [0]


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_times_and_orders_of_flow_networks(t):
    """The time that each is told, and where it stands."""
    spy = Spy()
    from_sit(spy).evaluate(STATE, t)
    assert spy.calls.pop()[0][1].tolist() == pytest.approx([t] * 4)
    from_lfm(lambda time, x: spy(x, time)).evaluate(STATE, t)
    assert spy.calls.pop()[0][1].tolist() == pytest.approx([1 - t] * 4)
    from_flow_matching(spy, time_shape="scalar").evaluate(STATE, t)
    assert spy.calls.pop()[1]["t"].shape == ()
    from_crossflow(spy).evaluate(STATE, t, branches=("cond", "null"))
    args, said = spy.calls.pop()
    assert said["t"].tolist() == pytest.approx([t] * 8)
    assert said["null_indicator"].tolist() == [False] * 4 + [True] * 4
    from_crossflow(spy, log_snr_input=True).evaluate(STATE, t)
    assert spy.calls.pop()[1]["log_snr"].tolist() == pytest.approx([4 - 8 * t] * 4)
    assert args[0].shape == (8, *IMAGE[1:])
    assert [m.prediction.velocity(t) for m in (from_sit(spy), from_lfm(spy), from_crossflow(spy))] == [
        (0, 1),
        (0, -1),
        (0, 1),
    ]


def test_paths_of_sit():
    for name, path in {"Linear": Linear(), "GVP": Trigonometric(), "VP": VPLinear()}.items():
        assert from_sit(Spy(), name).interpolant == path


def test_a_flow_from_encoded_data_has_no_score():
    model = from_crossflow(CrossFlow())
    with pytest.raises(ArgumentError, match="starts from encoded data, not noise: its velocity defines no score"):
        model.prediction.score(0.5)
    with pytest.raises(ArgumentError, match="defines no score"):
        pf.sample(model, STATE, solver="euler_maruyama", steps=4)
    ends = pf.sample(model, STATE, solver="heun", steps=4, guidance=2.0, last_step="denoise")
    assert ends.isfinite().all()


# --- k-diffusion, the other way ----------------------------------------------------------------------------------


@functools.cache
def gaussian(path="linear"):
    return GaussianOracle([0.4, -0.2], [[0.3, 0.1], [0.1, 0.2]], path)


@pytest.mark.parametrize("path", ["linear", "vp", "edm", "trigonometric"])
@pytest.mark.parametrize("kind", ["velocity", "noise", "edm"])
def test_a_model_on_any_path_is_the_denoiser_of_its_data(path, kind):
    """D(x; sigma) = m + C (C + sigma^2)^-1 (x - m): one function of x and sigma, whatever the path and the network."""
    denoiser = to_k_diffusion(gaussian(path).model(kind))
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sigmas = torch.tensor([0.2, 1.0, 30.0], dtype=torch.float64)
    mean = torch.tensor([0.4, -0.2], dtype=torch.float64)
    covariance, one = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    gains = [covariance @ torch.linalg.inv(covariance + sigma**2 * one) for sigma in sigmas]
    exact = torch.stack([mean + gain @ (row - mean) for gain, row in zip(gains, x, strict=True)])
    assert (denoiser(x, sigmas) - exact).abs().max() < 1e-12
    assert (denoiser(x[1:2], sigmas[1]) - exact[1]).abs().max() < 1e-12
    assert denoiser(x.float(), sigmas.float()).dtype == torch.float32


def test_their_sampler_on_our_model_is_our_sampler():
    """Their loop of Euler steps, written out, and ours through the same interface, end at the same samples."""
    denoiser, x = to_k_diffusion(gaussian("vp").model("noise")), 20 * torch.ones(2, 2, dtype=torch.float64)
    sigmas = [20.0, 8.0, 2.0, 0.5, 0.1]
    theirs = x
    for sigma, following in pairwise(sigmas):
        clean = denoiser(theirs, theirs.new_full((2,), sigma))
        theirs = theirs + (theirs - clean) / sigma * (following - sigma)
    ours = pf.solvers.interop.sample_euler(denoiser, x, sigmas, disable=True)
    assert (ours - theirs).abs().max() < 1e-12
    again = from_k_diffusion(denoiser, 0.01, 100.0)
    grid = [again.interpolant.time_at_noise_ratio(sigma) for sigma in sigmas]
    assert (pf.sample(again, x, solver="euler", grid=grid) - theirs).abs().max() < 1e-12


def test_a_denoiser_is_guided_and_takes_further_arguments():
    seen = []

    def network(x, t, y, scale=None):
        seen.append((y.tolist(), scale))
        return y[:, None] * x

    model = adapt(network, "denoised", null={"y": torch.tensor([0.0])})
    denoiser = to_k_diffusion(model, {"y": torch.tensor([2.0])}, guidance=3.0)
    x = torch.ones(2, 2)
    assert torch.equal(denoiser(x, 1.0), 3.0 * 2.0 * 0.5 * x)
    rows = torch.tensor([1.0, 4.0])
    assert torch.equal(denoiser(x, 1.0, y=rows), 3.0 * 0.5 * rows[:, None] * x)
    fields = denoiser._field
    denoiser(x, 2.0, y=rows, seed=3, model_options={"any": 1})  # as ComfyUI's samplers call
    assert denoiser._field is fields, "the same tensors are placed once"
    denoiser(x, 2.0, y=rows, scale=2)
    assert seen[-1] == ([1.0, 4.0, 0.0, 0.0], 2)


def test_gradients_pass_through_a_denoiser():
    x = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    to_k_diffusion(adapt(lambda x, t: 3 * x, "denoised"))(x, 1.0).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 1.5))


# --- autocast ----------------------------------------------------------------------------------------------------


def test_autocast_surrounds_the_network_and_leaves_the_state_alone():
    layer, inside = torch.nn.Linear(4, 4), []

    def network(x, t):
        inside.append(torch.is_autocast_enabled("cpu"))
        return layer(x)

    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    (out,) = adapt(network, autocast=torch.bfloat16).evaluate(x, 0.5)
    assert out.dtype == torch.float32
    assert torch.equal(out, layer.bfloat16()(x.bfloat16()).float())
    layer.float()
    adapt(network).evaluate(x, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        adapt(network).evaluate(x, 0.5)
    assert inside == [True, False, True]


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: from_edm(Spy(sigma_min=5.0, sigma_max=1.0)), ArgumentError, "sigma_max: got 1.0"),
        (
            lambda: from_edm(EDM()).bind({"class_labels": LABELS}).evaluate(STATE, 0.5),
            ArgumentError,
            r"class_labels: got torch.int64, expected one-hot vectors, float \[B, 2\]\. Try .*one_hot\(labels, 2\)",
        ),
        (
            lambda: from_edm(EDM()).bind({"class_labels": torch.eye(3)[:1]}).evaluate(STATE, 0.5),
            ShapeError,
            r"class_labels: got \[4, 3\], expected \[B, 2\]",
        ),
        (lambda: from_edm(3), ArgumentError, "network: got int, expected a callable"),
        (lambda: from_adm(ADM(), "linear"), ArgumentError, r"path: got linear.*DiscreteDDPM\.linear\(\)"),
        (lambda: from_adm(ADM(), TABLE, "v"), UnknownNameError, "predicts: got 'v', expected one of noise, denoised"),
        (lambda: from_adm(abs, TABLE), ArgumentError, "learn_sigma: expected True or False.*no in_channels"),
        (
            lambda: from_adm(Spy(in_channels=4, out_channels=5), TABLE),
            ArgumentError,
            "network: got in_channels=4, out_channels=5",
        ),
        (
            lambda: from_adm(Spy(in_channels=4, out_channels=4), TABLE, learn_sigma=True),
            ArgumentError,
            "out_channels=4, learn_sigma=True",
        ),
        (
            lambda: from_adm(Spy(timestep_map=[3, 2], in_channels=4, out_channels=4), TABLE),
            ArgumentError,
            r"timestep_map: got \[3, 2\], expected at least two rising indices below 1000",
        ),
        (
            lambda: from_adm(ADM(), TABLE).bind({"y": LABELS}, guidance=2.0),
            ArgumentError,
            "guidance weight 2.0 needs an unconditional prediction",
        ),
        (
            lambda: from_adm(lambda x, t: x, TABLE, learn_sigma=True).evaluate(STATE, 0.5),
            ShapeError,
            "expected 8 channels for the state",
        ),
        (lambda: from_sit(SiT(), "Cosine"), UnknownNameError, "path: got 'Cosine', expected one of Linear, GVP, VP"),
        (lambda: from_sit(SiT(), predicts="v"), UnknownNameError, "predicts: got 'v', expected one of velocity"),
        (lambda: from_lfm(3), ArgumentError, "network: got int"),
        (lambda: from_flow_matching(MetaVelocity(), "condot"), UnknownNameError, "'condot'"),
        (lambda: from_crossflow(lambda x, t, null_indicator: []).evaluate(STATE, 0.5), ArgumentError, "an empty list"),
        (lambda: from_crossflow(abs, sign=-1), ArgumentError, "prediction: got VelocityPrediction"),
        (lambda: from_k_diffusion(abs), ArgumentError, "sigma_min: expected a noise level.*pass sigma_min="),
        (lambda: from_k_diffusion(KDenoiser(), 3.0, 1.0), ArgumentError, "sigma_max: got 1.0"),
        (
            lambda: to_k_diffusion(gaussian().model())(torch.ones(3, 2), torch.ones(2)),
            ShapeError,
            "sigma: got 2 levels, expected one, or one for each of 3 rows",
        ),
        (lambda: to_k_diffusion(gaussian("vp").model())(torch.ones(3, 2), 1e4), ArgumentError, "noise_ratio|nu"),
        (lambda: to_k_diffusion(gaussian().model(), guidance=2.0), ArgumentError, "guidance weight 2.0 needs"),
        (lambda: adapt(abs, autocast=torch.float64), ArgumentError, "autocast: got torch.float64"),
        (lambda: IndexClock(scale=0.0), ArgumentError, "scale: got 0.0"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_levels_of_adm_are_those_of_its_table():
    assert tuple(DDPM) == pytest.approx(TABLE.alphas_bar, rel=1e-12)
    clock = IndexClock(500, scale=2.0)
    assert clock.inverse(clock(0.25, TABLE), TABLE) == pytest.approx(0.25)
