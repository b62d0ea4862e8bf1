"""Tokens with times of their own: one state whose parts are at different places of the path."""

from .executor import TokenExecutor, TokenRequest
from .sample import sample_tokens
from .times import TokenGrid, patch_tokens

__all__ = ["TokenExecutor", "TokenGrid", "TokenRequest", "patch_tokens", "sample_tokens"]
