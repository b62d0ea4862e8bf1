"""Sums of local grids: exact fields, the order in k, invariances, every backend bit for bit, gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_variants import using, variants

from pushforward.errors import ArgumentError, DeviceError, DtypeError, ShapeError
from pushforward.kernels import backend, grid_sample3d_sum, mosaic

VARIANTS = variants("grid_sample3d_sum")


def scene(queries=200, cubes=40, nodes=4, *, seed=0, dtype=torch.float64, spread=0.5):
    generator = torch.Generator().manual_seed(seed)
    points = 2 * torch.rand(queries, 3, generator=generator, dtype=torch.float64) - 1
    centers = 2 * torch.rand(cubes, 3, generator=generator, dtype=torch.float64) - 1
    scales = 0.1 + spread * torch.rand(cubes, generator=generator, dtype=torch.float64)
    values = torch.randn(cubes, nodes, nodes, nodes, generator=generator, dtype=torch.float64)
    return tuple(x.to(dtype) for x in (points, centers, scales, values))


def fitted(field, centers, scales, nodes):
    """Values of a field on the grids."""
    line = torch.linspace(-1, 1, nodes, dtype=torch.float64)
    local = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
    return field(centers[:, None, None, None] + scales[:, None, None, None, None] * local)


def dense(points, centers, scales, values):
    """The formula, with all pairs, through torch's own trilinear interpolation."""
    q = (points[:, None] - centers) / scales[:, None]
    weights = (1 - q.abs().amax(-1)).clamp(min=0)
    # grid_sample: one volume for each cube, coordinates in reversed order
    inner = torch.nn.functional.grid_sample(
        values[:, None], q.flip(-1).transpose(0, 1)[:, :, None, None], align_corners=True, padding_mode="border"
    )
    return (weights * inner[:, 0, :, 0, 0].T).sum(1) / weights.sum(1), weights.sum(1) > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_formula(variant):
    scenes = scene(nodes=5)
    expected, covered = dense(*scenes)
    with using(variant):
        values, inside = grid_sample3d_sum(*scenes, outside=-7.0)
    assert torch.equal(inside, covered)
    assert 0 < covered.sum() < 200
    torch.testing.assert_close(values[inside], expected[inside], rtol=1e-12, atol=1e-12)
    assert (values[~inside] == -7).all()


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=40)
@given(
    queries=st.sampled_from([0, 1, 63, 64, 65, 3000]),
    cubes=st.sampled_from([0, 1, 7, 64]),
    nodes=st.integers(2, 7),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    spread=st.sampled_from([0.0, 0.2, 3.0]),
    seed=st.integers(0, 100),
)
def test_backends_equal_the_reference(variant, queries, cubes, nodes, dtype, spread, seed):
    scenes = scene(queries, cubes, nodes, seed=seed, dtype=dtype, spread=spread)
    with backend("reference"):
        expected = grid_sample3d_sum(*scenes, outside=2.5)
    with using(variant):
        ours = grid_sample3d_sum(*scenes, outside=2.5)
    assert torch.equal(ours.inside, expected.inside)
    assert torch.equal(ours.values, expected.values)


