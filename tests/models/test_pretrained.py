import pytest
import torch

from pushforward import models
from pushforward.errors import ArgumentError, UnknownNameError


@pytest.mark.parametrize("name", ["digits28-base", "digits28-small", "digits28-dit"])
def test_a_bundled_model_is_its_network_with_labels(name):
    model = models.load(name)
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    bound = model.bind({"label": torch.tensor([3, 5])})
    cond, null = bound.evaluate(x, 0.4, ("cond", "null"))
    by_hand = models.bundled.load(name)
    for out, labels in ((cond, [3, 5]), (null, [10, 10])):
        expected = by_hand(x, torch.full((2,), 0.4), torch.tensor(labels))
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    assert (bound.calls, bound.rows) == (1, 4)
    (wide,) = model.evaluate(x.double(), 0.4, {"label": torch.tensor([3, 5])})
    assert wide.dtype == torch.float64


def test_what_is_no_generative_model():
    with pytest.raises(ArgumentError, match=r"expected a velocity network.*bundled\.load"):
        models.load("digits28-classifier-a")
    with pytest.raises(UnknownNameError, match="got 'digits', expected one of digits28-autoencoder, digits28-base"):
        models.load("digits")
