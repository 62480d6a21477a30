"""Whatever call fails while a training writes, its weights are right, or it says so and goes on."""

from __future__ import annotations

import errno

import pytest
from faults import a_few_and_all, ends_of, fail_at, never, writing_calls

from layerscope.errors import LayerscopeError
from layerscope.zoo.training import _loop as loop


@pytest.fixture
def train(train_few, monkeypatch):
    monkeypatch.setattr(loop, "_SAVE_EVERY_S", 0.0)  # also in the middle of an epoch

    def trained(out):
        series = train_few(out, "fcn-1x4", epochs=1, batch_size=200)
        return {epoch: series.manifest["epochs"][str(epoch)]["sha256"] for epoch in series.epochs}

    return trained


def attempt(out, train, right, fails):
    found, ended = [], "finished"
    with writing_calls(out, fails) as calls:
        try:
            weights = train(out)
        except LayerscopeError as error:
            ended = "told"
            if str(out) not in str(error):
                found.append(f"{calls.failed}: {error}")
        else:
            if weights != right:
                found.append(f"{calls.failed}: other weights")
    found += [f"passed by: {path}" for path in calls.passed_by]
    found += [f"{each} before its content lasts" for each in calls.unsafe]
    if train(out) != right:
        found.append(f"{calls.failed[:1]}: other weights later")
    return calls, ended, found


@pytest.mark.parametrize(
    ("number", "choice"),
    [
        *a_few_and_all(errno.EIO, errno.ENOSPC, few=29),
        *a_few_and_all(errno.EROFS, errno.EACCES, few=50),
    ],
)
def test_a_call_that_fails_costs_no_weight(tmp_path, train, number, choice):
    right = train(tmp_path / "right")
    calls, ended, found = attempt(tmp_path / "count", train, right, never)
    assert (ended, found) == ("finished", [])
    ends = ends_of(
        choice.of(len(calls.seen)),
        lambda at: attempt(tmp_path / str(at), train, right, fail_at(at, number)),
    )
    print(len(calls.seen), ends)
    assert choice.few or ends["told"]
