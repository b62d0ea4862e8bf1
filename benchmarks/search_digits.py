"""What does a budget of network evaluations buy on the bundled digits, method by method, reward by reward?

Unconditional samples of digits28-small are searched for 64 wishes (requests), each a real digit that no training has
seen. Three rewards: minus the mean squared distance to that digit's ink (smooth), minus the violated cells of its
drawing on a 7 x 7 grid (flat with jumps), and the log-probability that classifier A gives to its class. The reward is
that of the finished sample. Held out, outside the search: the probability that classifier B gives to the class.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import pushforward as pf
from pushforward.models import verifiers
from pushforward.models.training.digits import load_digits28
from pushforward.solvers.search import DAS, SMC, SVDD, TDS, CoDe, Method, RolloverBudgetForcing, method

BUDGETS = (50, 100, 200, 500, 1000)
SEEDS = 64
ORDER = ("best of N", "random", "zero order", "paths", "SMC", "TDS", "DAS", "CoDe", "SVDD", "RBF", "RBF, patient")
SAMPLER = {"grid": "uniform", "steps": 10}  # on the model's own path: see the page of results


@dataclass(frozen=True)
class Wish:
    """A reward with the strength at which particle methods weigh by it."""

    reward: Callable[..., Any]
    strength: float
    smooth: bool


def methods(wish: Wish, budget: int) -> dict[str, Method]:
    """Every method; the stochastic ones sample the SDE of the same noise, gradients apart, which want the ancestral."""
    patience = max(1, budget // 30)  # a third of the quota of a step
    found: dict[str, Method] = {
        "best of N": method("best_of_n"),
        "random": method("random", search_steps=5, final_steps=10),
        "zero order": method("zero_order"),
        "paths": method("paths"),
        "SMC": SMC(strength=wish.strength),
        "CoDe": CoDe(chains=1, finish=4),
        "SVDD": SVDD(chains=1, finish=4),
        "RBF": RolloverBudgetForcing(chains=1, finish=4),
        "RBF, patient": RolloverBudgetForcing(chains=1, finish=4, min_attempts=patience),
    }
    if wish.smooth:
        found |= {"TDS": TDS(strength=wish.strength), "DAS": DAS(strength=wish.strength)}
    return found


def wishes() -> tuple[dict[str, Wish], dict[str, torch.Tensor]]:
    """The rewards, and their contexts: a real digit for each seed."""
    _, held_out, _ = load_digits28()
    chosen = torch.cat([(held_out.labels == label).nonzero()[: math.ceil(SEEDS / 10), 0] for label in range(10)])
    chosen = chosen.reshape(10, -1).T.reshape(-1)[:SEEDS]
    digits = held_out.images[chosen]
    cells = torch.nn.functional.adaptive_avg_pool2d(verifiers.ink_of(digits), (7, 7))[:, 0] > 0.25
    context = {"reference": digits, "blocks": 2 * cells.long() - 1, "label": held_out.labels[chosen]}
    rewards = {
        "similarity": Wish(verifiers.Similarity(measure="squared"), 200.0, smooth=True),
        "blocks": Wish(verifiers.InkBlocks(), 2.0, smooth=False),
        "classifier": Wish(verifiers.ClassProbability("digits28-classifier-a"), 2.0, smooth=True),
    }
    return rewards, context


def measure(path: Path, only: list[str], budgets: list[int]) -> None:
    """Fill the file with what is missing in it, row by row."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    done = {(row["reward"], row["method"], row["budget"]) for row in rows}
    model = pf.models.load("digits28-small")
    nobody = torch.tensor([pf.models.card("digits28-small")["null_id"]])
    held_out = verifiers.ClassProbability("digits28-classifier-b", log=False)
    rewards, context = wishes()
    for name, wish in rewards.items():
        if only and name not in only:
            continue
        for budget in budgets:
            for label, chosen in methods(wish, budget).items():
                if (name, label, budget) in done:
                    continue
                started = time.perf_counter()
                try:
                    result = pf.search(
                        model,
                        wish.reward,
                        budget,
                        shape=(SEEDS, 1, 28, 28),
                        method=chosen,
                        condition={"label": nobody},
                        context=context,
                        held_out=held_out,
                        batch=256,
                        **SAMPLER,
                    )
                except pf.errors.BudgetError as error:
                    print(f"{name}, {label}, {budget}: {error}", flush=True)
                    continue
                row = {"reward": name, "method": label, "budget": budget, "nfe": int(result.ledger.nfe.max())}
                for key, values in (("value", result.best), ("held_out", result.held_out[:, 0])):
                    row[key], row[f"{key}_se"] = values.mean().item(), values.std().item() / SEEDS**0.5
                if result.look_ahead is not None:
                    row["look_ahead"] = result.look_ahead.amax(1).mean().item()
                row["each"] = result.best.tolist()
                row["seconds"] = time.perf_counter() - started
                rows.append(row)
                print({k: v for k, v in row.items() if k != "each"}, flush=True)
                path.write_text(json.dumps({"rows": rows}))


