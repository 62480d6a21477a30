"""One network, one borrower; interrupted anywhere, it is itself again at once and stays so."""

from __future__ import annotations

import copy
import gc
import signal
import sys
import threading

import pytest
import torch
from torch import nn

import layerscope
from layerscope import metrics
from layerscope.core.lending import borrowed
from layerscope.core.session import Session
from layerscope.errors import LayerscopeError

CPU = torch.device("cpu")

# The network has a hook, which is why one of its modules is computed anew in every cell.
pytestmark = pytest.mark.filterwarnings("ignore:body.0 could not be reused")


class Network(nn.Module):
    """With a hook, mixed modes, and a buffer that a pass writes if it counts."""

    def __init__(self, seed: int, *, counts: bool = True) -> None:
        super().__init__()
        self.counts = counts
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.still = nn.Dropout().eval()
        self.body[0].register_forward_hook(lambda *_: None)

    def forward(self, inputs):
        self.calls += self.counts
        return self.head(self.still(self.body(inputs)))


STATES = {epoch: Network(epoch).state_dict() for epoch in (0, 1)}
GENERATOR = torch.Generator().manual_seed(0)
PAIR = torch.randn(24, 5, generator=GENERATOR), torch.randint(3, (24,), generator=GENERATOR)


def sweep(model, **options):
    options = {"perturbations": ["reinitialize", "zero"], "epochs": [0]} | options
    return layerscope.sweep(
        model, PAIR, checkpoints=STATES, device="cpu", batch_size=12, show_progress=False, **options
    )


def session(model):
    return Session(model, PAIR, checkpoints=STATES, device="cpu", batch_size=12)


