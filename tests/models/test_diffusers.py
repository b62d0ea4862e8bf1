"""Tiny randomly initialised modules of every family, and the oracle behind the interface of each."""

import dataclasses

import pytest
import torch
from tiny_modules import CASES, DDPM, FLOW, TIMES, case, diffusers, dit, normal, unet

from pushforward.errors import ArgumentError, ShapeError, UnknownNameError
from pushforward.models import (
    EDM,
    VE,
    DiscreteDDPM,
    Linear,
    from_diffusers,
    prediction,
    reference_mixture,
)
from pushforward.models.adapters.diffusers import read_scheduler
from pushforward.models.regional import RegionAdaptive, RegionSchedule


@pytest.fixture
def built(request):
    torch.manual_seed(0)
    module, *rest = case(request.param)
    module.eval().requires_grad_(False)
    for parameter in module.parameters():  # many start at zero, and would hide a wrong argument
        parameter.add_(0.1 * torch.randn_like(parameter))
    return module, *rest


each_family = pytest.mark.parametrize("built", CASES, indirect=True)


class Spy:
    """Records the time that a module receives."""

    def __init__(self, module):
        self.times = []
        module.register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, module, args, kwargs):
        del module, args
        self.times.append(kwargs["timestep"])


@each_family
def test_the_module_is_called_as_by_hand(built):
    module, config, state, condition, null, clock, channels = built
    spy = Spy(module)
    model = from_diffusers(module, config, null=null)
    bound = model.bind(condition)
    for t in TIMES:
        (out,) = bound.evaluate(state, t)
        (time,) = {*spy.times.pop().tolist()}
        assert time == pytest.approx(clock[t], rel=1e-6)
        arguments = condition | {"guidance": torch.tensor([3.5, 3.5])} if "guidance" in condition else condition
        by_hand = module(state, timestep=torch.full((2,), float(clock[t])), **arguments, return_dict=False)[0]
        spy.times.pop()
        assert torch.equal(out, by_hand if channels is None else by_hand[:, :channels])
        assert out.shape == state.shape
        assert out.std() > 1e-3


@each_family
def test_guidance_is_one_call(built):
    module, config, state, condition, null, _, _ = built
    if null is None and "class_labels" in condition and type(module).__name__ != "DiTTransformer2DModel":
        null = {"class_labels": torch.tensor([0])}
    null = null or ({"pooled_projections": normal(1, 6, seed=5)} if "img_ids" in condition else null)
    model = from_diffusers(module, config, null=null)
    if model.null is None:
        assert not condition  # an unconditional module
        return
    bound = model.bind(condition)
    cond, uncond = bound.evaluate(state, 0.3, ("cond", "null"))
    assert (bound.calls, bound.rows) == (1, 4)
    one_by_one = [bound.evaluate(state, 0.3, (branch,))[0] for branch in ("cond", "null")]
    for joint, alone in zip((cond, uncond), one_by_one, strict=True):
        assert (joint - alone).abs().max() <= 1e-5 * (1 + alone.abs().max())
    assert (cond - uncond).abs().max() > 1e-4


def test_the_null_label_of_dit_comes_from_its_configuration():
    model = from_diffusers(dit(num_embeds_ada_norm=7).eval(), DDPM)
    assert model.null["class_labels"].tolist() == [7]
    assert from_diffusers(dit().eval(), DDPM, null={"class_labels": torch.tensor([3])}).null[
        "class_labels"
    ].tolist() == [3]


def test_times_looked_up_in_a_table_are_whole():
    module = unet(time_embedding_type="learned", num_train_timesteps=1000).eval()
    spy = Spy(module)
    bound = from_diffusers(module, DDPM).bind()
    for t, index in ((0.0, 999), (0.3004, 699), (1.0, 0)):
        bound.evaluate(normal(2, 3, 8, 8), t)
        assert spy.times.pop().tolist() == [index] * 2


def test_a_module_of_lower_precision():
    module = unet().eval().to(torch.bfloat16)
    spy = Spy(module)
    (out,) = from_diffusers(module, DDPM).evaluate(normal(2, 3, 8, 8), 0.0)
    assert out.dtype == torch.float32
    assert spy.times[0].tolist() == [999.0, 999.0]
    assert spy.times[0].dtype == torch.float32


