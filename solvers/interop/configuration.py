"""Configurations of schedulers: another class's in words of this one, and what the keys for clean estimates ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ... import kernels
from ...errors import ArgumentError
from ..executor import TransformFunction
from ..fitting import FITTED, FittedPlan
from ..solver import FixedGridSolver, registered_options
from ..solver import solver as solver_of
from .training import training_of

CONVENTIONS = {"Euler": "levels", "Heun": "levels", "LMS": "levels", "KDPM2": "levels"} | dict.fromkeys(
    ("DPMSolver", "UniPC", "DEIS", "SASolver"), "dropped_last"
)  # by the beginning of the class's name: how it reads timestep_spacing


def named(solver: FixedGridSolver, options: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """A solver object as a name and options, which a configuration can hold; of a fitted plan all that it is.

    Raises:
        ArgumentError: Options beside the object, or one that JSON cannot hold.

    """
    if options:
        raise ArgumentError("solver_options", got=sorted(options), expected="none beside a solver object")
    return (FITTED, json.loads(solver.to_json())) if isinstance(solver, FittedPlan) else registered_options(solver)


def restored(name: str, options: Mapping[str, Any] | None) -> FixedGridSolver:
    """Inverse of :func:`named`, also after a trip through JSON.

    Raises:
        UnknownNameError, ArgumentError: No such solver or option.
        CorruptFileError: Options that are no fitted plan.

    """
    if name != FITTED:
        return solver_of(name, **(options or {}))
    if not options:
        expected = "a fitted plan as an object: what ships for a model is found by its weights, which are not here"
        raise ArgumentError("solver", got=repr(name), expected=expected)
    return FittedPlan.from_config(options)


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
