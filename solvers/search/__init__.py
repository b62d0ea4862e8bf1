"""Search at inference time: budgets, methods, and `search`, which runs them."""

from .best_of_n import BestOfN
from .blockwise import SVDD, Blockwise, CoDe
from .budget import Budget, Entry, Ledger
from .method import Method, Outcome, State, method, methods, register
from .neighbours import neighbours
from .result import SearchResult
from .rollover import RolloverBudgetForcing
from .search import search
from .smc import DAS, SMC, TDS
from .task import Task
from .trace import Record, Trace

__all__ = [
    "DAS",
    "SMC",
    "SVDD",
    "TDS",
    "BestOfN",
    "Blockwise",
    "Budget",
    "CoDe",
    "Entry",
    "Ledger",
    "Method",
    "Outcome",
    "Record",
    "RolloverBudgetForcing",
    "SearchResult",
    "State",
    "Task",
    "Trace",
    "method",
    "methods",
    "neighbours",
    "register",
    "search",
]
