"""Compiled graphs: sessions of ONNX Runtime and programs of torch.export."""

import warnings

import numpy as np
import pytest
import torch
from dialects import ANY, IMAGE, LABELS, ORACLES, TorchMixture, velocity_function
from onnx_graphs import NumpySession, mixture_graph

import pushforward as pf
from pushforward.errors import ArgumentError, DtypeError, MissingDependencyError
from pushforward.models import DiscreteDDPM, adapt, from_export, from_onnx

STATE = torch.randn(5, *IMAGE[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = {"y": torch.tensor([0, 1, 1, 0, 1])}
NULL = {"y": torch.tensor([ANY])}


def session(batch="B", shape=(3,), time=("float32", None), dtype="float32", output=None, **options):
    """-x + 10 t + y, whatever the sizes."""
    time_shape = [batch] if time[1] is None else time[1]
    inputs = [("sample", dtype, [batch, *shape]), ("timestep", time[0], time_shape), ("y", "int64", [batch])]
    return NumpySession(
        lambda x, t, y: -x + 10 * np.reshape(t, (-1, *[1] * (x.ndim - 1))) + y.reshape(-1, *[1] * (x.ndim - 1)),
        inputs, [batch, *shape] if output is None else output, dtype, **options,
    )  # fmt: skip


def rows(count, dtype=torch.float32):
    return torch.arange(3.0 * count, dtype=dtype).reshape(count, 3)


def expected(x, t, y):
    return -x + 10 * t + y[:, None]


@pytest.mark.parametrize("batch", ["B", None, 1, 2, 5, 7])
@pytest.mark.parametrize("output", [None, ["B", 3], [None, None]], ids=["symbols", "named", "unknown"])
def test_any_batch_through_any_graph(batch, output):
    graph = session(batch, output=output if isinstance(batch, str) or output is None else [batch, 3])
    model = from_onnx(graph, clock="1-t")
    assert model.channels == 3
    assert model.time_shape == "batch"
    (out,) = model.bind(Y).evaluate(rows(5), 0.25)
    assert torch.equal(out, expected(rows(5), 0.75, Y["y"]))
    size = batch if isinstance(batch, int) else 5
    assert graph.runs == [size] * -(-5 // size)


def test_rows_with_times_of_their_own_go_with_their_rows():
    model = from_onnx(session(batch=2))
    times = [0.0, 0.25, 0.5, 0.75, 1.0]
    (out,) = model.bind(Y).evaluate_rows(rows(5), times)
    assert torch.equal(out, expected(rows(5), torch.tensor(times)[:, None], Y["y"]))


def test_dtypes_and_the_shape_of_the_time_are_those_of_the_graph():
    half = from_onnx(session(dtype="float16", time=("float16", None)))
    assert (half.dtype, half.time_dtype) == (torch.float16, torch.float16)
    (out,) = half.bind(Y).evaluate(rows(5), 0.25)
    assert out.dtype == torch.float32
    whole = from_onnx(session(time=("int64", [])), "noise", DiscreteDDPM.linear())
    assert (whole.time_dtype, whole.time_shape) == (torch.int64, "scalar")
    (out,) = whole.bind(Y).evaluate(rows(5), 0.3)
    assert torch.equal(out, expected(rows(5), 699.0, Y["y"]))
    one = from_onnx(session(time=("float32", [1])))
    assert one.time_shape == "one"
    assert torch.equal(one.bind(Y).evaluate(rows(5), 0.5)[0], expected(rows(5), 0.5, Y["y"]))
    column = from_onnx(session(time=("float32", ["B", 1])))
    assert torch.equal(column.bind(Y).evaluate(rows(5), 0.5)[0], expected(rows(5), 0.5, Y["y"]))


def test_a_batch_of_no_rows_and_memory_that_is_not_contiguous():
    graph = session(batch=2)
    model = from_onnx(graph)
    assert model.bind({"y": Y["y"][:1]}).evaluate(rows(0), 0.5)[0].shape == (0, 3)
    assert graph.runs == []
    x = torch.arange(12.0).reshape(3, 4).t()[:, :3]
    (out,) = from_onnx(session()).bind({"y": Y["y"][:4]}).evaluate(x, 0.5)
    assert torch.equal(out, expected(x, 0.5, Y["y"][:4]))


def test_guided_sampling_through_a_graph_of_one_batch_size():
    plain = adapt(lambda x, t, y: expected(x, t[:, None], y), null={"y": torch.tensor([0])})
    graph = session(batch=4)
    model = from_onnx(graph, null={"y": torch.tensor([0])})
    results = [pf.sample(m, (3, 3), steps=4, guidance=2.0, condition={"y": Y["y"][:3]}) for m in (plain, model)]
    assert torch.equal(*results)
    assert graph.runs == [4, 4] * 8  # six rows of a guided call


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: from_onnx(3), ArgumentError, "session: got int, expected an onnxruntime.InferenceSession"),
        (lambda: from_onnx("net.onnx"), ArgumentError, r"providers: got nothing.*CPUExecutionProvider"),
        (lambda: from_onnx(session(), providers=["x"]), ArgumentError, "providers: got .*expected None"),
        (lambda: from_onnx(session(), x="image"), ArgumentError, "x: got 'image'.*sample, timestep, y"),
        (lambda: from_onnx(session(), time="clock"), ArgumentError, "time: got 'clock'.*sample, timestep, y"),
        (lambda: from_onnx(session(outputs=("a", "b"))), ArgumentError, "output: got nothing, expected one of a, b"),
        (lambda: from_onnx(session(), output="z"), ArgumentError, "output: got 'z', expected one of out"),
        (
            lambda: from_onnx(NumpySession(None, [("a", "float32", [1]), ("b", "float32", [1])], [1])),
            ArgumentError,
            "x: got 0 of its inputs among x, sample.*a, b",
        ),
        (
            lambda: from_onnx(NumpySession(None, [("x", "float32", []), ("t", "float32", [1])], [1])),
            ArgumentError,
            r"x: got 'x' without dimensions, expected an input \[B, \*D\]",
        ),
        (
            lambda: from_onnx(NumpySession(None, [("x", "string", [1])], [1])),
            DtypeError,
            r"'x' of the session: got tensor\(string\)",
        ),
        (lambda: from_onnx(session()).evaluate(rows(5), 0.5), ArgumentError, "condition: got none, expected y"),
        (
            lambda: from_onnx(session()).bind(Y).evaluate(rows(5).requires_grad_(), 0.5),
            ArgumentError,
            "x: got a state that requires a gradient",
        ),
    ],
)
def test_bad_sessions_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"onnxruntime: got not installed.*pushforward\[onnx\]"):
        from_onnx(b"", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("batch", "known"), [("B", True), ("B", False), (2, True)])
