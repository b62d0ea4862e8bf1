"""Adapters: how families of networks are called and configured, one file a family.

An adapter translates and does no arithmetic: it reads the configuration, says the path, the prediction and the clock,
and names the call; :func:`pushforward.models.adapt` does the rest. A new one is a file here, a line below, a fake
network in ``tests/support/dialects.py``, which the test of the dialects then runs, and a row and an example in
``docs/adapters.md``. A new family of diffusers modules is a row in ``diffusers/families.py``.
"""

from .adm import from_adm
from .crossflow import from_crossflow
from .diffusers import from_diffusers
from .edm import from_edm
from .export import from_export
from .flow_matching import from_flow_matching
from .k_diffusion import from_k_diffusion, to_k_diffusion
from .lfm import from_lfm
from .onnx import from_onnx
from .sit import from_sit

__all__ = [
    "from_adm",
    "from_crossflow",
    "from_diffusers",
    "from_edm",
    "from_export",
    "from_flow_matching",
    "from_k_diffusion",
    "from_lfm",
    "from_onnx",
    "from_sit",
    "to_k_diffusion",
]
