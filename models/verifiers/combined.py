"""What all rewards made of rewards share: their flags follow from those of their parts."""

from __future__ import annotations

from .describe import Described
from .verifier import Verifier, is_differentiable, is_rowwise


class Combined(Described):
    """Base of rewards that call others with the same samples and context.

    Attributes:
        reward: The only part; a subclass with other parts overrides :attr:`parts`.
    """

    reward: Verifier

    @property
    def parts(self) -> tuple[Verifier, ...]:
        """The rewards it calls."""
        return (self.reward,)

    @property
    def differentiable(self) -> bool | None:
        """True if all parts are, False if one is not, else None."""
        return is_differentiable(*self.parts)

    @property
    def rowwise(self) -> bool:
        """Whether all parts score a row by that row alone."""
        return is_rowwise(*self.parts)
