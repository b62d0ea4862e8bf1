"""The machine code of the GPU kernels: no spills, wide accesses, no byte moved twice; and the analysis finds faults."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from _sass import accesses, problems

from pushforward.kernels.dispatch import native_module

ROOT = Path(__file__).parents[2]
pytest.importorskip("triton.backends.nvidia", reason="Triton is not installed")


def compiled(folder, *options):
    """Rows of the script by name, compiled in a process where Triton does not interpret."""
    file = folder / "rows.json"
    # Where PYTHONSAFEPATH is set, a script's own folder, with what the scripts share, is not on the path.
    folders = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "support")]
    paths = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "TRITON_INTERPRET": "0"}
    command = [sys.executable, str(ROOT / "benchmarks" / "static_gpu.py"), "--json", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert file.exists(), done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert done.returncode == int(any(row["problems"] for row in rows))
    return {row["kernel"]: row for row in rows}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("static"), "--quick")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("planted"), "--module", "planted_kernels", "--quick")


def test_no_kernel_has_a_problem(kernels):
    assert not {name: row["problems"] for name, row in kernels.items() if row["problems"]}


@pytest.mark.parametrize("noise", ["", " noise"])
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_combine_moves_every_byte_once_in_accesses_of_128_bits(kernels, dtype, size, noise):
    row = kernels[f"combine K=2{noise} {dtype}"]
    assert row["loads"].keys() == row["stores"].keys() == {"128"}
    assert row["bytes"] == 3 * size
    assert row["spills"] == row["local"] == row["fused"] == 0


@pytest.mark.skipif(native_module is None or not native_module.has_cuda(), reason="built without CUDA")
@pytest.mark.parametrize("noise", ["false", "true"])
@pytest.mark.parametrize("format", ["Float32", "Brain", "Float16"])
def test_combine_in_cuda_reads_and_writes_128_bits(kernels, format, noise):
    row = kernels[f"cuda Combine<{format}, 1, {noise}, false, true>"]
    assert row["loads"].keys() == row["stores"].keys() == {"128"}
    assert row["spills"] == row["local"] == 0
    assert noise == "true" or row["fused"] == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("narrow", "narrow loads"),
        ("narrow", "narrow stores"),
        ("reads twice", "12 bytes an element, at least 8"),
        ("spilling", "accesses to spilled registers"),
        ("spilling", "bytes of local memory"),
    ],
)
def test_a_planted_fault_is_found(planted, name, problem):
    assert not planted["sound"]["problems"]
    assert any(problem in found for found in planted[name]["problems"])


def test_fused_multiply_adds_are_found_where_they_are_forbidden(planted):
    assert planted["fused"]["fused"] > 0
    assert problems(planted["fused"] | {"fusion": False}) == [f"{planted['fused']['fused']} fused multiply-adds"]


def test_widths_are_read_from_a_disassembly():
    text = """
        /*0070*/   @!P0 LDG.E.128.CONSTANT R8, desc[UR4][R2.64] ;
        /*0080*/   LDG.E.U16 R1, [R2.64] ;  LDG.E.64 R4, [R2.64+0x8] ;  LDGSTS.E.BYPASS.128 [R3], [R2.64] ;
        /*0090*/   STG.E desc[UR4][R2.64], R8 ;  LDS.128 R4, [R9] ;
    """
    assert accesses(text) == ({"128": 2, "16": 1, "64": 1}, {"32": 1})
