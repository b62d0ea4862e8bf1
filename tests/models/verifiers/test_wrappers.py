"""Cache, batches and clock: the same values, and what they cost."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pushforward.errors import ArgumentError, ShapeError
from pushforward.models.verifiers import Batched, Cached, Timed, evaluate, evaluate_with_graph


def reward(x: Tensor, context: object) -> Tensor:
    """Depends on the row and on its entries of the context."""
    values = x.flatten(1).sum(1)
    if isinstance(context, dict):
        labels = torch.as_tensor(context["label"]).expand(len(x))
        values = values + 10 * labels + torch.tensor([len(prompt) for prompt in context["prompt"]])
    return values


X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0]])
CONTEXT = {"label": torch.tensor([0, 1, 0, 1]), "prompt": ["a", "bb", "a", "bb"]}


def test_a_cache_scores_each_sample_once() -> None:
    inner = Timed(reward)
    cached = Cached(inner)
    assert torch.equal(evaluate(cached, X), evaluate(reward, X))
    assert (inner.calls, inner.rows, cached.hits, cached.misses, len(cached)) == (1, 3, 1, 3, 3)
    assert torch.equal(evaluate(cached, X.flip(0)), evaluate(reward, X.flip(0)))
    assert (inner.calls, cached.hits) == (1, 5), "nothing to score, no call"
    some = torch.cat([X[1:2], torch.zeros(1, 2)])
    assert evaluate(cached, some).tolist() == [7.0, 0.0]
    assert (inner.calls, inner.rows, cached.hits, cached.misses) == (2, 4, 6, 4)
    cached.clear()
    assert (len(cached), cached.hits, cached.misses) == (0, 0, 0)


def test_a_sample_in_another_context_is_another() -> None:
    cached = Cached(reward)
    assert torch.equal(evaluate(cached, X, CONTEXT), evaluate(reward, X, CONTEXT))
    assert cached.misses == 3
    for key, entry in {"label": torch.tensor([0, 1, 2, 1]), "prompt": ["a", "bb", "ccc", "bb"]}.items():
        other = CONTEXT | {key: entry}
        assert torch.equal(evaluate(cached, X, other), evaluate(reward, X, other))
    assert cached.misses == 5
    # One row for all and the same row for each are the same content: only the first sample is new, once.
    assert evaluate(cached, X[:2], {"label": torch.tensor([1]), "prompt": ["bb"] * 2}).tolist() == [15.0, 19.0]
    assert evaluate(cached, X, {"label": torch.ones(4).long(), "prompt": ["bb"] * 4}).tolist() == [15, 19, 15, 23]
    assert cached.misses == 6


def test_bytes_of_other_kinds_are_not_confused() -> None:
    cached = Cached(lambda x, context: x.double().flatten(1).sum(1))
    one = torch.tensor([[1.0, 0.0]])
    for x in (one, one.double(), one.bfloat16(), one.view(torch.int32), one[:, :, None], one[:, :1]):
        assert evaluate(cached, x).item() == x.double().sum().item()
    assert cached.misses == 6
    assert evaluate(cached, one.expand(3, 2)).tolist() == [1.0] * 3, "not contiguous"
    assert cached.misses == 6
    texts = Cached(lambda x, context: [float(context["n"] == 1)] * len(x))
    answers = [evaluate(texts, one, {"n": n}).item() for n in (1, "1", 1.0, None, b"1", np.float32(1))]
    assert answers == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert texts.misses == 6
    split = Cached(lambda x, context: [float(len(context["a"][0]))] * len(x))
    assert evaluate(split, one, {"a": ["xy"], "b": ["z"]}).item() == 2
    assert evaluate(split, one, {"a": ["x"], "b": ["yz"]}).item() == 1, "not one string of bytes"


def test_the_least_recently_used_value_goes_first() -> None:
    cached = Cached(reward, entries=2)
    rows = [torch.tensor([[float(i), 0.0]]) for i in range(3)]
    for i in (0, 1, 0, 2):  # 1 is the oldest when 2 comes
        evaluate(cached, rows[i])
    assert (cached.misses, len(cached)) == (3, 2)
    evaluate(cached, rows[0])
    assert cached.misses == 3
    evaluate(cached, rows[1])
    assert cached.misses == 4
    many = torch.arange(20.0).reshape(10, 2)
    assert torch.equal(evaluate(cached, many), evaluate(reward, many)), "a batch larger than the cache"
    assert len(cached) == 2


@given(rows=st.lists(st.lists(st.integers(0, 4), max_size=8), max_size=6), entries=st.integers(1, 6))
def test_a_cache_never_changes_a_value(rows: list[list[int]], entries: int) -> None:
    pool = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [2.0, 3.0], [math.inf, -1.0], [0.5, 0.5]])
    cached = Cached(lambda x, context: -x.square().sum(1), entries)
    for batch in rows:
        x = pool[batch]
        assert torch.equal(evaluate(cached, x), -x.double().square().sum(1))
    assert cached.hits + cached.misses == sum(map(len, rows))
    assert cached.misses >= len({i for batch in rows for i in batch})


def test_gradients_go_past_a_cache() -> None:
    cached = Cached(reward)
    evaluate(cached, X)
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(evaluate_with_graph(cached, x).sum(), x)
    assert torch.equal(slope, torch.ones_like(X))
    assert (cached.hits, cached.misses) == (1, 3)
    evaluate(cached, x)  # no graph is asked for
    assert cached.hits == 5


def test_nan_is_not_remembered() -> None:
    answers = iter([[math.nan, 1.0], [2.0]])
    cached = Cached(lambda x, context: next(answers))
    assert cached(X[:2]).isnan().tolist() == [True, False]
    assert cached(X[:2]).tolist() == [2.0, 1.0]
    assert cached.misses == 3


def test_threads_may_share_a_cache() -> None:
    cached, failed = Cached(reward, entries=8), []
    x = torch.arange(64.0).reshape(32, 2)

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(50):
            some = x[torch.randint(0, 32, (6,), generator=generator)]
            if not torch.equal(evaluate(cached, some), evaluate(reward, some)):
                failed.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert cached.hits + cached.misses == 4 * 50 * 6


def test_a_context_without_content_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"context\['pipe'\]: got object, expected tensors"):
        Cached(reward)(X, {"pipe": object()})
    with pytest.raises(ShapeError, match=r"context\['label'\]"):
        Cached(reward)(X, {"label": torch.zeros(3)})


def test_a_batch_is_cut_with_its_context() -> None:
    seen = []

    def watch(x: Tensor, context: dict) -> list[float]:
        seen.append((len(x), context["prompt"], context["label"].tolist(), context["shared"].shape))
        return reward(x, context).tolist()

    context = CONTEXT | {"shared": torch.zeros(1, 28)}
    values = evaluate(Batched(watch, 3), X, context)
    assert torch.equal(values, evaluate(reward, X, CONTEXT))
    assert seen == [(3, ["a", "bb", "a"], [0, 1, 0], (1, 28)), (1, ["bb"], [1], (1, 28))]
    seen.clear()
    assert torch.equal(evaluate(Batched(watch, 4), X, context), values)
    assert len(seen) == 1
    inner = Timed(reward)
    evaluate(Cached(Batched(inner, 1)), X)
    assert (inner.calls, inner.rows) == (3, 3)


def test_a_clock_counts_what_was_asked() -> None:
    timed = Timed(reward)
    evaluate(timed, X)
    evaluate(timed, X[:1])
    assert (timed.calls, timed.rows) == (2, 5)
    assert timed.seconds > 0

    def fails(x: Tensor, context: object) -> Tensor:
        raise RuntimeError("no network")

    broken = Timed(fails)
    with pytest.raises(RuntimeError, match="no network"):
        evaluate(broken, X)
    assert (broken.calls, broken.rows) == (1, 4)
    timed.reset()
    assert (timed.calls, timed.rows, timed.seconds) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Batched(reward, 0), "rows: got 0"),
        (lambda: Batched(reward, 2.0), "rows: got 2.0"),  # type: ignore[arg-type]
        (lambda: Cached(reward, 0), "entries: got 0"),
        (lambda: Cached(None), "reward: got NoneType"),  # type: ignore[arg-type]
        (lambda: Timed(3), "reward: got int"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_wrapped_is_refused(make: object, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        make()  # type: ignore[operator]


def test_the_configuration_is_printed_without_counts() -> None:
    wrapped = Timed(Cached(Batched(reward, 64), entries=100))
    evaluate(wrapped, X)
    assert repr(wrapped) == "Timed(reward=Cached(reward=Batched(reward=reward, rows=64), entries=100))"
