"""pushforward.models.verifiers: rewards that searches and particle methods maximise, and what checks them."""

from .context import check_context as check_context
from .context import take_rows as take_rows
from .verifier import Verifier as Verifier
from .verifier import evaluate as evaluate
from .verifier import evaluate_with_graph as evaluate_with_graph
from .verifier import is_differentiable as is_differentiable
from .verifier import is_rowwise as is_rowwise
from .verifier import name_of as name_of
