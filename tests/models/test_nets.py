"""The digit networks: sizes, shapes, initial values, dtypes, and what each misuse is told."""

import pytest
import torch

from pushforward.errors import ArgumentError, DtypeError, ShapeError
from pushforward.models.nets import DigitClassifier, DigitDiT, DigitUNet


def unet() -> DigitUNet:
    return DigitUNet(width=16, embedding=64)


def dit() -> DigitDiT:
    return DigitDiT(width=32, depth=2)


VELOCITIES = pytest.mark.parametrize("kind", [unet, dit], ids=["unet", "dit"])


def small(kind=unet) -> torch.nn.Module:
    torch.manual_seed(0)
    net = kind()
    for p in net.parameters():  # zero-initialised layers would hide everything behind them
        torch.nn.init.normal_(p, std=0.1)
    return net.requires_grad_(False)


def inputs(batch: int = 3, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 1, 28, 28, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.linspace(0, 1, batch), torch.tensor([0, 9, 10])[:batch]


@pytest.mark.parametrize(("width", "embedding", "count"), [(48, 192, 1_034_068), (16, 64, 119_924)])
def test_parameter_counts(width, embedding, count):
    net = DigitUNet(width=width, embedding=embedding)
    assert sum(p.numel() for p in net.parameters()) == count
    assert not list(net.buffers()), "a buffer would be rounded by .to(dtype)"


def test_classifier_parameter_count():
    assert sum(p.numel() for p in DigitClassifier().parameters()) == 89_770


def test_transformer_parameter_count():
    assert sum(p.numel() for p in DigitDiT().parameters()) == 321_360
    assert DigitDiT(patch=2).tokens == 196


@VELOCITIES
def test_a_new_network_predicts_zero(kind):
    x, t, label = inputs()
    assert torch.equal(kind()(x, t, label), torch.zeros_like(x))


@VELOCITIES
def test_every_input_matters_and_samples_do_not_mix(kind):
    net, (x, t, label) = small(kind), inputs()
    v = net(x, t, label)
    assert v.shape == x.shape
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1], label[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(v, alone, rtol=1e-4, atol=1e-4 * v.abs().max().item())
    for changed in ((x.flip(-1), t, label), (x, 1 - t, label), (x, t, (label + 1) % 11)):
        assert (net(*changed)[0] - v[0]).abs().max() > 1e-3


@VELOCITIES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype, kind):
    x, t, label = inputs(dtype=dtype)
    reference = small(kind).double()(x.double(), t, label)
    v = small(kind).to(dtype)(x, t.to(torch.float64), label)
    assert v.dtype == dtype
    # 20 layers in a row, each rounding weights and activations once
    assert (v.double() - reference).norm() <= 20 * torch.finfo(dtype).eps * reference.norm()


def test_time_features_stay_exact_in_half_precision():
    """A frequency rounded to bfloat16 would shift an angle near 1000 by radians."""
    net, t = small(), torch.tensor([0.999])
    mlp = net.time.mlp
    wide = net.time(t)
    net.bfloat16()
    assert mlp[0].weight.dtype == torch.bfloat16
    assert (net.time(t).float() - wide).norm() < 0.02 * wide.norm()


@VELOCITIES
def test_gradients_reach_input_and_parameters(kind):
    net, (x, t, label) = small(kind).requires_grad_(True), inputs()
    x.requires_grad_(True)
    net(x, t, label).square().sum().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@VELOCITIES
def test_empty_batch(kind):
    x, t, label = torch.zeros(0, 1, 28, 28), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    assert small(kind)(x, t, label).shape == (0, 1, 28, 28)


@pytest.mark.parametrize("shape", [(28, 28), (3, 28, 28), (3, 3, 28, 28), (3, 1, 32, 32)])
def test_wrong_image_shape(shape):
    with pytest.raises(ShapeError, match=r"x: got float32 \[.*\], expected \[B, 1, 28, 28\]"):
        small()(torch.zeros(shape), torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"expected \[B, 1, 28, 28\]"):
        DigitClassifier()(torch.zeros(shape))


