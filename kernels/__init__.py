"""pushforward.kernels: the arithmetic. Linear combinations with counter-based noise, in one pass over memory.

Linear combinations with counter-based noise are `combine`, `combination` and `prepare`; `normal` and `uniform` are
random numbers as tensors; `Draw` and `Noise` say which random numbers; `backend` and `backends` say which
implementation runs.
"""

if (
    __name__ == "kernels"
):  # on sys.path by accident (a checkout as working directory): look like an unrelated, empty module
    __version__ = "0"
else:
    from . import native as native
    from . import reference as reference
    from .brownian import BrownianIncrements as BrownianIncrements
    from .brownian import brownian as brownian
    from .combine import OpenCombine as OpenCombine
    from .combine import PreparedCombine as PreparedCombine
    from .combine import RegisterStep as RegisterStep
    from .combine import combination as combination
    from .combine import combine as combine
    from .combine import prepare as prepare
    from .combine import register_step as register_step
    from .discrepancy import energy_distance as energy_distance
    from .discrepancy import mmd2 as mmd2
    from .dispatch import BackendWarning as BackendWarning
    from .dispatch import backend as backend
    from .dispatch import backends as backends
    from .gram import Gram as Gram
    from .gram import gram as gram
    from .mosaic import GridSamples as GridSamples
    from .mosaic import grid_sample3d_sum as grid_sample3d_sum
    from .noise import PURPOSE_ACCEPTANCE as PURPOSE_ACCEPTANCE
    from .noise import PURPOSE_BROWNIAN as PURPOSE_BROWNIAN
    from .noise import PURPOSE_CATEGORICAL as PURPOSE_CATEGORICAL
    from .noise import PURPOSE_DIFFUSION as PURPOSE_DIFFUSION
    from .noise import PURPOSE_INITIAL as PURPOSE_INITIAL
    from .noise import PURPOSE_NEIGHBOUR as PURPOSE_NEIGHBOUR
    from .noise import PURPOSE_NOISING as PURPOSE_NOISING
    from .noise import PURPOSE_PROBE as PURPOSE_PROBE
    from .noise import PURPOSE_RENOISING as PURPOSE_RENOISING
    from .noise import PURPOSE_RESAMPLING as PURPOSE_RESAMPLING
    from .noise import PURPOSE_USER as PURPOSE_USER
    from .noise import Draw as Draw
    from .noise import Noise as Noise
    from .pyramid import collapse as collapse
    from .pyramid import laplacian_pyramid as laplacian_pyramid
    from .pyramid import pyramid_down as pyramid_down
    from .pyramid import pyramid_up as pyramid_up
    from .random import normal as normal
    from .random import uniform as uniform
    from .resample import RESAMPLING_SCHEMES as RESAMPLING_SCHEMES
    from .resample import Resampled as Resampled
    from .resample import resample as resample
    from .rows import gather_rows as gather_rows
    from .rows import gather_tokens as gather_tokens
    from .rows import keep_in_place as keep_in_place
    from .rows import scatter_tokens as scatter_tokens
    from .runge_kutta import RungeKuttaStep as RungeKuttaStep
    from .runge_kutta import rk_step as rk_step
    from .threshold import threshold as threshold
    from .wavelet_filters import Wavelet as Wavelet
    from .wavelets import Bands as Bands
    from .wavelets import dwt2d as dwt2d
    from .wavelets import haar2d as haar2d
    from .wavelets import idwt2d as idwt2d
    from .wavelets import ihaar2d as ihaar2d
    from .weights import reweigh as reweigh
