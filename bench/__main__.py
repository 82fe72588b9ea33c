"""``script/bench``: list the benches or run one."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path


def names() -> list[str]:
    """The modules that can be run: those with a function ``run`` of their own; the others help them."""
    folder = Path(__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if "\ndef run(" in path.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/bench", description="Measure the server beside its peers.")
    parser.add_argument("name", nargs="?", choices=names(), help="the bench to run; without it, the list")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each run lasts (default 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    arguments = parser.parse_args()
    if arguments.name is None:
        for name in names():
            summary = (importlib.import_module(f"bench.{name}").__doc__ or "").splitlines()[0]
            print(f"{name:12} {summary}")
        return 0
    report = importlib.import_module(f"bench.{arguments.name}").run(arguments.seconds)
    if arguments.json:
        print(report.as_json())
    else:
        report.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