def test_missing_channel_axis_is_suggested():
    with pytest.raises(ShapeError, match=r"Try x\[:, None\]"):
        small()(torch.zeros(3, 28, 28), torch.zeros(3), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(("t", "label", "name"), [((), (3,), "t"), ((2,), (3,), "t"), ((3,), (3, 1), "label")])
def test_wrong_time_or_label_shape(t, label, name):
    with pytest.raises(ShapeError, match=rf"^{name}: got .* expected \[3\]"):
        small()(torch.zeros(3, 1, 28, 28), torch.zeros(t), torch.zeros(label, dtype=torch.int64))


@VELOCITIES
@pytest.mark.parametrize("value", [-1, 11, 12])
def test_label_out_of_range(value, kind):
    x, t, label = inputs()
    label[1] = value
    with pytest.raises(ArgumentError, match=rf"label: got {value}, expected 0\.\.10 \(10 = unconditional\)"):
        small(kind)(x, t, label)


def test_wrong_dtypes():
    net, (x, t, label) = small(), inputs()
    with pytest.raises(DtypeError, match=r"^x: got torch.float64"):
        net(x.double(), t, label)
    with pytest.raises(DtypeError, match=r"^t: got torch.int64"):
        net(x, t.long(), label)
    with pytest.raises(DtypeError, match=r"^label: got torch.int32"):
        net(x, t, label.int())
    with pytest.raises(DtypeError, match=r"^x: got torch.float64"):
        DigitClassifier()(x.double())


@pytest.mark.parametrize("sizes", [{"width": 12}, {"width": 0}, {"width": 16, "heads": 5}, {"heads": 0}])
def test_sizes_that_do_not_divide(sizes):
    with pytest.raises(ArgumentError, match=r"^(width|heads): got"):
        DigitUNet(**sizes)


@pytest.mark.parametrize("sizes", [{"patch": 3}, {"width": 6}, {"heads": 0}, {"heads": 3}, {"depth": 0}])
def test_sizes_of_a_transformer_that_do_not_divide(sizes):
    with pytest.raises(ArgumentError, match=r"^(width|patch|depth): got"):
        DigitDiT(**sizes)


def test_patches_come_and_go_in_the_same_place():
    """With all blocks idle, what leaves a token depends on its own patch alone, and lands there."""
    net = dit()
    torch.nn.init.normal_(net.leave.weight)
    x, t, label = inputs()
    changed = x.clone()
    changed[:, :, 8:12, 20:24] += 1
    moved = (net(changed, t, label) - net(x, t, label)).abs() > 0
    inside = torch.zeros_like(moved)
    inside[:, :, 8:12, 20:24] = True
    assert torch.equal(moved, inside)


def test_classifier_logits_are_linear_in_its_features():
    net = DigitClassifier().requires_grad_(False)
    x = inputs()[0]
    assert net.features(x).shape == (3, 64)
    assert torch.equal(net(x), net.head(net.features(x)))


def test_self_conditioning_on_features_starts_as_the_plain_network():
    """A projection of zeros changes no bit; any other changes what comes behind, and the field stays one."""
    x, t, label = inputs()
    plain, net = small(), DigitUNet(width=16, embedding=64, self_conditioning=True)
    assert net.load_state_dict(plain.state_dict(), strict=False).missing_keys == ["carry.weight", "carry.bias"]
    assert torch.equal(net(x, t, label), plain(x, t, label))
    torch.nn.init.normal_(net.carry.weight)
    assert not torch.equal(net(x, t, label), plain(x, t, label))
    assert torch.equal(net(x, t, label), net(x, t, label)), "no state"


def test_the_pooled_feature_is_a_mean():
    net, (x, t, label) = small(), inputs()
    seen = []
    handle = net.middle.register_forward_hook(lambda module, args, out: seen.append(out))
    pooled = net.features(x, t, label)
    handle.remove()
    assert pooled.shape == (3, 32)
    direct = torch.stack([seen[0][..., i, j] for i in range(7) for j in range(7)]).mean(0)
    torch.testing.assert_close(pooled, direct, rtol=1e-6, atol=1e-6 * seen[0].abs().max().item())