def test_a_mixture_in_onnx_runtime(batch, known, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    torch_form = TorchMixture()
    constants = (torch_form.means, torch_form.variances, torch_form.log_shares)
    with warnings.catch_warnings():  # NumPy's deprecations in onnx
        warnings.simplefilter("ignore", DeprecationWarning)
        graph = mixture_graph(*(one.numpy() for one in constants), IMAGE[1:], batch, known)
    (tmp_path / "net.onnx").write_bytes(graph)
    for given in (graph, tmp_path / "net.onnx"):
        model = from_onnx(given, providers=["CPUExecutionProvider"], null=NULL)
        assert model.dtype == model.time_dtype == torch.float64
        (out,) = model.bind(Y).evaluate(STATE, 0.4)
        exact = velocity_function(STATE, torch.full((5,), 0.4, dtype=torch.float64), Y["y"])
        assert (out - exact).abs().max() < 1e-12
    plain = adapt(velocity_function, null=NULL)
    runs = [pf.sample(m, STATE, grid=(0.1, 0.4, 0.7, 0.9), guidance=2.0, condition=Y) for m in (model, plain)]
    assert (runs[0] - runs[1]).abs().max() < 1e-12


class Shift(torch.nn.Module):
    """x + t + y."""

    def forward(self, x, t, y=None):
        return x + t[:, None] + y["shift"][:, None]


@pytest.fixture(scope="module")
def programs():
    batch = torch.export.Dim("batch", min=1)
    arguments = ((torch.zeros(3, 3), torch.zeros(3)), {"y": {"shift": torch.zeros(3)}})
    shapes = {"x": {0: batch}, "t": {0: batch}, "y": {"shift": {0: batch}}}
    return {
        "any": torch.export.export(Shift(), *arguments, dynamic_shapes=shapes),
        "three": torch.export.export(Shift(), *arguments),
    }


@pytest.mark.parametrize("name", ["any", "three"])
@pytest.mark.parametrize("form", ["program", "module"])
def test_any_batch_through_any_program(programs, name, form):
    program = programs[name]
    model = from_export(program if form == "program" else program.module(), clock="1-t")
    assert (model.dtype, model.time_dtype, model.channels) == (torch.float32, torch.float32, 3)
    shift = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    (out,) = model.bind({"y": {"shift": shift}}).evaluate(rows(5), 0.25)
    assert torch.equal(out, rows(5) + 0.75 + shift[:, None])


def test_a_program_keeps_gradients(programs):
    x = rows(5).requires_grad_()
    (out,) = from_export(programs["three"]).bind({"y": {"shift": torch.ones(1)}}).evaluate(x, 0.5)
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones(5, 3))


def test_a_program_saved_and_loaded(programs, tmp_path):
    torch.export.save(programs["any"], tmp_path / "net.pt2")
    model = from_export(torch.export.load(tmp_path / "net.pt2"))
    assert torch.equal(model.bind({"y": {"shift": torch.ones(1)}}).evaluate(rows(2), 0.5)[0], rows(2) + 1.5)


def test_bad_programs_are_named(programs):
    with pytest.raises(ArgumentError, match=r"program: got Linear, expected an ExportedProgram.*torch\.export\.load"):
        from_export(torch.nn.Linear(2, 2))
    with pytest.raises(ArgumentError, match="time: got 'when', expected the name of one input: x, t, y"):
        from_export(programs["any"], time="when")
    with pytest.raises(ArgumentError, match="condition: got label, expected y"):
        from_export(programs["any"]).bind({"label": torch.ones(1)}).evaluate(rows(2), 0.5)


def test_the_torch_form_of_the_mixture_is_the_mixture():
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    assert (TorchMixture()(STATE, t, Y["y"]) - velocity_function(STATE, t, Y["y"])).abs().max() < 1e-12
    assert {*ORACLES} == {*LABELS.tolist(), ANY}
