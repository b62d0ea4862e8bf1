"""pushforward.models.verifiers: rewards that searches and particle methods maximise, and what checks them.

`Verifier` is the protocol, which any function of (x, context) meets; `evaluate` calls one and checks what came.
"""

from .batched import Batched as Batched
from .blocks import Holes as Holes
from .blocks import InkBlocks as InkBlocks
from .cached import Cached as Cached
from .classifier import ClassProbability as ClassProbability
from .clip import CLIPSimilarity as CLIPSimilarity
from .combinators import Negated as Negated
from .combinators import Product as Product
from .combinators import Scaled as Scaled
from .combinators import StepCount as StepCount
from .combinators import Threshold as Threshold
from .combinators import WeightedSum as WeightedSum
from .combinators import lower_is_better as lower_is_better
from .combined import Combined as Combined
from .context import check_context as check_context
from .context import take_rows as take_rows
from .decoded import Decoded as Decoded
from .images import Ink as Ink
from .images import Similarity as Similarity
from .images import Slant as Slant
from .images import Symmetry as Symmetry
from .images import ink_of as ink_of
from .named import VERIFIERS as VERIFIERS
from .named import named as named
from .ranks import RankEnsemble as RankEnsemble
from .ranks import average_ranks as average_ranks
from .timed import Timed as Timed
from .vectors import Coordinate as Coordinate
from .vectors import Linear as Linear
from .vectors import SignAgreement as SignAgreement
from .verifier import Verifier as Verifier
from .verifier import evaluate as evaluate
from .verifier import evaluate_with_graph as evaluate_with_graph
from .verifier import is_differentiable as is_differentiable
from .verifier import is_rowwise as is_rowwise
from .verifier import name_of as name_of
