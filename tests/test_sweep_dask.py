"""A sweep on the workers of a Dask cluster: the bits of one process, whatever dies meanwhile."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import xarray as xr
from torch import nn

import layerscope
from layerscope import layers, models
from layerscope.base import devices, owners, writing
from layerscope.base.owners import Owner
from layerscope.cli import main
from layerscope.core import sweep as engine
from layerscope.core.perturb import Perturbation
from layerscope.core.sweep import (
    _agreeing,
    _cluster,
    _connecting,
    _costing,
    _fragments,
    _loop,
    _worker,
)
from layerscope.core.sweep._fragments import Fragments
from layerscope.core.sweep._making import Line
from layerscope.core.sweep._shipping import Shipment, pack, unpack
from layerscope.core.sweep._store import Parts
from layerscope.core.sweep._sums import Sums
from layerscope.core.sweep._tiles import Tiling
from layerscope.errors import ClusterError, LayerscopeError, OptionError, ResultError

dask = pytest.importorskip("dask", reason="dask is an extra")
distributed = pytest.importorskip("distributed", reason="distributed is an extra")
cloudpickle = pytest.importorskip("cloudpickle")

NETS = [models.build("fcn-4x8", seed=seed, inputs=(6,), classes=3) for seed in (0, 1, 2)]
STATES = {epoch: net.state_dict() for epoch, net in enumerate(NETS)}
PAIR = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
RULES = [{}, {"decide": True}, {"tolerance": 0.3}]
BATCHES = 6
NAMES = [layer.name for layer in layers.find(NETS[0])]


def sweep(client=None, data=PAIR, **options):
    given = {"checkpoints": STATES, "batch_size": 10, "device": "cpu", "show_progress": False}
    return layerscope.sweep(NETS[-1], data, client=client, **(given | options))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has
    yield
    torch.set_num_threads(before)


# A cluster that is none: tasks run here, in a drawn order, and some more than once, as where a
# worker died after it had computed them.


class Future:
    def __init__(self, function, given, lethal):
        self._work, self._lethal = (function, given), lethal
        self._waiting = []
        self.status = "pending"

    def compute(self):
        function, given = self._work
        try:
            given = [each.result() if isinstance(each, Future) else _sent(each) for each in given]
            if function is _worker.run and self._lethal in _keys(given[-1], given[1]):
                raise distributed.KilledWorker("tile", None, 3)
            self._result, self.status = _sent(function(*given)), "finished"
        except Exception as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error, self.status = error, "error"
        for call in self._waiting:
            call(self)

    def result(self, **_):
        if self.status == "pending":
            self.compute()
        if self.status == "error":
            raise self._error
        return self._result

    def exception(self):
        return self._error

    def add_done_callback(self, call):
        self._waiting.append(call)

    def release(self):
        pass


def _keys(task, layout):
    """Keys of the cells that a task is to compute."""
    parts = unpack(layout).parts
    found = set()
    for each in task.wanted:
        held = {key for at in each.fragment.parts for _, keys in parts[at] for key in keys}
        found |= held if each.keys is None else held & each.keys
    return found


def _sent(value):
    return pickle.loads(cloudpickle.dumps(value))


class Here:
    """Client of workers that are this process."""

    status = "running"

    def __init__(self, workers=2, seed=0, lethal=""):
        self._workers, self._chance = workers, random.Random(seed)
        self._lethal = lethal
        self._waiting = []
        self.tasks = 0

    def submit(self, function, *given, **_):
        made = Future(function, given, self._lethal)
        if function is _worker.run:
            self.tasks += 1
            self._waiting.append(made)
        return made

    def go_on(self):
        """Compute one of the tasks that wait."""
        if self._waiting:
            self._waiting.pop(self._chance.randrange(len(self._waiting))).compute()

    def scheduler_info(self, **_):
        return {"workers": dict.fromkeys(range(self._workers))}

    def cancel(self, *_, **__):
        self._waiting = []

    def run(self, *_, **__):
        pass


@pytest.fixture
def here(monkeypatch):
    """Makes such a client."""
    monkeypatch.setattr(engine, "require_client", lambda client: client)
    kept = _cluster.Workers._take_in

    def take_in(self):
        self._client.go_on()
        return kept(self)

    monkeypatch.setattr(_cluster.Workers, "_take_in", take_in)
    monkeypatch.setattr(_cluster, "_WAIT_S", 0.0)
    return Here


@pytest.mark.parametrize(("workers", "rule"), [(1, {}), (7, {}), (2, RULES[1]), (7, RULES[2])])
def test_the_bits_are_those_of_one_process(here, tmp_path, rule, workers):
    whole = sweep(out=tmp_path / "alone", outcomes=True, **rule)
    client = here(workers, seed=workers)
    ds = sweep(client, out=tmp_path / "cluster", outcomes=True, **rule)
    xr.testing.assert_equal(ds, whole)
    xr.testing.assert_equal(sweep(here(workers), **rule), whole)
    alone, cluster = (xr.load_dataset(tmp_path / n / "outcomes.nc") for n in ("alone", "cluster"))
    xr.testing.assert_equal(cluster, alone)
    assert client.tasks >= min(workers, BATCHES)
    assert ds.attrs["identity"] == whole.attrs["identity"]


@pytest.mark.parametrize(("first", "rule"), [("alone", {}), ("cluster", {}), ("alone", RULES[1])])
def test_what_one_began_the_other_goes_on_with(here, tmp_path, monkeypatch, rule, first):
    whole = sweep(**rule)
    record, left, seen = Fragments.record, [3], []

    def recorded(self, fragment, result):
        seen.append(fragment)
        record(self, fragment, result)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Fragments, "record", recorded)
    clients = [None, here(3)] if first == "alone" else [here(3), None]
    with pytest.raises(KeyboardInterrupt):
        sweep(clients[0], out=tmp_path, **rule)
    xr.testing.assert_equal(sweep(clients[1], out=tmp_path, **rule), whole)
    # None of the rows twice on one batch.
    each = [(fragment.batch, part) for fragment in seen for part in fragment.parts]
    assert len(each) == len(set(each))


@pytest.fixture
def small_tiles(monkeypatch):
    """One batch in each tile: so small a sweep is cut into very few else."""
    monkeypatch.setattr(
        _cluster, "tiling", lambda costs, *_, **__: Tiling(1, ((0, len(costs.parts)),))
    )


@pytest.fixture
def parts_of_others(tmp_path, monkeypatch):
    """Files of a sweep that another process computed, by name."""
    with monkeypatch.context() as patch:
        patch.setattr(engine._single.Store, "finish", lambda *_: None)
        sweep(out=tmp_path / "others")
    return {path.name: path for path in (tmp_path / "others").glob("parts-10/*.npz")}


def batch_of(name):
    return _fragments.Fragment.of(Path(name).stem).batch


@pytest.mark.usefixtures("small_tiles")
def test_what_others_record_meanwhile_is_handed_out_to_nobody(
    here, tmp_path, monkeypatch, parts_of_others
):
    monkeypatch.setattr(_cluster, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(_cluster, "_LOOK_SHARE", 0)
    client, write, written = here(1), Parts.write, []

    def writing_(self, name, arrays):
        write(self, name, arrays)
        written.append(batch_of(name))
        for other, path in parts_of_others.items():
            if batch_of(other) >= 4:
                (tmp_path / "own" / "parts-10" / other).write_bytes(path.read_bytes())

    monkeypatch.setattr(Parts, "write", writing_)
    ds = sweep(client, out=tmp_path / "own")
    # All but those that were out by then.
    assert set(written) == set(range(4))
    xr.testing.assert_equal(ds, sweep())


@pytest.mark.parametrize("alone", [False, True])
def test_what_others_are_at_is_left_to_them(here, tmp_path, monkeypatch, alone):
    """However they cut it: a cluster cuts otherwise than processes do that share a folder."""
    claim = tmp_path / "parts-10" / "batch-000000-rows-00001-00003.claim"
    claim.parent.mkdir(parents=True)
    parent = os.getppid()
    claim.symlink_to(str(replace(Owner.here(), pid=parent, start=owners._start_of(str(parent)))))
    claims, write, written, calls = set(), Parts.write, [], []

    def noting(self, name, arrays):
        claims.update(path.name for path in claim.parent.glob("*.claim"))
        written.append((_fragments.Fragment.of(name), len(calls) < 60))
        write(self, name, arrays)

    def between():
        calls.append(1)
        if len(calls) == 60:
            claim.unlink()

    monkeypatch.setattr(Parts, "write", noting)
    monkeypatch.setattr(_cluster, "_LOOK_EVERY_S", 0.0)
    ds = sweep(None if alone else here(2), out=tmp_path, between=between)
    xr.testing.assert_equal(ds, sweep())
    for fragment, claimed in written:
        theirs = fragment.batch == 0 and set(fragment.parts) & {1, 2}
        assert not (theirs and claimed)
    assert len(claims) > 1, "what workers are at is claimed for others to see"
    assert not list(tmp_path.rglob("*.claim"))


class Slow(nn.Linear):
    """Takes its time."""

    def forward(self, inputs):
        time.sleep(0.02)
        return super().forward(inputs)


def test_tiles_are_cut_by_what_rows_take(here, monkeypatch):
    told, cut = [], _cluster.tiling

    def tiling(costs, *given, **options):
        told.append(costs)
        return cut(costs, *given, **options)

    monkeypatch.setattr(_cluster, "tiling", tiling)
    net = nn.Sequential(Slow(6, 5), nn.Linear(5, 5), nn.Linear(5, 3))
    options = {"device": "cpu", "show_progress": False, "whole": False, "batch_size": 30}
    ds = layerscope.sweep(net, PAIR, client=here(2), **options)
    first, second, _ = told[0].parts
    assert first > 10 * second
    xr.testing.assert_equal(ds, layerscope.sweep(net, PAIR, **options))


def test_several_data_sets_and_trained_networks(here, tmp_path):
    tasks = {"news": PAIR, "code": tuple(each[:25] for each in PAIR)}
    options = {"data": tasks, "model_epochs": [1, 2], "epochs": [0], "draws": 2}
    xr.testing.assert_equal(sweep(here(2), out=tmp_path, **options), sweep(**options))


def drawn():
    seed = int(torch.randint(10_000, ()))
    return models.build("fcn-4x8", seed=seed, inputs=(6,), classes=3)


def test_functions_of_ones_own_and_names_arrive(here):
    scale = 3

    def halve(site):
        return {name: tensor / scale for name, tensor in site.trained.items()}

    own = layerscope.metrics.Metric("sure", "largest logit", lambda z, _: z.amax(-1) / scale)
    options = {
        "perturbations": [Perturbation("halve", halve), "rerandomize", "noise(0.1)"],
        "metrics": ["error", own],
        "fresh": drawn,
    }
    xr.testing.assert_equal(sweep(here(2), **options), sweep(**options))


def test_batches_of_the_users_own_and_views_go_once(here):
    batches = [(PAIR[0][at : at + 7], PAIR[1][at : at + 7]) for at in range(0, 60, 7)]
    xr.testing.assert_equal(sweep(here(2), batches), sweep(data=batches))


class Noted(nn.Module):
    """Holds what no checkpoint does."""

    def __init__(self, scale):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)
        self.register_buffer("scale", torch.full((5,), scale), persistent=False)

    def forward(self, inputs):
        return self.last(self.first(inputs) * self.scale)


def test_what_no_checkpoint_holds_goes_by_value(here, tmp_path):
    net = Noted(0.7)
    for epoch in (0, 1):
        torch.save(Noted(0.3).state_dict(), tmp_path / f"epoch-{epoch}.pt")
    options = {"batch_size": 20, "device": "cpu", "show_progress": False, "checkpoints": tmp_path}
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ds = layerscope.sweep(net, PAIR, client=here(2), **options)
    xr.testing.assert_equal(ds, layerscope.sweep(net, PAIR, **options))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_weights_and_data_are_sent_as_little_as_can_be(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        _cluster.Cluster, "send", lambda self, plan: sizes.append(len(_packed(self, plan))) or 1 / 0
    )
    monkeypatch.setattr(engine, "require_client", lambda client: client)
    large = models.build("fcn-2x1000", seed=0, inputs=(6,), classes=3)
    torch.save(large.state_dict(), tmp_path / "epoch-0.pt")
    pair = torch.randn(40_000, 6), torch.arange(40_000) % 3
    with pytest.raises(ZeroDivisionError):
        layerscope.sweep(large, pair, checkpoints=tmp_path, client=Here(), batch_size=100)
    weights = sum(tensor.nbytes for tensor in large.state_dict().values())
    data = sum(tensor.nbytes for tensor in pair)
    assert weights > 4_000_000
    assert data < sizes[0] < 1.5 * data


def test_workers_open_a_sweep_before_the_first_tile(here, monkeypatch):
    """While the driver measures what a batch takes, and not when it hands out the first tile."""
    client, opened, measure = here(2), [], _loop.costs_here
    asked, submit = [], Here.submit

    def note(self, function, *given, **how):
        if function is _worker.prepare:
            asked.append(how["workers"])
            _worker.prepare(
                *(each.result() if isinstance(each, Future) else each for each in given)
            )
        return submit(self, function, *given, **how)

    def costs(*given):
        opened.append(len(_worker._OPENED) == 1)
        return measure(*given)

    monkeypatch.setattr(Here, "submit", note)
    monkeypatch.setattr(_loop, "costs_here", costs)
    _worker._OPENED.clear()
    xr.testing.assert_equal(sweep(client), sweep())
    assert opened == [True]
    assert asked == [[0], [1]]


def test_weights_that_are_dear_to_make_keep_batches_together(here, monkeypatch):
    """Tasks are cut by what weights take too, as the plan tells, where none are kept."""
    cut, making = [], _costing.time_making
    own = _cluster.Workers._tiling

    def tiling(self, batches):
        cut.append(own(self, batches))
        return cut[-1]

    def dear(*given):
        found = making(*given)
        found.again = dict.fromkeys(found.again, Line(fixed=100.0))
        return found

    monkeypatch.setattr(_cluster.Workers, "_tiling", tiling)
    monkeypatch.setattr(_costing, "time_making", dear)
    whole = sweep()
    xr.testing.assert_equal(sweep(here(2)), whole)
    monkeypatch.setattr(_costing, "KEPT_BYTES", 0)
    xr.testing.assert_equal(sweep(here(2)), whole)
    kept, made = cut
    # Nothing but the weights costs anything to speak of: no cell's are made by two workers.
    assert made.batches == BATCHES > kept.batches
    assert len(made.columns) > 1


def test_opening_beforehand_fails_without_a_word(monkeypatch):
    """As tile after tile would tell it; what the tiles do not meet is nobody's business."""
    monkeypatch.setattr(_worker, "_read_weights", lambda _: 1 / 0)
    _worker.prepare("run", b"")
    assert "run" not in _worker._OPENED


