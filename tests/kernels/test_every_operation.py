"""What holds for every operation: operators, compilation, gradients of both orders, memory layouts, every backend.

A new operation needs one case in `tests/support/operations.py`; whatever else is asked of it is in the file of its
family.
"""

import copy
import platform
from pathlib import Path

import pytest
import torch
from kernel_variants import using, variants
from operations import LARGE, SMALL, TINY, cases, numbers
from torch.utils._python_dispatch import TorchDispatchMode

from pushforward import kernels
from pushforward.kernels import backend, backends, catalogue, dispatch
from pushforward.kernels.dispatch import imitated, native_module

CASES = list(cases(TINY))
DIFFERENTIABLE = [op for op in CASES if catalogue.entries[op].differentiable != "no"]
LAYOUTS = ("offset", "transposed", "strided")
NOT_THE_SAME_BITS = {"mmd2", "energy_distance"}  # sums of many terms, in the order that suits a backend


def recording(calls):
    """A mode in which calls of operators are noted."""

    class Recording(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "pushforward":
                calls.setdefault(function, copy.deepcopy(args))
            return function(*args, **(kwargs or {}))

    return Recording()


def leaves(tensors):
    return [x.detach().clone().requires_grad_() for x in tensors]


def differentiable(outputs):
    return [y for y in outputs if y.requires_grad]


@pytest.fixture(scope="module")
def called():
    """Operators with arguments, as all operations call them, forwards and backwards."""
    calls = {}
    for op, (function, tensors, others) in cases(TINY).items():
        with recording(calls):
            outputs = differentiable(function(*(leaves(tensors) if op in DIFFERENTIABLE else tensors), *others))
            if outputs:
                sum(y.sum() for y in outputs).backward()
    return calls


def test_every_operation_has_a_case():
    assert set(CASES) == set(catalogue.entries)


def test_every_operator_is_called_by_a_case(called):
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("pushforward::")}
    assert {function._schema.name for function in called} == names


def test_opcheck(called):
    for function, arguments in called.items():
        torch.library.opcheck(function, arguments, test_utils=("test_schema", "test_faketensor"))
        ready = [leaves([x])[0] if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in arguments]
        torch.library.opcheck(function, tuple(ready), test_utils=("test_autograd_registration",))


@pytest.mark.parametrize("op", CASES)
def test_compiles_without_a_graph_break_and_with_its_gradient(op):
    function, tensors, others = cases(SMALL)[op]
    ours, theirs = (leaves(tensors) if op in DIFFERENTIABLE else tensors for _ in range(2))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results, expected = compiled(*ours, *others), function(*theirs, *others)
    torch.testing.assert_close(results, type(results)(expected), rtol=1e-12, atol=1e-12)
    if op in DIFFERENTIABLE:
        assert differentiable(results)
        for inputs, outputs in ((ours, results), (theirs, expected)):
            sum(y.square().sum() for y in differentiable(outputs)).backward()
            assert all(x.grad is not None for x in inputs)
        torch.testing.assert_close([x.grad for x in ours], [x.grad for x in theirs], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["reference", "native"])
@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_gradients_of_both_orders(op, name):
    if name not in dispatch.implementing(op):
        pytest.skip(f"{name} does not run here")
    function, tensors, others = cases(TINY)[op]

    def of(*inputs):
        return tuple(differentiable(function(*inputs, *others)))

    with backend(name):
        assert of(*leaves(tensors))
        assert torch.autograd.gradcheck(of, leaves(tensors))
        assert torch.autograd.gradgradcheck(of, leaves(tensors))


def laid_out(x, layout):
    if layout == "offset":  # aligned to its element, and to nothing more
        return torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)
    if layout == "transposed":
        return x.permute(*range(x.ndim)[::-1]).contiguous().permute(*range(x.ndim)[::-1])
    return x.repeat_interleave(3, -1)[..., ::3]


@pytest.mark.parametrize(("op", "variant"), [(op, variant) for op in CASES for variant in variants(op)])
def test_memory_layouts_and_backends_change_no_bit(op, variant):
    sizes = SMALL if imitated(variant) else LARGE
    function, tensors, others = cases(sizes, torch.float32)[op]
    with backend("reference"):
        expected = list(function(*tensors, *others))
    with using(variant):
        plain = list(function(*tensors, *others))
        results = [list(function(*[laid_out(x, layout) for x in tensors], *others)) for layout in LAYOUTS]
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, plain, strict=True))
    if op in NOT_THE_SAME_BITS:
        # Each of four means is off by 45 eps of its largest term, here at most 12; distances from a matrix product
        # (Triton) by the root of 2 (p + 4) eps |x|^2 too: see test_discrepancy.
        eps, (x, y) = torch.finfo(torch.float32).eps, tensors
        product = 2 * (x.shape[1] + 4) * eps * max(x.square().sum(1).max(), y.square().sum(1).max())
        bound = 4 * (45 * eps * 12 + (float(product.sqrt()) if variant == "triton" else 0))
        torch.testing.assert_close(plain, expected, rtol=0, atol=bound)
    else:
        assert all(torch.equal(a, b) for a, b in zip(plain, expected, strict=True))


@pytest.mark.parametrize("variant", variants("gather_rows"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_moved_in_place_in_any_layout(variant, layout):
    x, index = numbers(2, 9, 7), torch.randint(9, (2, 9), generator=torch.Generator().manual_seed(1))
    state = laid_out(x, layout)
    with using(variant):
        kernels.gather_rows(state, index, in_place=True)
    assert torch.equal(state, torch.stack([x[b, index[b]] for b in range(2)]))


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists() or platform.machine() != "x86_64", reason="needs x86-64's flags")
@pytest.mark.skipif(backends()["native"] != "available", reason="the native module is not built")
def test_every_instruction_set_of_this_processor_is_tested():
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    needed = {"generic": set(), "avx2": {"avx2", "fma", "bmi2"}}
    needed["avx512"] = needed["avx2"] | {"avx512" + part for part in ("f", "bw", "cd", "dq", "vl")}
    assert set(native_module.instruction_sets()) == {name for name, parts in needed.items() if parts <= set(flags)}


def test_a_missing_backend_says_why(monkeypatch):
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    assert backends()["triton"] == "the package triton is not installed: pip install 'pushforward[triton]'"
