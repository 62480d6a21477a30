"""More than a thousand malformed inputs, and what became of each: a table by reader.

Every reader of layerscope gets files that are cut, flipped, of another kind, nested, too large, or
that bring code, each in a process of its own. An error of ours that names the file is right; so is
what a file holds that is still sound, as its own library reads it, or as a digest says.
All else is a fault: an error that is somebody else's, other numbers, code that ran, more than 10
seconds, or more than 500 MB beyond what the process began with.

    python benchmarks/hostile.py [--only netCDF …] [--each 4] [--seed 0] [--faults] [--json FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
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
    began, counts, told = time.monotonic(), dict[str, Counter[str]](), list[dict[str, Any]]()
    for name in options.only:
        counts[name] = Counter()
        with tempfile.TemporaryDirectory(prefix="hostile-") as place:
            found = endings(
                READERS[name], Path(place), options.seed, options.each, options.match, options.every
            )
            for how, ending in found:
                counts[name][ending.outcome] += 1
                told.append({"reader": name, "how": how, **vars(ending)})
                fault = ending.outcome not in RIGHT
                if fault and options.faults:
                    print(f"{name} | {how} | {ending.outcome} | {ending.told}", flush=True)
    print(table(counts))
    print(f"{len(told):,} inputs in {time.monotonic() - began:.0f} s, seed {options.seed}")
    if options.json:
        options.json.write_text(json.dumps({"table": counts, "inputs": told}, indent=1))
    return int(any(each["outcome"] not in RIGHT for each in told))


if __name__ == "__main__":
    sys.exit(main())
