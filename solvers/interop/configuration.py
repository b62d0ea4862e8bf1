"""Configurations of schedulers: another class's in words of this one, and what the keys for clean estimates ask for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ... import kernels
from ...errors import ArgumentError
from ..executor import TransformFunction
from ..solver import FixedGridSolver
from .training import training_of

CONVENTIONS = {"Euler": "levels", "Heun": "levels", "LMS": "levels", "KDPM2": "levels"} | dict.fromkeys(
    ("DPMSolver", "UniPC", "DEIS", "SASolver"), "dropped_last"
)  # by the beginning of the class's name: how it reads timestep_spacing


def named(solver: FixedGridSolver, options: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """A solver object as its registered name and the options it has, which a configuration can hold.

    Raises:
        ArgumentError: Options beside the object, or one that JSON cannot hold.

    """
    if options:
        raise ArgumentError("solver_options", got=sorted(options), expected="none beside a solver object")
    own = {field.name: getattr(solver, field.name) for field in dataclasses.fields(solver)}  # type: ignore[arg-type]
    try:
        json.dumps(own, allow_nan=True)
    except TypeError as error:
        hint = "Pass the solver's name and solver_options that JSON can hold"
        raise ArgumentError("solver", got=str(solver), expected="options of numbers and names", hint=hint) from error
    return solver.name, own


def translated(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Another scheduler's configuration with what only its class knows put into words of this one."""
    own = dict(config) | {"training": training_of(config, name)}
    own["timestep_convention"] = next((c for start, c in CONVENTIONS.items() if name.startswith(start)), "indices")
    if "flow_shift" in own and "shift" not in own:
        own["shift"] = own["flow_shift"]
    if own["timestep_convention"] == "dropped_last":  # a class of this family that has no such key spaces so
        own.setdefault("timestep_spacing", "linspace")
    if name.startswith("DEIS") or (name == "DDIMScheduler" and own.get("set_alpha_to_one") is False):
        own.setdefault("final_sigmas_type", "sigma_min")
    return own


def clean_transform(config: Mapping[str, Any]) -> str | None:
    """What happens to clean estimates, by name."""
    return "threshold" if config["thresholding"] else "clip" if config["clip_sample"] else None


def clean_transforms(config: Mapping[str, Any]) -> dict[str, TransformFunction]:
    """The function of that name."""
    if config["thresholding"]:
        ratio, cap = config["dynamic_thresholding_ratio"], max(float(config["sample_max_value"]), 1.0)
        return {"threshold": lambda denoised, _: kernels.threshold(denoised, ratio, cap=cap)}
    if config["clip_sample"]:
        bound = config["clip_sample_range"]
        return {"clip": lambda denoised, _: denoised.clamp(-bound, bound)}
    return {}