def _packed(cluster, plan):
    return pack(Shipment(plan, cluster.fresh, dict(cluster.identity), 1))


def test_what_can_not_be_sent_is_said(here):
    lock = threading.Lock()
    strange = Perturbation("strange", lambda site: lock and dict(site.trained))
    with pytest.raises(OptionError, match=r"can't be sent to the workers.*open files"):
        sweep(here(2), perturbations=[strange])


def test_a_worker_that_differs_does_not_begin(here, monkeypatch):
    client, run = here(2), _worker._require_same

    def elsewhere(*given):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "__version__", "1.0")
            run(*given)

    monkeypatch.setattr(_worker, "_require_same", elsewhere)
    compute, ended = Future.compute, []
    monkeypatch.setattr(Future, "compute", lambda each: ended.append((compute(each), each.status)))
    with pytest.raises(ClusterError, match=r"this process would compute .*torch \(1\.0 here, "):
        sweep(client)
    # Of a task that fails Dask shows the traceback, before the message and as often as it is tried.
    assert {status for _, status in ended} == {"finished"}


def test_a_worker_that_sees_another_file_does_not_begin(here, tmp_path, monkeypatch):
    for epoch, state in STATES.items():
        torch.save(state, tmp_path / f"epoch-{epoch}.pt")
    read = _worker._read_weights

    def elsewhere(shipment):
        torch.save({**STATES[2], "more": torch.ones(3)}, tmp_path / "epoch-2.pt")
        read(shipment)

    monkeypatch.setattr(_worker, "_read_weights", elsewhere)
    with pytest.raises(ClusterError, match=r"sees other checkpoints .*epoch-2\.pt"):
        sweep(here(2), checkpoints=tmp_path)


