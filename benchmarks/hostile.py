"""More than a thousand malformed inputs, and what became of each: a table by reader.

Every reader of layerscope gets files that are cut, flipped, of another kind, nested, too large, or
that bring code, each in a process of its own. An error of ours that names the file is right; so is
what a file holds that is still sound, as its own library reads it, or as a digest says.
All else is a fault: an error that is somebody else's, other numbers, code that ran, more than 10
seconds, or more than 500 MB beyond what the process began with.

    python benchmarks/hostile.py [--only netCDF …] [--each 4] [--seed 0] [--faults] [--json FILE]

Readers may be run one after the other into the same FILE, which keeps those that are not run again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

# Before they are loaded: no input shall reach for the network, and forks have one thread.
os.environ |= {
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}  # fmt: skip
sys.path.insert(0, str(Path(__file__).parent))

import torch
from malformed import OUTCOMES, READERS, RIGHT, Ending, Reader, answer_of, cases, run

_LARGE = 2**20
_ROW = ["how it is made", "outcome", "seconds", "megabytes", "of a fault: what was told"]
_PACKAGES = (
    "layerscope", "torch", "safetensors", "transformers", "tokenizers", "xarray", "h5py", "pyarrow",
    "pillow", "msgspec", "numpy",
)  # fmt: skip


def _link_or_copy(source: str, target: str) -> None:
    """Copy a file; a large one is linked, since inputs put others in its place and never write."""
    place = Path(source)
    if place.stat().st_size > _LARGE:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def endings(
    reader: Reader, place: Path, seed: int, each: int, match: str = "", every: int = 1
) -> Iterator[tuple[str, Ending]]:
    """Run a reader on its inputs, those called so or one in so many, below a folder."""
    sound = place / "sound"
    sound.mkdir()
    reader.build(sound)
    first = place / "first"
    shutil.copytree(sound, first, copy_function=_link_or_copy)
    answer = answer_of(reader.read(first))
    for at, case in enumerate(cases(reader, sound, seed, each)):
        if match not in case.how or at % every:
            continue
        folder = place / f"case-{at:04d}"
        shutil.copytree(sound, folder, copy_function=_link_or_copy)
        try:
            case.spoil(folder)
            yield case.how, run(reader, case, folder, answer)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def table(rows: dict[str, Counter[str]]) -> str:
    """Lay the counts out, a reader a line."""
    width = max(map(len, [*rows, "reader"]))
    heads = ["inputs", *OUTCOMES]
    lines = [" | ".join(["reader".ljust(width), *heads])]
    total: Counter[str] = Counter()
    for counts in rows.values():
        total += counts
    for name, counts in {**rows, "all": total}.items():
        cells = [counts.total(), *(counts[outcome] for outcome in OUTCOMES)]
        lines.append(
            " | ".join(
                [name.ljust(width)]
                + [str(cell).rjust(len(head)) for cell, head in zip(cells, heads, strict=True)]
            )
        )
    return "\n".join(lines)


def about(options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What a reader was run with."""
    versions = {package: metadata.version(package) for package in _PACKAGES}
    return {
        "seed": options.seed,
        "each": options.each,
        "seconds": round(seconds),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version()} | versions,
    }


def keep(path: Path, rows: dict[str, Any]) -> None:
    """Put readers into a file beside those that it has, in the order of `READERS`, with a table."""
    found = json.loads(path.read_text("utf-8"))["readers"] if path.exists() else {}
    found |= rows
    readers = {name: found[name] for name in READERS if name in found}
    counts = {name: Counter(each["table"]) for name, each in readers.items()}
    content = {"table": table(counts).splitlines(), "inputs are": _ROW, "readers": readers}
    # An input is a line.
    text = re.sub(r"\n {5,}|\n {4}(?=])", " ", json.dumps(content, indent=1, ensure_ascii=True))
    path.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Run the readers and print the table; 1 where there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", choices=list(READERS), default=list(READERS))
    parser.add_argument("--each", type=int, default=3, help="of each kind with chance (default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--match", default="", help="only inputs that are called so, in part")
    parser.add_argument("--every", type=int, default=1, help="only one in so many, for a look")
    parser.add_argument("--faults", action="store_true", help="tell every fault")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Some names are none in UTF-8.
    io.TextIOWrapper.reconfigure(sys.stdout, errors="backslashreplace")  # type: ignore[arg-type]
    began, counts, rows = time.monotonic(), dict[str, Counter[str]](), dict[str, Any]()
    for name in options.only:
        counts[name], told, started = Counter(), list[list[Any]](), time.monotonic()
        with tempfile.TemporaryDirectory(prefix="hostile-") as place:
            found = endings(
                READERS[name], Path(place), options.seed, options.each, options.match, options.every
            )
            for how, ending in found:
                counts[name][ending.outcome] += 1
                fault = ending.outcome not in RIGHT
                row = [how, ending.outcome, ending.seconds, ending.megabytes]
                told.append(row + [ending.told.replace(place, "…")] * fault)
                if fault and options.faults:
                    print(f"{name} | {how} | {ending.outcome} | {ending.told}", flush=True)
        rows[name] = {
            "table": {outcome: counts[name][outcome] for outcome in OUTCOMES},
            "about": about(options, time.monotonic() - started),
            "inputs": told,
        }
        if options.json:
            keep(options.json, rows)
    print(table(counts))
    count = sum(each.total() for each in counts.values())
    print(f"{count:,} inputs in {time.monotonic() - began:.0f} s, seed {options.seed}")
    return int(
        any(each[outcome] for each in counts.values() for outcome in set(OUTCOMES) - {*RIGHT})
    )


if __name__ == "__main__":
    sys.exit(main())
