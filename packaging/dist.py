"""Build wheel and sdist, check them, and run the README's lines from the wheel: ``make dist``.

The version is that of ``layerscope/_version.py``. It is part of what a sweep's folder is compared
with, so that it must not change from commit to commit; a tag on the commit has to name it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"

# The README's example asks for these of its reader.
PROJECT = """
import torch

def Network():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

for seed, name in enumerate(["start.pt", "epoch-1.pt", "trained.pt"]):
    torch.manual_seed(seed)
    torch.save(Network().state_dict(), name)
images, labels = torch.randn(60, 4), torch.arange(60) % 3
"""


def main() -> None:
    """Build, check, install and run."""
    version = require_tag(ROOT)
    shutil.rmtree(DIST, ignore_errors=True)
    # The wheel is built from the sdist, as whoever downloads that does.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST), str(ROOT))
    built = sorted(str(path) for path in DIST.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *built)
    (wheel,) = DIST.glob(f"layerscope-{version}-*.whl")
    with tempfile.TemporaryDirectory() as folder:
        try_out(wheel, Path(folder))
    print(f"{len(built)} files in {DIST}, version {version}")


def run(*command: str, cwd: Path | None = None) -> None:
    """Run a command; one that fails ends this."""
    subprocess.run(command, cwd=cwd, check=True)


def require_tag(root: Path) -> str:
    """Read the version, and refuse a commit whose tag names another."""
    text = (root / "layerscope" / "_version.py").read_text(encoding="utf-8")
    version = re.findall(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)[0]
    tags = [tag for tag in tags_here(root) if re.match(r"v\d", tag)]
    if tags and f"v{version}" not in tags:
        raise SystemExit(f"layerscope/_version.py says {version}; the commit is tagged {tags}.")
    return str(version)


def tags_here(root: Path) -> list[str]:
    """List the tags of the present commit; none where there is no repository."""
    command = ["git", "-C", str(root), "tag", "--points-at", "HEAD"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return told.split()


def try_out(wheel: Path, folder: Path) -> None:
    """Install a wheel into a new environment and run the README's first example there.

    What the package depends on is this environment's; the package itself is the wheel's alone.
    """
    venv.create(folder / "venv", with_pip=True)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(str(scripts / "python"), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel))
    there = sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
    Path(there, "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    work = folder / "work"
    work.mkdir()
    (work / "my_project.py").write_text(PROJECT, encoding="utf-8")
    lines = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    check = f"import pathlib\nassert {str(there)!r} in layerscope.__file__, layerscope.__file__\n"
    (work / "lines.py").write_text(lines + check, encoding="utf-8")
    run(str(scripts / "python"), "lines.py", cwd=work)
    run(str(scripts / "layerscope"), "show", "layers", cwd=work)


if __name__ == "__main__":
    main()