SCHEDULERS = {
    "DDIM": lambda: diffusers.DDIMScheduler(),
    "DDPM, v": lambda: diffusers.DDPMScheduler(prediction_type="v_prediction"),
    "DDPM, sample": lambda: diffusers.DDPMScheduler(prediction_type="sample"),
    "Stable Diffusion": lambda: diffusers.EulerDiscreteScheduler(1000, 0.00085, 0.012, "scaled_linear"),
    "cosine": lambda: diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    "sigmoid": lambda: diffusers.DDPMScheduler(beta_schedule="sigmoid"),
    "trained": lambda: diffusers.DDPMScheduler(trained_betas=[0.01, 0.02, 0.05]),
    "zero terminal SNR": lambda: diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=True
    ),
    "DPM-Solver++": lambda: diffusers.DPMSolverMultistepScheduler(),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("form", ["object", "config", "json"])
def test_discrete_schedules_are_those_of_the_scheduler(name, form):
    scheduler = SCHEDULERS[name]()
    given = {"object": scheduler, "config": scheduler.config, "json": dict(scheduler.config)}[form]
    reading = read_scheduler(given)
    path = reading.interpolant
    kinds = {"epsilon": "noise", "sample": "denoised", "v_prediction": "v"}
    assert reading.kind == kinds[scheduler.config.prediction_type]
    assert isinstance(path, DiscreteDDPM)
    levels = torch.tensor(path.alphas_bar, dtype=torch.float64)
    theirs = scheduler.alphas_cumprod.double()
    if name == "zero terminal SNR":  # theirs is 0 at the last level
        assert levels[-1] == 2.0**-24
        levels, theirs = levels[:-1], theirs[:-1]
    # Theirs is in float32, where 1 - 0.999 (the last level of "cosine") is off by 1.3e-5 and small differences by more.
    torch.testing.assert_close(levels, theirs, rtol=2e-4 if "zero" in name else 2e-5, atol=0)


def test_flow_schedulers():
    for scheduler in (
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.FlowMatchHeunDiscreteScheduler(),
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        diffusers.FlowMatchEulerDiscreteScheduler().config,
    ):
        reading = read_scheduler(scheduler)
        assert reading == prediction("velocity", Linear(), sign=-1, network_time="1000*(1-t)")


def test_edm_and_ve_schedulers():
    edm = read_scheduler(diffusers.EDMEulerScheduler(sigma_data=0.7))
    assert edm == prediction("edm", EDM(0.002, 80.0), sigma_data=0.7)
    ve = read_scheduler(diffusers.ScoreSdeVeScheduler())
    assert ve == prediction("score", VE(0.01, 1348.0), network_time="nu")


def test_the_preconditioning_is_that_of_the_edm_scheduler():
    scheduler = diffusers.EDMEulerScheduler()
    reading, x, raw = read_scheduler(scheduler), normal(2, 3), normal(2, 3, seed=1)
    for t in (0.2, 0.9, 0.999):
        nu = reading.interpolant.noise_ratio(t)
        affine = reading.denoised(t)
        theirs = scheduler.precondition_outputs(x, raw, torch.tensor(nu))
        torch.testing.assert_close(affine.x * x + affine.output * raw, theirs)
        torch.testing.assert_close(reading.input_scale(t) * x, scheduler.precondition_inputs(x, torch.tensor(nu)))
        torch.testing.assert_close(torch.tensor(reading.time(t)), scheduler.precondition_noise(torch.tensor(nu)))


class Disguise(torch.nn.Module):
    """The oracle behind the interface of a family: its name, its configuration, its times, its output."""

    def __init__(self, family, kind, doubled=False, **options):
        super().__init__()
        self.network = ORACLE.network(kind, **options) if kind != "flow" else LINEAR.network("velocity", **options)
        self.config = {"_class_name": family, "in_channels": 2, "out_channels": 4 if doubled else 2}
        self.doubled = doubled
        self.eval()

    def forward(self, sample, timestep, return_dict=True):
        assert not return_dict
        assert timestep.ndim == 1
        out = self.network(sample, timestep)
        return (torch.cat([out, out + 100], dim=1) if self.doubled else out,)


ORACLE, LINEAR = reference_mixture(DiscreteDDPM.linear()), reference_mixture(Linear())
DIALECTS = [
    (Disguise("UNet2DModel", "noise"), DDPM),
    (Disguise("UNet2DConditionModel", "v"), DDPM | {"prediction_type": "v_prediction"}),
    (Disguise("UNet2DModel", "denoised"), DDPM | {"prediction_type": "sample"}),
    (Disguise("PixArtTransformer2DModel", "noise", doubled=True), DDPM),
    (Disguise("SD3Transformer2DModel", "flow", sign=-1, network_time="1000*(1-t)"), FLOW),
    (Disguise("FluxTransformer2DModel", "flow", sign=-1, network_time="1-t"), FLOW),
]


