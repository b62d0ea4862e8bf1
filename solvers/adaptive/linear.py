r"""The linear systems of implicit methods, :math:`(I - w J) y = r` for each sample, with the field's Jacobian J.

Samples never meet: each has its own matrix, or its own Krylov space, so that its answer is that of the sample alone.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from .field import Field


class LinearSystem(Protocol):
    """Solver of systems with the matrix of one attempt.

    Attributes:
        evaluations: Of the field so far, a sample.
        products: Of Jacobian and vector so far, each about two evaluations by forward differentiation.
        jacobians: Formed so far.
        reads: How often the host waited for the device.

    """

    evaluations: np.ndarray
    products: np.ndarray
    jacobians: int
    reads: int

    def solve(self, right: Tensor, index: Tensor) -> Tensor:
        """Solutions y [n, *D] for right sides [n, *D] of the samples ``index`` (int64 [n], on the host)."""
        ...


class DenseSystem:
    """Jacobians by reverse differentiation, one backward pass a component, factorised once an attempt.

    Where the field gives no graph (it is constant, or hides it) differences take the place of derivatives.

    Args:
        field: Field of the live samples.
        x: States [b, *D].
        t: Times, float64 [b], on the host.
        weight: w, float64 [b].

    """

    def __init__(self, field: Field, x: Tensor, t: Tensor, weight: Tensor) -> None:
        self.evaluations, self.products = np.ones(len(t), dtype=np.int64), np.zeros(len(t), dtype=np.int64)
        self.jacobians, self.reads = 1, 0
        jacobian = self.jacobian(field, x, t)
        size = jacobian.shape[-1]
        scale = weight.to(device=x.device, dtype=x.dtype)[:, None, None]
        matrix = torch.eye(size, dtype=x.dtype, device=x.device) - scale * jacobian
        self.factors, self.pivots, _ = torch.linalg.lu_factor_ex(matrix)

    def jacobian(self, field: Field, x: Tensor, t: Tensor) -> Tensor:
        """J [b, d, d] of the flattened samples."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            slope = field(at, t)
        if not slope.requires_grad:
            return self.by_differences(field, x, t, slope)
        count, size = x.shape[0], math.prod(x.shape[1:])
        rows = []
        for i in range(size):
            choice = torch.zeros(count, size, dtype=x.dtype, device=x.device)
            choice[:, i] = 1
            (row,) = torch.autograd.grad(
                slope, at, choice.view_as(x), retain_graph=i < size - 1, materialize_grads=True
            )
            rows.append(row.reshape(count, size))
        return torch.stack(rows, 1)

    def by_differences(self, field: Field, x: Tensor, t: Tensor, slope: Tensor) -> Tensor:
        """J by forward differences, one evaluation a component."""
        flat = x.flatten(1)
        step = difference_step(flat)
        columns = []
        for j in range(flat.shape[1]):
            moved = flat.clone()
            moved[:, j] += step[:, j]
            change = field(moved.view_as(x), t) - slope
            columns.append(change.flatten(1) / (moved[:, j] - flat[:, j])[:, None])
        self.evaluations += flat.shape[1]
        return torch.stack(columns, 2)

    def solve(self, right: Tensor, index: Tensor) -> Tensor:
        """Solutions by the factors."""
        factors, pivots = self.factors, self.pivots
        if len(index) != len(factors):
            place = index.to(right.device)
            factors, pivots = factors.index_select(0, place), pivots.index_select(0, place)
        return torch.linalg.lu_solve(factors, pivots, right.flatten(1).unsqueeze(-1)).view_as(right)


def difference_step(x: Tensor) -> Tensor:
    """Step of a difference quotient: half the digits of each element, as if it were at least 1e-3."""
    return math.sqrt(torch.finfo(x.dtype).eps) * x.abs().clamp(min=1e-3)


