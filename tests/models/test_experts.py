"""Low-rank adapters and what noise experts are trained on; nothing is trained here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pushforward.errors import ArgumentError
from pushforward.models import NoiseExperts, bundled
from pushforward.models.training.low_rank import adapter_state, attach, load_adapter, merged
from pushforward.models.training.train_experts import SHARPENING, divergence, mean_divergence, noised, train_expert


@pytest.fixture(scope="module")
def teacher():
    return bundled.load("digits28-classifier-a")


PICTURES = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_adapters_start_as_the_network_and_merge_into_it(teacher) -> None:
    expert = attach(teacher, rank=4)
    assert torch.equal(expert(PICTURES), teacher(PICTURES)), "their products start at zero"
    generator = torch.Generator().manual_seed(1)
    state = {name: torch.randn(p.shape, generator=generator) / 10 for name, p in adapter_state(expert).items()}
    load_adapter(expert, state)
    plain = merged(expert)
    assert (expert(PICTURES) - plain(PICTURES)).abs().max() < 1e-6 * plain(PICTURES).abs().max()
    assert (plain(PICTURES) - teacher(PICTURES)).abs().max() > 0.1
    assert plain.state_dict().keys() == teacher.state_dict().keys()
    assert type(plain.head) is type(teacher.head)
    assert sum(p.numel() for p in state.values()) < 0.1 * sum(p.numel() for p in teacher.parameters())
    frozen = {name for name, p in expert.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in expert.named_parameters() if name.endswith("original")}


def test_the_divergence_is_that_of_the_sharpened_teacher() -> None:
    teacher, student = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q = (teacher / SHARPENING).softmax(1), student.softmax(1)
    assert torch.allclose(divergence(teacher, student), (p * (p / q).log()).sum(1), atol=1e-12)
    assert divergence(teacher, teacher / SHARPENING).abs().max() < 1e-12


def test_states_are_those_of_the_range(teacher) -> None:
    clean = PICTURES.repeat(200, 1, 1, 1)
    states, t = noised(clean, (0.2, 0.4), torch.Generator().manual_seed(0))
    assert t.min() >= 0.2
    assert t.max() < 0.4
    noise = (states - t[:, None, None, None] * clean) / (1 - t[:, None, None, None])
    assert abs(noise.std() - 1) < 5e-3  # 940,800 normals: seven standard errors
    experts = NoiseExperts.equal([teacher] * 2)
    blind = NoiseExperts([lambda x: torch.zeros(len(x), 10)], [])
    assert mean_divergence(experts, teacher, PICTURES, levels=3) == mean_divergence(
        NoiseExperts([teacher], []), teacher, PICTURES, levels=3
    )
    assert 0 < mean_divergence(blind, teacher, PICTURES, levels=1) <= 2.31, "at most log 10"


def test_refuses_in_words(teacher) -> None:
    with pytest.raises(ArgumentError, match="rank: got 0"):
        attach(teacher, rank=0)
    with pytest.raises(ArgumentError, match="network: got ReLU"):
        attach(nn.ReLU())
    with pytest.raises(ArgumentError, match="state: got other names"):
        load_adapter(attach(teacher, 1), {})
    with pytest.raises(ArgumentError, match=r"times: got \(0.5, 0.5\)"):
        train_expert(teacher, PICTURES, (0.5, 0.5), updates=1)
