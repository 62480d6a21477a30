"""Fixtures of several test files: real digits, a trained series, one thread per process."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

# One of several processes has one core, and so has what it starts. Before torch counts the cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

from layerscope import data
from layerscope.core.checkpoints import Series
from layerscope.errors import LayerscopeError
from layerscope.zoo import training
from layerscope.zoo.data import ImageData

ROOT = Path(__file__).resolve().parents[1]

AXE = "axe-core@4.10.3"

# Read here: no test but those that ask for `data_root` shall find it.
DATA = Path(os.environ.get(data.ROOT_VARIABLE) or ROOT.parent / "shared" / "data").expanduser()

# Machines that run tests are shared: a slow example is no failure, and a run can be repeated.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_data_root_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(data.ROOT_VARIABLE, raising=False)


class _FailedHooks(logging.Handler):
    """HoloViews goes on without what a plotting hook draws if it raises, and only logs it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "Plotting hook" in record.getMessage():
            self.found.append(record.getMessage())


@pytest.fixture(autouse=True)
def _no_plotting_hook_fails() -> Iterator[None]:
    handler, logger = _FailedHooks(), logging.getLogger("param")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not handler.found


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder with ``pyproject.toml`` in it."""
    return ROOT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data sets: in the folder that ``LAYERSCOPE_DATA`` names, else beside the repository."""
    if not (DATA / "MNIST" / "raw").is_dir():
        pytest.skip(f"there is no MNIST in {os.path.relpath(DATA, ROOT)}; set {data.ROOT_VARIABLE}")
    return DATA


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """The embedded digits, decoded once for all tests."""
    return data.load("mnist-5k")


@pytest.fixture(scope="session")
def few_digits(digits: ImageData) -> ImageData:
    """Digits of every class, few enough that an epoch takes milliseconds."""
    return thinned(digits, 8)


def thinned(whole: ImageData, every: int) -> ImageData:
    """Every so-many-th example of both parts."""
    train, test = (
        data.Examples(part.inputs[::every], part.targets[::every], part.mean, part.std)
        for part in (whole.train, whole.test)
    )
    return data.ImageData(whole.name, train, test, whole.classes, whole.origin)


@pytest.fixture(scope="session")
def train_few(few_digits: ImageData) -> Callable[..., Series]:
    """Train a small network on the few digits."""

    def train(out: Path, network: str = "fcn-2x16", seed: int = 0, **recipe: object) -> Series:
        return training.train(
            network,
            few_digits,
            training.Recipe(**{"epochs": 2, "batch_size": 100, **recipe}),
            seed=seed,
            out=out,
            device="cpu",
            show_progress=False,
        )

    return train


@pytest.fixture(scope="session")
def trained(
    train_few: Callable[..., Series], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Series]:
    """A series of fcn-2x16 with epochs 0, 1 and 2; not to be changed on disk."""
    series = train_few(tmp_path_factory.mktemp("trained"))
    before = {path.name: path.stat().st_mtime_ns for path in Path(series.folder).iterdir()}
    yield series
    after = {path.name: path.stat().st_mtime_ns for path in Path(series.folder).iterdir()}
    assert after == before, "a test changed the run that all share, or left something in it"


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures out of reports: each is drawn three times, which takes most of the time."""
    monkeypatch.setattr("layerscope.plots.embed", lambda _: "<figure></figure>")


@pytest.fixture
def same_global_generator() -> Iterator[None]:
    """Fail if the test moved torch's global generator."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"


@contextmanager
def _nobody() -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """Become for a while a user whom permissions hold back, as they do not root.

    What is imported only then may be out of reach, so that it has to be loaded before.
    """
    if not hasattr(os, "geteuid"):
        pytest.skip("permissions are others here")
    if os.geteuid():
        return nullcontext
    try:
        with _nobody():
            pass
    except OSError as error:
        pytest.skip(f"root can't become another user here: {error}")
    return _nobody


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user reaches, as those of pytest are not."""
    place = Path(tempfile.mkdtemp(prefix="open-"))
    place.chmod(0o777)
    yield place
    for path in [place, *place.rglob("*")]:
        if path.is_dir():
            path.chmod(0o777)
    shutil.rmtree(place)


@pytest.fixture
def refused_cheaply() -> Callable[[Callable[[], object]], str]:
    """Run what must be refused with 500 MB more and 10 s of work; return what our error says."""
    resource = pytest.importorskip("resource", reason="limits on memory need a POSIX system")

    def run(act: Callable[[], object]) -> str:
        get, put = os.pipe()
        if (child := os.fork()) == 0:
            try:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                most = pages * resource.getpagesize() + 500 * 2**20
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
                # Of work; a machine that is shared may keep it waiting for longer.
                resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(100)
                said = f"nothing was raised, {act()!r}"
            except LayerscopeError as error:
                said = f"ours: {error}"
            except BaseException as error:  # noqa: BLE001 - told to the test
                said = f"{type(error).__name__}: {error}"
            finally:
                os.write(put, said.encode(errors="replace")[:2000])
                os._exit(0)
        os.close(put)
        with os.fdopen(get, "rb") as pipe:
            said = pipe.read().decode(errors="replace")
        _, status = os.waitpid(child, 0)
        assert said.startswith("ours: "), said or f"killed, {status}"
        return said.removeprefix("ours: ")

    return run


@pytest.fixture(scope="session")
def axe(request: pytest.FixtureRequest) -> str:
    """Source of axe-core: from npm the first time, then from pytest's cache."""
    folder = Path(request.config.cache.mkdir("axe"))
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        if (npm := shutil.which("npm")) is None:
            pytest.skip("there is no npm, from which axe-core comes")
        call = [npm, "install", "--silent", "--no-audit", "--prefix", str(folder), AXE]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(call, check=False, timeout=120)
        if not script.exists():
            pytest.skip(f"npm could not install {AXE}; is there a network?")
    return script.read_text(encoding="utf-8")


@pytest.fixture
def explorer(trained: Series, few_digits: ImageData) -> Iterator[Any]:
    """On a run with three layers and the epochs 0, 1 and 2."""
    from layerscope import LayerExplorer

    made = LayerExplorer(trained, few_digits.test, device="cpu", batch_size=50)
    made.wait(60)
    yield made
    made.close()
    (Path(trained.folder) / "kept.nc").unlink(missing_ok=True)
    assert not [t for t in threading.enumerate() if t.name == "layerscope"]