def table(rows: list[dict[str, Any]], reward: str, key: str) -> str:
    """Methods down, budgets across, as Markdown; in bold the best, and what is within the error of the difference."""
    mine = {(row["method"], row["budget"]): row for row in rows if row["reward"] == reward}
    best = {b: max((row for row in mine.values() if row["budget"] == b), key=lambda row: row[key]) for b in BUDGETS}
    lines = [f"| {reward}, {key.replace('_', ' ')} | " + " | ".join(map(str, BUDGETS)) + " |"]
    lines.append("| --- |" + " --- |" * len(BUDGETS))
    for name in [name for name in ORDER if any(key[0] == name for key in mine)]:
        cells = []
        for budget in BUDGETS:
            row = mine.get((name, budget))
            if row is None:
                cells.append("")
                continue
            text = f"{row[key]:.3f} ± {row[f'{key}_se']:.3f}"
            near = row[key] >= best[budget][key] - math.hypot(row[f"{key}_se"], best[budget][f"{key}_se"])
            cells.append(f"**{text}**" if near else text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Reward searched (above) and held-out verifier (below) against evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["reward"] for row in rows))
    figure, axes = pyplot.subplots(2, len(names), figsize=(4.4 * len(names), 7), sharex=True, squeeze=False)
    for column, reward in enumerate(names):
        for number, label in enumerate(ORDER):
            mine = sorted((r for r in rows if (r["reward"], r["method"]) == (reward, label)), key=lambda r: r["budget"])
            for axis, key in zip(axes[:, column], ("value", "held_out"), strict=True):
                at, values = [r["budget"] for r in mine], [r[key] for r in mine]
                errors, style = [r[f"{key}_se"] for r in mine], "-" if number < 7 else "--"
                axis.errorbar(at, values, errors, label=label, marker="o", markersize=3, linestyle=style)
        axes[0, column].set_title(reward)
        axes[1, column].set_xlabel("network evaluations")
        axes[0, column].set_xscale("log")
    axes[0, 0].set_ylabel("reward of the finished sample")
    axes[1, 0].set_ylabel("held out: probability by classifier B")
    axes[0, -1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure what is missing, then print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("search_digits.json"), help="rows; those in it are kept")
    parser.add_argument("--only", nargs="*", default=[], help="rewards")
    parser.add_argument("--budgets", nargs="*", type=int, default=list(BUDGETS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--merge", nargs="*", type=Path, default=[], help="further files of rows, for tables and plot")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measure(arguments.json, arguments.only, arguments.budgets)
    rows = [row for path in (arguments.json, *arguments.merge) for row in json.loads(path.read_text())["rows"]]
    for reward in dict.fromkeys(row["reward"] for row in rows):
        for key in ("value", "held_out"):
            print(table(rows, reward, key), end="\n\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
