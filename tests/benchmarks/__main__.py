"""Measures shimpy on this machine: a table, and a JSON file to compare with others."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import pkgutil
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests import benchmarks
from tests.benchmarks.bench import Bench
from tests.benchmarks.figures import compare, table
from tests.support import machine

_RUNTIMES = ("runc", "crun", "youki")


def main() -> int:
    """Runs what the command line asks for, and returns the exit status."""
    topics = sorted(
        module.name.removeprefix("bench_")
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.name.startswith("bench_")
    )
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"of {', '.join(topics)}; default: all")
    parser.add_argument("--scale", type=float, default=1, help="do all so many times as often (default: 1)")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="default: %(default)s")
    parser.epilog = "compare A B: tell two of the JSON files apart"
    arguments = parser.parse_args()
    if arguments.topics[:1] == ["compare"]:
        if len(arguments.topics) != 3:
            parser.error("compare: takes two JSON files (make bench-compare A=old.json B=new.json)")
        print(compare(*map(Path, arguments.topics[1:])))
        return 0
    if unknown := [topic for topic in arguments.topics if topic not in topics]:
        parser.error(f"no topic {unknown[0]}; there are: {', '.join(topics)}")
    if lacking := machine.lacking():
        parser.error(f"containers need {lacking}")
    with tempfile.TemporaryDirectory(prefix="shimpy-bench-") as directory:
        bench = Bench(Path(directory), arguments.scale, _RUNTIMES)
        load = os.getloadavg()[0]
        for topic in arguments.topics or topics:
            asyncio.run(importlib.import_module(f"tests.benchmarks.bench_{topic}").measure(bench))
    about = _about(load)
    print("\n" + table([figure.row() for figure in bench.figures]))
    print("\n" + "\n".join(f"{name}: {value}" for name, value in about.items()))
    print("\n".join(bench.notes))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    figures = [asdict(figure) for figure in bench.figures]
    arguments.json.write_text(json.dumps({**about, "notes": bench.notes, "figures": figures}, indent=1))
    print(f"written to {arguments.json}")
    return 0


def _about(load: float) -> dict[str, Any]:
    said = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=False).stdout
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "runtime": said.partition("\n")[0],
        "load before": round(load, 1),
        "load after": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    sys.exit(main())
