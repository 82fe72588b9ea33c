"""What a bench says: medians over runs, ratios to peers of the same minute, machine and versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table

RUNS = 5
PACKAGES = ("cryptography", "Twisted", "SQLAlchemy", "python-pkcs11", "pkilint", "httptools")


@attrs.frozen
class Figure:
    """One measured quantity: every run's value in ``unit``."""

    unit: str
    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


@attrs.define
class Report:
    """Figures by name, ratios (ours/theirs) by peer name, and what could not be measured, with the reason."""

    figures: dict[str, Figure] = attrs.field(factory=dict)
    ratios: dict[str, float] = attrs.field(factory=dict)
    missing: dict[str, str] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)

    def measure(self, name: str, unit: str, once: Callable[[], float], runs: int = RUNS) -> Figure:
        """Run ``once`` several times and keep every value."""
        self.figures[name] = Figure(unit, tuple(once() for _ in range(runs)))
        return self.figures[name]

    def compare(self, peer: str, ours: str, theirs: str) -> None:
        """Note the ratio of two figures' medians."""
        self.ratios[peer] = self.figures[ours].median / self.figures[theirs].median

    def as_json(self) -> str:
        """One JSON object: machine, versions, figures, ratios, missing peers, notes."""
        return json.dumps(
            {
                "machine": machine(),
                "versions": versions(),
                "figures": {
                    name: {"median": figure.median, "unit": figure.unit, "runs": list(figure.runs)}
                    for name, figure in self.figures.items()
                },
                "ratios": self.ratios,
                "missing": self.missing,
                "notes": self.notes,
            },
            indent=2,
        )

    def show(self) -> None:
        """Print tables for a person."""
        console = Console()
        console.print(", ".join(f"{key} {value}" for key, value in machine().items()), style="dim")
        console.print(", ".join(f"{key} {value}" for key, value in versions().items()), style="dim")
        table = Table("figure", "median", "unit", "min", "max", "runs")
        for name, figure in self.figures.items():
            row = (
                f"{value:,.4g}" if value < 100 else f"{value:,.0f}" for value in (min(figure.runs), max(figure.runs))
            )
            low, high = row
            median = f"{figure.median:,.4g}" if figure.median < 100 else f"{figure.median:,.0f}"
            table.add_row(name, median, figure.unit, low, high, str(len(figure.runs)))
        console.print(table)
        for peer, ratio in self.ratios.items():
            console.print(f"ours / {peer}: {ratio:.2f}")
        for peer, why in self.missing.items():
            console.print(f"not measured: {peer}: {why}", style="yellow")
        for note in self.notes:
            console.print(note)


def machine() -> dict[str, str]:
    """Processor, cores and memory."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {"cpu": model, "cores": str(os.cpu_count()), "memory_gib": f"{int(memory) / 2**20:.0f}"}


def versions() -> dict[str, str]:
    """Of Python, OpenSSL's command and the packages that do the work."""
    found = {"python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in PACKAGES}
    openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=False).stdout.split()
    if len(openssl) > 1:
        found["openssl"] = openssl[1]
    return found


def _lines(path: str) -> Iterable[str]:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ()