def picture(model):
    """All that must be as before: of the network bits, places, modes, hooks; of the thread."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return (
        {n: (id(t), t.data_ptr(), t.requires_grad) for n, t in tensors.items()},
        {n: t.detach().clone().reshape(-1).view(torch.uint8).tolist() for n, t in tensors.items()},
        [(name, id(module), module.training) for name, module in model.named_modules()],
        [sorted(vars(module)) for module in model.modules()],
        [(list(m._forward_pre_hooks), list(m._forward_hooks)) for m in model.modules()],
        (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
        (
            len(torch.overrides._get_current_function_mode_stack()),
            len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
        ),
    )


# One at a time


@pytest.mark.parametrize("second", [sweep, session, lambda m: borrowed(m, CPU).__enter__()])
def test_a_network_that_is_lent_is_not_lent_again(second):
    model = Network(5)
    before = picture(model)
    with session(model) as live:
        expected = live.measure({"head": "zero"}).mean("loss")
        with pytest.raises(LayerscopeError, match=r"Network, .* is lent to an open Session.*close"):
            second(model)
        with pytest.raises(LayerscopeError, match="is lent to an open Session"):
            borrowed(nn.Sequential(model), CPU).__enter__()  # as a part of another
        with pytest.raises(LayerscopeError, match="Linear, or a part of it, is lent"):
            borrowed(model.head, CPU).__enter__()
        assert live.measure({"head": "zero"}).mean("loss") == expected
    assert picture(model) == before
    right = sweep(Network(6))
    assert sweep(model)["value"].identical(right["value"])
    assert picture(model) == before


def test_during_a_sweep_its_network_is_not_lent_again():
    model, said = Network(5), []

    def between():
        with pytest.raises(LayerscopeError, match="is lent to a sweep") as caught:
            session(model)
        said.append(caught.value)

    ds = sweep(model, between=between)
    assert said
    assert ds["value"].identical(sweep(Network(6))["value"])


def test_threads_that_want_one_network_get_the_right_numbers_or_a_word():
    model = Network(5)
    before, right = picture(model), sweep(Network(6))["value"]
    found, refused, wrong = [], [], []

    def work():
        for _ in range(3):
            try:
                found.append(sweep(model)["value"])
            except LayerscopeError as error:
                (refused if "is lent to a sweep" in str(error) else wrong).append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(found) + len(refused) == 9
    assert found
    assert all(value.identical(right) for value in found)
    assert picture(model) == before


def test_a_session_that_nobody_has_any_more_gives_the_network_back():
    model = Network(5)
    before = picture(model)
    kept = session(model)
    kept.measure({"head": "zero"})
    del kept
    gc.collect()
    assert picture(model) == before
    sweep(model)


# The caller's gradients


def test_an_open_session_leaves_gradients_to_its_caller():
    model, other = Network(5), Network(6)
    with session(model) as live:
        for _ in live.evaluate({"head": "zero"}):
            assert torch.is_grad_enabled()
            other(PAIR[0]).sum().backward()
        half_way = live.evaluate({"head": ("reinitialize", 0)})
        next(half_way)
        live.rows("block")
        live.obstacle("body.0")
        assert torch.is_grad_enabled()
        other(PAIR[0]).sum().backward()
        with torch.no_grad():
            next(half_way)
            assert not torch.is_grad_enabled()
    assert all(parameter.grad is not None for parameter in other.parameters())
    assert torch.is_grad_enabled()


# Interrupts


def swept(model):
    sweep(model)


def asked(model):
    live = session(model)
    try:
        live.measure({"head": "skip"}, "leaf")
    except layerscope.errors.LayerError:
        live.measure({"head": "zero"})
    finally:
        try:
            live.close()
        finally:  # which a user does who finds the network still lent
            live.close()


def evaluated(model):
    metrics.evaluate(model, PAIR, batch_size=12, device="cpu", reference=model)


def watched(work, model, at, strike):
    """Do `work` and strike at event `at` of what lends: how many there were, and the error."""
    seen = 0
    places = ("lending.py", "undoing.py", "probe.py", "steadiness.py", "passes.py",
              "recorder.py", "loop.py",
              "watching.py", "state.py", "order.py", "running.py", "session.py",
              "identity.py", "devices/_choice.py", "devices/_memory.py",
              "devices/_precision.py")  # fmt: skip

    def trace(frame, event, _):
        nonlocal seen
        name = frame.f_code.co_filename
        if "layerscope" not in name or not name.endswith(places):
            return None
        if event in ("call", "line"):
            seen += 1
            if seen == at:
                sys.settrace(None)
                strike()
        return trace

    caught = None
    sys.settrace(trace)
    try:
        work(model)
    except BaseException as error:  # noqa: BLE001 - what struck, or what it became
        caught = error  # with its traceback, and all that hangs on it
    finally:
        sys.settrace(None)
    return seen, caught


def raised():
    raise KeyboardInterrupt


def signalled():
    signal.raise_signal(signal.SIGINT)


def struck(work, every, strike):
    """Interrupt at every so-many-th event; list where something was left behind."""
    model = Network(5, counts=work is not evaluated)  # which does what the network does
    before, generator = picture(model), torch.get_rng_state()
    events, error = watched(work, model, -1, strike)
    assert error is None
    assert picture(model) == before
    left = []
    for at in range(1 + events % every, events + 1, every):
        _, error = watched(work, model, at, strike)
        if error is None or not isinstance(error, KeyboardInterrupt):
            left.append((at, "not interrupted", error))
        if picture(model) != before:
            left.append((at, "at once"))
        del error  # the traceback, with frames and generators
        gc.collect()
        if picture(model) != before:
            left.append((at, "afterwards"))
            return left
        if not torch.equal(torch.get_rng_state(), generator):
            left.append((at, "the generator"))
            torch.set_rng_state(generator)
    return left


WORKS = {swept: (9001, 101), asked: (7001, 101), evaluated: (97, 1)}


@pytest.fixture(autouse=True)
def _interrupts_are_heard():
    """A process that a shell started in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("strike", [raised, signalled])
@pytest.mark.parametrize("work", WORKS)
def test_interrupted_anywhere_the_network_is_itself(work, strike):
    assert struck(work, WORKS[work][0], strike) == []


@pytest.mark.slow
@pytest.mark.parametrize("strike", [raised, signalled])
@pytest.mark.parametrize("work", WORKS)
def test_interrupted_at_many_places_the_network_is_itself(work, strike):
    assert struck(work, WORKS[work][1], strike) == []


def test_the_next_sweep_after_an_interrupt_is_right():
    model, right = Network(5), sweep(Network(6))["value"]
    events, _ = watched(swept, model, -1, raised)
    kept = [watched(swept, model, at, raised)[1] for at in range(events // 9, events, events // 5)]
    assert all(isinstance(error, KeyboardInterrupt) for error in kept)
    assert sweep(model)["value"].identical(right)
    del kept
    gc.collect()
    assert copy.deepcopy(model).training
    assert sweep(model)["value"].identical(right)
