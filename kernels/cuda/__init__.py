"""CUDA kernels, one module a family, imported when the backend is first used. Each module here is found by itself."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f".{_module.name}", __package__)