class KrylovSystem:
    r"""GMRES without a matrix: products of Jacobian and vector by forward differentiation.

    Of a field that cannot be differentiated so (a kernel without a rule) difference quotients take their place: they
    cost one evaluation, and are inexact by half the digits, which slows Newton's method but does not mislead it.

    Args:
        field, x, t, weight: As for :class:`DenseSystem`.
        tolerance: Residual at which to stop, relative to the right side.
        vectors: Largest dimension of the Krylov space; Newton's method judges what was not reached by then.

    Source: Saad & Schultz 1986, SIAM J. Sci. Stat. Comput. 7(3), 856-869; Knoll & Keyes 2004, J. Comput. Phys. 193(2).

    """

    def __init__(
        self,
        field: Field,
        x: Tensor,
        t: Tensor,
        weight: Tensor,
        tolerance: float,
        vectors: int,
    ) -> None:
        self.field, self.x, self.t, self.weight = field, x, t, weight
        self.tolerance, self.vectors = tolerance, vectors
        self.evaluations, self.products = (np.zeros(len(t), dtype=np.int64) for _ in range(2))
        self.jacobians = self.reads = 0
        self.slope: Tensor | None = None  # set once forward differentiation has failed

    def product(self, vector: Tensor, index: Tensor) -> Tensor:
        """J v for the samples ``index``, [n, d]."""
        everyone = len(index) == len(self.x)
        field = self.field if everyone else self.field.rows(index)
        place = index.to(self.x.device)
        x, t = (self.x, self.t) if everyone else (self.x.index_select(0, place), self.t[index])
        vector = vector.view_as(x)
        if self.slope is None:
            result = forward_product(field, x, t, vector)
            if result is not None:
                self.products[index.numpy()] += 1
                return result.flatten(1)
            self.slope = self.field(self.x, self.t)  # raises if the field itself is at fault
            self.evaluations += 1
        flat, slope = x.flatten(1), self.slope if everyone else self.slope.index_select(0, place)
        size = torch.linalg.vector_norm(vector.flatten(1), dim=1)
        step = torch.linalg.vector_norm(difference_step(flat), dim=1) / torch.where(size > 0, size, 1)
        moved = flat + step[:, None] * vector.flatten(1)
        self.evaluations[index.numpy()] += 1
        return (field(moved.view_as(x), t) - slope).flatten(1) / step[:, None]

    def solve(self, right: Tensor, index: Tensor) -> Tensor:
        """Solutions whose residual is small, each in the Krylov space of its own sample."""
        flat = right.flatten(1)
        count, most = len(index), min(self.vectors, flat.shape[1])
        weight = self.weight[index].to(device=flat.device, dtype=flat.dtype)[:, None]
        length = torch.linalg.vector_norm(flat, dim=1)
        basis = flat.new_zeros(count, most + 1, flat.shape[1])
        basis[:, 0] = unit(flat, length)
        size = length.to(torch.float64).cpu().numpy()
        self.reads += 1
        triangle, turns = np.zeros((count, most + 1, most)), np.zeros((count, most, 2))
        residual = np.zeros((count, most + 1))
        residual[:, 0] = size
        used = np.zeros(count, dtype=np.int64)
        going = np.isfinite(size) & (size > 0)
        for k in range(most):
            if not going.any():
                break
            new = basis[:, k] - weight * self.product(basis[:, k].contiguous(), index)
            sofar, shares = basis[:, : k + 1], flat.new_zeros(count, k + 1)
            for _ in range(2):  # twice is enough, in any precision
                share = torch.bmm(sofar, new.unsqueeze(2)).squeeze(2)
                new = new - torch.bmm(share.unsqueeze(1), sofar).squeeze(1)
                shares += share
            rest = torch.linalg.vector_norm(new, dim=1)
            basis[:, k + 1] = unit(new, rest)
            triangle[:, : k + 2, k] = torch.cat([shares, rest[:, None]], 1).to(torch.float64).cpu().numpy()
            self.reads += 1
            rotate(triangle, residual, turns, k)
            used[going] = k + 1
            with np.errstate(invalid="ignore"):
                going &= np.abs(residual[:, k + 1]) > self.tolerance * size
        last = int(used.max(initial=0))
        factors = back_substitute(triangle[:, :, :last], residual, used)
        factors[~np.isfinite(size)] = np.nan
        result = torch.bmm(torch.from_numpy(factors).to(flat).unsqueeze(1), basis[:, :last]).squeeze(1)
        return torch.where(torch.isfinite(length)[:, None], result, torch.nan).view_as(right)


def unit(vectors: Tensor, length: Tensor) -> Tensor:
    """Vectors [n, d] over their lengths [n]; those of length 0 stay."""
    return vectors / torch.where(length > 0, length, 1)[:, None]


def forward_product(field: Field, x: Tensor, t: Tensor, vector: Tensor) -> Tensor | None:
    """J v by forward differentiation; None of a field that does not allow it."""
    prepare_forward_differentiation()
    try:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(field(forward_ad.make_dual(x, vector), t)).tangent
    except (RuntimeError, NotImplementedError):
        return None


@cache
def prepare_forward_differentiation() -> None:
    """Let torch load its rules, for which it calls a function of its own that it has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def rotate(hessenberg: np.ndarray, rotated: np.ndarray, turns: np.ndarray, k: int) -> None:
    """Bring column k of the Hessenberg matrices [n, m + 1, m] to triangular form by Givens rotations, in place."""
    column = hessenberg[:, :, k]
    with np.errstate(invalid="ignore", divide="ignore"):
        for i in range(k):
            cosine, sine = turns[:, i, 0], turns[:, i, 1]
            upper = cosine * column[:, i] + sine * column[:, i + 1]
            column[:, i + 1] = cosine * column[:, i + 1] - sine * column[:, i]
            column[:, i] = upper
        radius = np.hypot(column[:, k], column[:, k + 1])
        safe = np.where(radius == 0, 1.0, radius)
        turns[:, k, 0] = np.where(radius == 0, 1.0, column[:, k] / safe)
        turns[:, k, 1] = column[:, k + 1] / safe
        column[:, k], column[:, k + 1] = radius, 0.0
        rotated[:, k + 1] = -turns[:, k, 1] * rotated[:, k]
        rotated[:, k] = turns[:, k, 0] * rotated[:, k]


def back_substitute(triangle: np.ndarray, right: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Solutions [n, m] of the leading triangles, ``used`` columns of each; zeros behind."""
    solution = np.zeros((len(used), triangle.shape[2]))
    with np.errstate(invalid="ignore", divide="ignore"):
        for k in range(int(used.max(initial=0)) - 1, -1, -1):
            rest = right[:, k] - (triangle[:, k, k + 1 :] * solution[:, k + 1 :]).sum(1)
            solution[:, k] = np.where(k < used, rest / triangle[:, k, k], 0.0)
    return solution
