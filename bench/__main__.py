"""``script/bench``: list the benches or run one."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

HELPERS = {"__main__", "report", "support", "issue_worker", "estload", "peers", "scepload", "ldapload"}


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name not in HELPERS)


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
