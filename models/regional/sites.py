"""Where tokens enter a network, where attention reads them, and where they leave."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ...errors import ArgumentError

ENTRIES, EXITS = ("embed", "pos_embed"), ("leave", "proj_out")


@dataclass(frozen=True)
class TokenSites:
    """Names of the submodules through which tokens go, all with outputs [B, N, C].

    Between entry and exit the network must treat tokens alike, and independently but for attention. Tokens that come
    in elsewhere (text) are always active.

    Attributes:
        entry: Returns the embedded tokens, positions included.
        keys: Return the keys and values of self-attention, token by token.
        exit: Returns the output of each token.
    """

    entry: str
    keys: tuple[str, ...]
    exit: str


def token_sites(network: nn.Module) -> TokenSites:
    """The sites of a network that looks like the bundled transformer or those of diffusers (SD3, PixArt).

    Looks for a direct submodule ``embed`` or ``pos_embed``, one ``leave`` or ``proj_out``, and every ``to_k`` and
    ``to_v`` whose attention does not say that it is of another sequence.

    Raises:
        ArgumentError: A network without token structure; names what was found instead.

    Example:
        >>> from pushforward.models.nets import DigitDiT
        >>> sites = token_sites(DigitDiT(width=16, depth=1))
        >>> sites.entry, sites.keys, sites.exit
        ('embed', ('blocks.0.attention.to_k', 'blocks.0.attention.to_v'), 'leave')
    """
    children = dict(network.named_children())
    entry = next((name for name in ENTRIES if name in children), None)
    leave = next((name for name in EXITS if name in children), None)
    modules = dict(network.named_modules())
    own = [
        name
        for name in modules
        if name.rpartition(".")[2] in ("to_k", "to_v")
        and not getattr(modules[name.rpartition(".")[0]], "is_cross_attention", False)
    ]
    if entry is None or leave is None or not own:
        raise ArgumentError(
            "network",
            got=f"{type(network).__name__} with {', '.join(children) or 'no submodules'}",
            expected="a transformer over a grid of tokens",
            hint="Pass sites=TokenSites(entry, keys, exit) if it is one of other names",
        )
    return TokenSites(entry, tuple(own), leave)
