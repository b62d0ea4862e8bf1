"""Search at inference time: budgets, methods, and `search`, which runs them."""

from .best_of_n import BestOfN
from .blockwise import SVDD, Blockwise, CoDe
from .budget import Budget, Entry, Ledger
from .checkpoint import Checkpoint
from .driver import drive
from .method import Method, Outcome, State, method, methods, register
from .neighbours import neighbours
from .observers import Log, Observer, ProgressBar
from .paths import SearchOverPaths
from .plot import plot_trace
from .random_search import RandomSearch
from .result import SearchResult
from .rollover import RolloverBudgetForcing
from .sampler import Sampler
from .search import search
from .smc import DAS, SMC, TDS
from .task import Task
from .trace import Record, Trace
from .zero_order import ZeroOrder

__all__ = [
    "DAS",
    "SMC",
    "SVDD",
    "TDS",
    "BestOfN",
    "Blockwise",
    "Budget",
    "Checkpoint",
    "CoDe",
    "Entry",
    "Ledger",
    "Log",
    "Method",
    "Observer",
    "Outcome",
    "ProgressBar",
    "RandomSearch",
    "Record",
    "RolloverBudgetForcing",
    "Sampler",
    "SearchOverPaths",
    "SearchResult",
    "State",
    "Task",
    "Trace",
    "ZeroOrder",
    "drive",
    "method",
    "methods",
    "neighbours",
    "plot_trace",
    "register",
    "search",
]