def test_a_full_disk_of_the_driver_loses_nothing(here, tmp_path, monkeypatch):
    write, left = writing.write_bytes, [5]

    def full(path, content, **options):
        left[0] -= 1
        if left[0] < 0:
            raise ResultError(f"can't write {path}: No space left on device.")
        return write(path, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_bytes", full)
        with pytest.raises(ResultError, match="No space left") as stop:
            sweep(here(4), out=tmp_path)
    kept = len(list(tmp_path.glob("parts-10/*.npz")))
    assert kept >= 3
    assert any(f"{kept} finished parts are safe" in note for note in stop.value.__notes__)
    client = here(4)
    xr.testing.assert_equal(sweep(client, out=tmp_path), sweep())


def test_a_cell_that_kills_whatever_computes_it_is_named_and_all_else_is_done(here, tmp_path):
    cells, options = [], {"perturbations": ["zero", "rerandomize"], "draws": 2}
    keep = Fragments.__init__

    def noting(self, plan, *given):
        cells.extend(plan.grid.cells())
        keep(self, plan, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fragments, "__init__", noting)
        whole = sweep(**options)
    cell = next(c for c in cells if c.layer.name == NAMES[1] and c.draw == 1)
    said = rf"killed: {NAMES[1]} under rerandomize, draw 1, on batch .*safe in {tmp_path}"
    with pytest.raises(ClusterError, match=said):
        sweep(here(2, lethal=cell.key), out=tmp_path, **options)
    known = xr.load_dataset(tmp_path / "partial.nc").sel(layer=whole.layer)
    others = known.layer != NAMES[1]
    xr.testing.assert_equal(known.value.where(others), whole.value.where(others))
    xr.testing.assert_equal(sweep(here(2), out=tmp_path, **options), whole)


def test_a_result_that_died_with_its_worker_is_waited_for(here, monkeypatch):
    """It was there, and is lost before anybody has it; another worker computes it again."""
    compute, lost = Future.compute, []

    def dying(self):
        compute(self)
        if self._work[0] is _worker.run and not lost:
            lost.append(self)
            self.status, self._waiting = "lost", []

    again = _cluster.Workers._take_in

    def later(self):
        for each in lost[:1]:
            if each._waiting:
                each.status = "finished"
                each._waiting.pop()(each)
        return again(self)

    monkeypatch.setattr(Future, "compute", dying)
    monkeypatch.setattr(_cluster.Workers, "_take_in", later)
    xr.testing.assert_equal(sweep(here(2)), sweep())
    assert lost


def test_the_sweep_itself_may_die_with_all_that_hold_it(here, monkeypatch):
    client, submit, killed = here(2), Here.submit, []

    def submitted(self, function, *given, key="", **options):
        made = submit(self, function, *given, **options)
        if function is _connecting.held and not killed:
            killed.append(key)
            made.status, made._error = "error", distributed.KilledWorker(key, None, 3)
        return made

    monkeypatch.setattr(Here, "submit", submitted)
    xr.testing.assert_equal(sweep(client), sweep())
    assert killed


def test_a_scheduler_that_is_gone_is_said(here, tmp_path, monkeypatch):
    client, compute = here(4), Future.compute

    def lost(self):
        if len(list(tmp_path.glob("parts-10/*.npz"))) < 3:
            compute(self)
            return
        self.status, self._error = "cancelled", concurrent.futures.CancelledError()
        client.status = "closed"
        for call in self._waiting:
            call(self)

    with monkeypatch.context() as patch:
        patch.setattr(Future, "compute", lost)
        match = r"answers no more.*3 finished parts are safe in .*same call"
        with pytest.raises(ClusterError, match=match):
            sweep(client, out=tmp_path)
    xr.testing.assert_equal(sweep(here(2), out=tmp_path), sweep())


def test_a_damaged_fragment_is_computed_again(here, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine._single.Store, "finish", lambda *_: None)
        sweep(here(3), out=tmp_path)
    files = sorted(tmp_path.glob("parts-10/*.npz"))
    files[1].write_bytes(files[1].read_bytes()[:100])
    # One of an older version is none of these.
    (tmp_path / "parts-10" / "batch-000001-part-0.npz").write_bytes(files[0].read_bytes())
    ds = sweep(here(3), out=tmp_path)
    xr.testing.assert_equal(ds, sweep())
    assert files[1].stem in ds.attrs["damaged_parts"]


def test_what_is_no_client_is_refused():
    with pytest.raises(OptionError, match=r"client is .*'tcp://.*give a dask\.distributed\.Client"):
        sweep("tcp://127.0.0.1:1")
    with (
        pytest.raises(OptionError, match="'here' is no cluster; give local:N"),
        engine.connect("here"),
    ):
        pass


def test_a_client_that_was_closed_is_refused(monkeypatch):
    class Client:
        asynchronous, status = False, "closed"

    monkeypatch.setattr(distributed, "Client", Client)
    with pytest.raises(OptionError, match=r"client is closed, .*connect again"):
        sweep(Client())


def test_a_scheduler_that_knows_no_workers_is_no_mistake_of_ours(here, monkeypatch):
    monkeypatch.setattr(Here, "scheduler_info", lambda *_, **__: {})  # as where it is gone
    xr.testing.assert_equal(sweep(here(2), decide=True), sweep(decide=True))


def test_an_address_where_nobody_answers_is_named_soon(monkeypatch):
    monkeypatch.setattr(_connecting, "_ANSWER_S", 0.5)
    with (
        pytest.raises(ClusterError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9 within"),
        engine.connect("tcp://127.0.0.1:9"),
    ):
        pass


def test_waiting_for_the_first_worker_is_said_once(here, monkeypatch):
    monkeypatch.setattr(_agreeing, "_PATIENCE_S", -1)
    result, left = Future.result, [3]

    def late(self, timeout=None):
        if timeout is not None and left[0]:
            left[0] -= 1
            raise TimeoutError
        return result(self)

    monkeypatch.setattr(Future, "result", late)
    monkeypatch.setattr(Here, "scheduler_info", lambda *_, **__: {"workers": {}})
    match = r"no worker has joined its address yet; the sweep waits for the first: start some"
    with pytest.warns(UserWarning, match=match) as told:
        ds = sweep(here(2))
    # And once more while the sweep itself waits.
    assert [each.filename for each in told] == [__file__] * 2
    xr.testing.assert_equal(ds, sweep())


def test_workers_with_other_devices_among_them_are_refused(here, monkeypatch):
    client = here(2)
    found = {f"tcp://{kind}": _worker.About(1, kind, {}) for kind in ("cuda", "cpu")}
    monkeypatch.setattr(Here, "run", lambda *_, **__: found)
    said = r"device='auto' \(cpu at tcp://cpu; cuda at tcp://cuda\).*such as device='cpu'"
    with pytest.raises(ClusterError, match=said):
        sweep(client, device="auto")
    monkeypatch.undo()
    monkeypatch.setattr(engine, "require_client", lambda client: client)
    with pytest.raises(OptionError, match="this process: 'gpu' is not a device"):
        sweep(client, device="gpu")


def test_what_workers_compute_on_is_what_the_sweep_says(here, tmp_path, monkeypatch):
    whole, told = sweep(), _worker.about("cpu").told
    card = told | {"device": "cuda", "arithmetic": told["arithmetic"] | {"card": "H0"}}
    with monkeypatch.context() as patch:
        patch.setattr(_worker, "about", lambda _: _worker.About(1, "cuda", card))
        patch.setattr(_worker, "_require_same", lambda *_: None)
        ds = sweep(here(2), out=tmp_path)
        assert sweep(here(2), out=tmp_path).attrs == ds.attrs
    xr.testing.assert_equal(ds, whole)
    about = layerscope.results.settings(ds)
    assert (about["device"], about["driver"], about["arithmetic"]["card"]) == ("cuda", "cpu", "H0")
    assert "network_outputs" not in about
    with pytest.raises(ResultError, match=r"device \(cpu here, cuda there\)"):
        sweep(out=tmp_path)


def test_a_worker_takes_a_device_of_its_own(monkeypatch):
    """The device of the driver arrives as the worker's, also where batches and weights are kept."""
    sent = []
    monkeypatch.setattr(_cluster.Cluster, "send", lambda _, plan: sent.append(plan) or 1 / 0)
    monkeypatch.setattr(engine, "require_client", lambda client: client)
    with pytest.raises(ZeroDivisionError):
        sweep(Here())
    content = pack(Shipment(sent[0], None, {}, 1, "auto"))
    monkeypatch.setattr(devices._choice, "resolve", lambda _: torch.device("meta"))
    plan = unpack(content).plan
    assert plan.subject.device == torch.device("meta")
    assert plan.tensors._device == torch.device("meta")
    assert plan.subject.data.first[0].device == torch.device("meta")


def test_the_command_line_connects(trained, few_digits, tmp_path, monkeypatch):
    from layerscope.cli import _sweeping as sweeping

    came, asked = [], []

    class Client:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    class Reached(BaseException):
        """Ends the command where its work would begin."""

    def reach(*_, **given):
        came.append(given)
        raise Reached

    monkeypatch.setattr(sweeping, "data_of", lambda *_: few_digits)
    monkeypatch.setattr(engine, "sweep", reach)
    monkeypatch.setattr(distributed, "Client", lambda where, **_: asked.append(where) or Client())
    words = ["--out", str(tmp_path), "--dask", "tcp://10.0.0.1:8786"]
    with pytest.raises(Reached):
        main(["sweep", str(trained.folder), *words])
    assert asked == ["tcp://10.0.0.1:8786"]
    assert isinstance(came[0]["client"], Client)


# Mistakes that the tests above would notice


def counted_before_recorded(self, fragment, result):
    self._take(fragment, result)
    self._fold(fragment.parts)
    if self.store is not None:
        self._write(fragment, result)


def added_whenever_it_comes(self, fragment, result):
    for part in fragment.parts:
        self.sums.add(part, result.only(set(self.parts[part].keys)))


@pytest.mark.parametrize("planted", [None, counted_before_recorded])
def test_nothing_counts_before_it_is_recorded(here, tmp_path, monkeypatch, planted):
    """Whenever something is added, it is on disk."""
    add, early, known = Sums.add, [], []

    def added(self, part, found):
        names = [path.stem for path in tmp_path.glob("parts-10/*.npz")]
        there = map(_fragments.Fragment.of, names)
        batch = self.next[part]
        early.append(not any(f.batch == batch and part in f.parts for f in there))
        return add(self, part, found)

    monkeypatch.setattr(Sums, "add", added)
    if planted:
        monkeypatch.setattr(Fragments, "record", planted)
    known.append(sweep(here(3), out=tmp_path))
    assert any(early) is bool(planted)


@pytest.mark.parametrize("planted", [None, added_whenever_it_comes])
def test_tiles_that_are_computed_twice_or_arrive_late_count_once(here, monkeypatch, planted):
    """Every tile comes twice, in a drawn order."""
    whole, record = sweep(), _cluster.Workers._record

    def twice(self, task, found):
        record(self, task, found)
        record(self, task, found)

    monkeypatch.setattr(_cluster.Workers, "_record", twice)
    if planted:
        monkeypatch.setattr(Fragments, "record", planted)
    ds = None
    try:
        ds = sweep(here(4, seed=3))
    except LayerscopeError:
        assert planted
    assert (ds is not None and ds.equals(whole)) is not bool(planted)


def merged_in_order_of_arrival(self, part):
    """Add the first of the batches that is at hand, instead of the next."""
    waiting = sorted(at for at in self._waiting if at[1] == part)
    if not waiting or self.sums.next[part] >= self.batches:
        return False
    self.sums.add(part, self._waiting.pop(waiting[0]))
    return True


@pytest.mark.parametrize("planted", [None, merged_in_order_of_arrival])
def test_sums_are_merged_in_the_order_of_the_batches(here, monkeypatch, planted):
    whole = sweep(metrics=["loss"])
    if planted:
        monkeypatch.setattr(Fragments, "_add_next", planted)
    monkeypatch.setattr(Fragments, "finished", _all_added)
    same = [sweep(here(7, seed=seed), metrics=["loss"]).equals(whole) for seed in range(3)]
    assert all(same) is not bool(planted)


def _all_added(self):
    return all(done >= self.batches for done in self.sums.next)


# Processes


@pytest.fixture(scope="module")
def cluster():
    """Two workers of one thread each."""
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": None}
    with (
        dask.config.set(_connecting.PATIENT),
        distributed.LocalCluster(n_workers=2, **options) as made,
    ):
        yield made


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as made:
        made.wait_for_workers(2)
        yield made


def pids(client):
    # One that was killed a moment ago does not answer.
    return list(client.run(os.getpid, on_error="ignore").values())


def left(dask_scheduler):
    """Say of each task that a scheduler has who wants it, and how it came to be as it is."""
    return [
        f"{t.key}: {t.state}, wanted by {t.who_wants}, needed by {t.dependents}, at "
        f"{t.processing_on}, in {t.who_has}, only on {t.worker_restrictions}; "
        f"{dask_scheduler.story(t.key)}"
        for t in dask_scheduler.tasks.values()
    ]


def wait_until_free(client):
    """Wait until the cluster has nothing of ours any more."""
    until = time.monotonic() + 60
    while found := client.run_on_scheduler(left):
        assert time.monotonic() < until, (found, client.futures, client.refcount)
        time.sleep(0.05)


class Killer:
    """Kills a worker as often as it may, each time that something is recorded."""

    def __init__(self, client, most):
        self.client, self.left = client, most

    def __call__(self, _):
        if self.left:
            self.left -= 1
            with_pid = pids(self.client)
            if not with_pid:  # all are being started again
                self.left += 1
                return
            os.kill(with_pid[self.left % len(with_pid)], signal.SIGKILL)


KILLS = [2, pytest.param(20, marks=pytest.mark.slow)]


# Until one is started again, which takes as long as this machine needs for it.
@pytest.mark.filterwarnings("ignore:no worker is left")
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kills", KILLS)
def test_killed_workers_lose_and_double_nothing(client, tmp_path, monkeypatch, kills):
    rule = {"decide": True} if kills > 2 else {}
    options = {"batch_size": 10 if kills == 2 else 2, **rule}
    monkeypatch.setattr(engine._loop, "_SHOW_EVERY_S", 0.0)
    write, written = Parts.write, []
    monkeypatch.setattr(
        Parts, "write", lambda self, name, a: written.append(name) or write(self, name, a)
    )
    killer = Killer(client, kills)
    ds = sweep(client, out=tmp_path / "cluster", callback=killer, **options)
    assert killer.left == 0
    assert len(written) == len(set(written))
    xr.testing.assert_equal(ds, sweep(**options))
    wait_until_free(client)


@pytest.mark.usefixtures("small_tiles")
def test_ctrl_c_leaves_the_cluster_for_the_next_sweep(client, tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        sweep(client, out=tmp_path, callback=stop)
    assert "finished parts are safe" in stopped.value.__notes__[0]
    wait_until_free(client)
    xr.testing.assert_equal(sweep(client, out=tmp_path), sweep())
    wait_until_free(client)


def lethal(site):
    """Kills the process, if it is a worker's."""
    if site.layer.name == NAMES[1] and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return {name: tensor / 2 for name, tensor in site.trained.items()}


@pytest.mark.slow
def test_a_cell_that_kills_its_workers_is_named(client, tmp_path):
    options = {"perturbations": ["zero", Perturbation("lethal", lethal)], "batch_size": 60}
    with pytest.raises(ClusterError, match=rf"killed: {NAMES[1]} under lethal, draw 0, on batch 0"):
        sweep(client, out=tmp_path, **options)
    ds = xr.load_dataset(tmp_path / "partial.nc")
    # All rows but that one are complete.
    assert int(ds.n_examples.dropna("epoch", how="all").isnull().sum()) == 2
    wait_until_free(client)
    xr.testing.assert_equal(sweep(client), sweep())


DRIVER = """
import os, signal, sys, torch
import test_sweep_dask as tests
from distributed import Client
from layerscope.core.sweep._fragments import Fragments

record, left = Fragments.record, int(sys.argv[3])

def counted(self, fragment, result):
    global left
    record(self, fragment, result)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    torch.set_num_threads(1)
    Fragments.record = counted
    with Client(sys.argv[1]) as client:
        tests.sweep(client, out=sys.argv[2], batch_size=5)
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on(cluster, client, tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    out = tmp_path / "out"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    for kept, code in ((2, -9), (3, -9), (0, 0)):
        command = [sys.executable, "driver.py", cluster.scheduler_address, str(out), str(kept)]
        environment = {**os.environ, "PYTHONPATH": paths}
        ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
        assert ended.returncode == code
        if code:
            assert len(list(out.glob("parts-5/*.npz"))) >= kept
    xr.testing.assert_equal(layerscope.open_dataset(out / "sweep.nc"), sweep(batch_size=5))
    wait_until_free(client)


@pytest.mark.slow
@pytest.mark.usefixtures("small_tiles")
def test_a_scheduler_that_is_killed_and_started_again(tmp_path):
    def start(what, *words):
        command = [sys.executable, "-m", "distributed.cli." + what, *words]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def scheduler():
        file = tmp_path / f"scheduler-{time.monotonic_ns()}.json"
        words = ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        made = start("dask_scheduler", *words)
        worker = start("dask_worker", "--scheduler-file", str(file), "--nthreads", "1")
        return file, made, worker

    def kill(_):
        started[0][1].kill()

    started = [scheduler()]
    try:
        with (
            distributed.Client(scheduler_file=str(started[0][0])) as client,
            pytest.raises(ClusterError, match="answers no more"),
        ):
            sweep(client, out=tmp_path / "out", callback=kill, batch_size=5)
        assert len(list((tmp_path / "out").glob("parts-5/*.npz"))) > 0
        started.append(scheduler())
        with distributed.Client(scheduler_file=str(started[1][0])) as client:
            ds = sweep(client, out=tmp_path / "out", batch_size=5)
    finally:
        for _, *processes in started:
            for each in processes:
                each.kill()
                each.wait()
    xr.testing.assert_equal(ds, sweep(batch_size=5))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_one_two_and_four_workers(rule, tmp_path):
    whole = sweep(**rule)
    for workers in (1, 2, 4):
        with engine.connect(f"local:{workers}") as client:
            client.wait_for_workers(workers)
            xr.testing.assert_equal(sweep(client, out=tmp_path / str(workers), **rule), whole)


@pytest.mark.slow
def test_threads_of_a_worker_do_not_share_a_network():
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=4, dashboard_address=":0") as made,
        distributed.Client(made) as client,
    ):
        xr.testing.assert_equal(sweep(client), sweep())