def test_one_distribution_in_every_dialect():
    """Whatever the dialect, the estimate of the clean sample is the same at equal noise ratio."""
    nu = 0.8
    x = LINEAR.sample(4, seed=2, t=Linear().time_at_noise_ratio(nu)) / Linear().alpha(Linear().time_at_noise_ratio(nu))
    estimates = []
    for module, config in DIALECTS:
        model = from_diffusers(module, config)
        t = model.interpolant.time_at_noise_ratio(nu)
        state = model.interpolant.alpha(t) * x
        (raw,) = model.evaluate(state, t)
        weight, output = model.prediction.denoised(t)
        estimates.append(weight * state + output * raw)
    for estimate in estimates[1:]:
        assert (estimate - estimates[0]).abs().max() < 1e-9


def test_training_mode_is_pointed_out():
    with pytest.warns(UserWarning, match=r"UNet2DModel is in training mode.*eval\(\)"):
        from_diffusers(unet().train(), DDPM)


def without(key):
    return {name: value for name, value in DDPM.items() if name != key}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: from_diffusers(m), ArgumentError, "scheduler_config: got nothing.*prediction="),
        (lambda m: from_diffusers(m, 3), ArgumentError, "scheduler_config: got int"),
        (lambda m: from_diffusers(m, without("prediction_type")), ArgumentError, "'prediction_type'.*got nothing"),
        (lambda m: from_diffusers(m, without("beta_end")), ArgumentError, "'beta_end'.*got nothing"),
        (lambda m: from_diffusers(m, without("beta_schedule")), UnknownNameError, "'beta_schedule'"),
        (
            lambda m: from_diffusers(m, DDPM | {"prediction_type": "mean"}),
            UnknownNameError,
            "'mean', expected one of",
        ),
        (lambda m: from_diffusers(m, DDPM | {"timestep_type": "continuous"}), ArgumentError, "timestep_type"),
        (
            lambda m: from_diffusers(torch.nn.Linear(2, 2), DDPM),
            UnknownNameError,
            "got Linear, expected one of.*adapt",
        ),
        (lambda m: from_diffusers(unet(in_channels=9).eval(), DDPM), ArgumentError, "in_channels=9, out_channels=3"),
        (lambda m: from_diffusers(m, DDPM).evaluate(torch.zeros(3, 8, 8), 0.5), ShapeError, r"Try x\[None\]"),
        (lambda m: from_diffusers(m, DDPM).bind(guidance=2.0), ArgumentError, "guidance weight 2.0 needs"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make(unet().eval())


def test_a_prediction_instead_of_a_scheduler():
    reading = prediction("velocity", Linear(), network_time="t")
    model = from_diffusers(unet().eval(), prediction=reading)
    assert model.prediction is reading


@pytest.mark.parametrize("name", ["SD3", "PixArt"])
def test_region_adaptive_on_tokens_of_other_networks(name):
    """Text tokens stay outside: of attention to another sequence nothing is kept."""
    module, config, x, condition, null, _, _ = case(name)
    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model = from_diffusers(module.double().eval(), config, null=null)
    still = dataclasses.replace(model, prediction=prediction("velocity", Linear(), network_time=lambda t: 500.0))
    fast = RegionAdaptive.around(still, schedule=RegionSchedule(0.5, warmup=1))
    assert all(("attn2" in key) <= (name == "SD3") for key in fast.where.keys)
    run, plain = fast.bind(condition), still.bind(condition)
    x, other = x.double(), torch.roll(x.double(), 1, 0)
    with torch.no_grad():
        dense = plain.evaluate(x, 0.0, ("cond", "null"))
        assert all(torch.equal(a, b) for a, b in zip(run.evaluate(x, 0.0, ("cond", "null")), dense, strict=True))
        for a, b in zip(run.evaluate(x, 0.1, ("cond", "null")), dense, strict=True):
            assert (a - b).abs().max() < 1e-6 * b.abs().max()
        changed = run.evaluate(other, 0.2, ("cond", "null"))
    here = torch.zeros(2, 16).scatter(1, run.active, 1.0).view(2, 1, 4, 4)
    here = here.repeat_interleave(2, 2).repeat_interleave(2, 3).bool().expand_as(x)
    for a, b in zip(changed, dense, strict=True):
        assert (a - b)[here].abs().min() > 0
        assert (a - b)[~here].abs().max() < 1e-6 * b.abs().max()