@given(cells=st.sampled_from([1, 2, 3, 17, 64, 200]), scale=st.sampled_from([1e-30, 1.0, 1e30]))
def test_the_index_changes_nothing(cells, scale):
    points, centers, scales, values = scene(500, dtype=torch.float32)
    scales[3] = 50.0  # one cube over everything
    points, centers, scales = points * scale, centers * scale, scales * scale
    expected = mosaic._sample(points, centers, scales, values, 0.0)
    ours = mosaic._sample_native(points, centers, scales, values, 0.0, cells)
    assert torch.equal(ours[0], expected[0])
    assert torch.equal(ours[1], expected[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_faces_of_cubes_and_strange_points(variant):
    """A cube is open; points just inside its faces are found by the index, and NaN and infinity lie outside."""
    centers, scales = torch.tensor([[0.1, 0.2, 0.3], [7.0, 7.0, 7.0]]), torch.tensor([0.3, 0.01])
    inner = torch.nextafter(torch.tensor([1.0]), torch.tensor([0.0])).item()
    faces = [
        [s * r * (axis == a) for axis in range(3)] for s in (-1, 1) for r in (inner, 1.0, 1.0001) for a in range(3)
    ]
    points = centers[0] + scales[0] * torch.tensor(faces)
    points = torch.cat([points, torch.tensor([[math.nan, 0, 0], [math.inf, 0.2, 0.3], [0.1, 0.2, -math.inf]])])
    expected = ((points - centers[0]) / scales[0]).abs().amax(-1) < 1
    with using(variant):
        result = grid_sample3d_sum(points, centers, scales, torch.ones(2, 3, 3, 3), outside=4.0)
    assert torch.equal(result.inside, expected)
    assert torch.equal(result.values, torch.where(expected, 1.0, 4.0))


@pytest.mark.parametrize("variant", VARIANTS[:2])
def test_linear_fields_are_reproduced(variant):
    points, centers, scales, _ = scene(2000, 60)
    normal = torch.tensor([0.48, -0.6, 0.64], dtype=torch.float64)
    with using(variant):
        values, inside = grid_sample3d_sum(
            points, centers, scales, fitted(lambda x: x @ normal - 0.1, centers, scales, 3), outside=0.0
        )
    assert inside.sum() > 100
    torch.testing.assert_close(values[inside], (points @ normal - 0.1)[inside], rtol=0, atol=1e-12)


def test_error_is_of_second_order_in_the_cells():
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2064, 3, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=-1, keepdim=True)
    centers, directions = 0.5 * directions[:64], directions[64:]
    near = directions * (0.5 + 0.03 * torch.randn(2000, 1, generator=generator, dtype=torch.float64))
    scales = torch.full((64,), 0.25, dtype=torch.float64)
    errors = []
    for nodes in (3, 5):
        grids = fitted(lambda x: x.norm(dim=-1) - 0.5, centers, scales, nodes)
        values, inside = grid_sample3d_sum(near, centers, scales, grids, outside=0.0)
        assert inside.float().mean() > 0.9
        errors.append((values - near.norm(dim=-1) + 0.5)[inside].square().mean().sqrt())
    assert errors[0] / errors[1] > 3.5


@pytest.mark.parametrize("variant", VARIANTS[:2])
def test_order_layout_and_batch(variant):
    points, centers, scales, values = scene(300, dtype=torch.float32)
    with using(variant):
        whole = grid_sample3d_sum(points, centers, scales, values).values
        order = torch.randperm(len(scales), generator=torch.Generator().manual_seed(1))
        shuffled = grid_sample3d_sum(points, centers[order], scales[order], values[order]).values
        torch.testing.assert_close(shuffled, whole)  # the sum's order is that of the cubes
        parts = torch.cat([grid_sample3d_sum(some, centers, scales, values).values for some in points.split(7)])
        assert torch.equal(parts, whole)
        strided = grid_sample3d_sum(
            points.T.contiguous().T, centers, scales, values.transpose(1, 2).contiguous().transpose(1, 2)
        )
        assert torch.equal(strided.values, whole)


def test_threads_do_not_change_a_bit():
    scenes = scene(20_000, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(grid_sample3d_sum(*scenes).values)
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_reference_does_not_make_all_pairs(monkeypatch):
    scenes = scene(100)
    whole = grid_sample3d_sum(*scenes).values
    tensors = [x.clone().requires_grad_() for x in scenes]
    expected = torch.autograd.grad(grid_sample3d_sum(*tensors, outside=0.0).values.sum(), tensors)
    monkeypatch.setattr(mosaic, "PAIRS", 7 * 40)
    with backend("reference"):
        assert torch.equal(grid_sample3d_sum(*scenes).values, whole)
    gradients = torch.autograd.grad(grid_sample3d_sum(*tensors, outside=0.0).values.sum(), tensors)
    torch.testing.assert_close(gradients, expected)


def test_gradients():
    tensors = [x.requires_grad_() for x in scene(6, 4, 3, spread=1.0)]

    def function(*tensors):
        return grid_sample3d_sum(*tensors, outside=1.0).values

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)


def test_operator():
    tensors = [x.requires_grad_() for x in scene(6, 4, 3, spread=1.0)]
    torch.library.opcheck(torch.ops.pushforward.grid_sample3d_sum.default, (*tensors, 1.0))
    gradient = torch.randn(6, dtype=torch.float64)
    torch.library.opcheck(torch.ops.pushforward.grid_sample3d_sum_gradients.default, (gradient, *tensors))

    def function(*tensors):
        values, inside = grid_sample3d_sum(*tensors, outside=1.0)
        return torch.where(inside, values, 0).sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), function(*tensors))
    expected = torch.autograd.grad(function(*tensors), tensors)
    torch.testing.assert_close(torch.autograd.grad(compiled(*tensors), tensors), expected)


points, centers, scales, values = scene(5, 3, dtype=torch.float32)


@pytest.mark.parametrize(
    ("error", "argument", "call"),
    [
        (DtypeError, "points: got torch.float16", lambda: grid_sample3d_sum(points.half(), centers, scales, values)),
        (DtypeError, "values: got torch.float64", lambda: grid_sample3d_sum(points, centers, scales, values.double())),
        (DeviceError, "scales: got meta", lambda: grid_sample3d_sum(points, centers, scales.to("meta"), values)),
        (ShapeError, r"points: got \[5, 2\]", lambda: grid_sample3d_sum(points[:, :2], centers, scales, values)),
        (ShapeError, r"centers: got \[9\]", lambda: grid_sample3d_sum(points, centers.flatten(), scales, values)),
        (ShapeError, r"scales: got \[3, 1\]", lambda: grid_sample3d_sum(points, centers, scales[:, None], values)),
        (
            ShapeError,
            r"values: .*expected \[3, k, k",
            lambda: grid_sample3d_sum(points, centers, scales, values[:, 1:]),
        ),
        (ShapeError, r"values", lambda: grid_sample3d_sum(points, centers, scales, values[:2])),
        (ShapeError, r"k >= 2", lambda: grid_sample3d_sum(points, centers, scales, values[:, :1, :1, :1])),
        (
            ArgumentError,
            "scales: got entries that are not positive at 0, 2",
            lambda: grid_sample3d_sum(points, centers, torch.tensor([0.0, 1.0, math.nan]), values),
        ),
    ],
)
def test_errors(error, argument, call):
    with pytest.raises(error, match=argument):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    scenes = scene(1000)
    expected = grid_sample3d_sum(*scenes, outside=0.0)
    ours = grid_sample3d_sum(*[x.cuda() for x in scenes], outside=0.0)
    torch.testing.assert_close(ours.values.cpu(), expected.values, rtol=1e-12, atol=1e-12)
