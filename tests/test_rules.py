"""Rules: every finding has one, thresholds stand in one place, and what their reasons say holds."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from layerscope import analyses, testing
from layerscope.errors import OptionError
from layerscope.paper import reference, rules
from layerscope.paper.reference import _patterns

WITHOUT_A_LIMIT = {"same-layers", "printed-errors", "printed-distances"}


def test_every_rule_has_a_limit_a_reason_and_a_date():
    for name, rule in rules.RULES.items():
        limits = [each for each in (rule.above, rule.below) if each is not None]
        assert len(limits) == (name not in WITHOUT_A_LIMIT), name
        assert len(rule.reason) > 40, name
        assert not rule.reason.endswith("."), name
        assert datetime.date.fromisoformat(rule.fixed) >= datetime.date(2026, 11, 28), name
        assert rule.claim != rule.otherwise


def test_every_finding_of_the_committed_runs_was_judged_by_its_rule(repository):
    found = 0
    for path in sorted((repository / "papermill_runs").glob("*/*/manifest.json")):
        about = json.loads(path.read_text("utf-8"))
        for each in about["summary"]["findings"]:
            rule = rules.RULES[each["rule"]]
            assert each["claim"].endswith(rule.claim), path
            assert each["measured"].startswith(rule.quantity), path
            if each["rule"] not in WITHOUT_A_LIMIT:
                assert each["condition"] == rule.condition, path
            found += 1
        for claim in about["summary"]["claims"]:
            assert claim["rule"] in rules.RULES, path
    assert found > 50


def test_the_hash_of_the_rules_changes_with_any_of_them(monkeypatch):
    before = rules.digest()
    rule = rules.RULES["random-fails"]
    changed = {**rules.RULES, "random-fails": dataclasses.replace(rule, above=0.5)}
    monkeypatch.setattr(rules, "RULES", changed)
    assert rules.digest() != before


def test_the_papers_own_layers_leave_the_gap_that_is_the_reason_for_critical():
    critical, others = [], []
    for network, final in (("fcn-3x256", 0.025), ("fcn-5x256", 0.025), ("vgg11", 0.125)):
        for layer, cells in reference.ERROR[network].items():
            if layer == "fullmodel" or isinstance(cells["0"], str):
                continue
            damage = (float(cells["0"]) - final) / (0.9 - final)
            (critical if damage > rules.CRITICAL else others).append(damage)
    assert min(critical) >= 0.4
    assert max(others) <= 0.125
    assert (min(critical) + max(others)) / 2 == pytest.approx(rules.CRITICAL, abs=0.03)


@pytest.mark.parametrize(("count", "limit"), [(3, 1.0), (4, 0.9), (6, 0.8), (11, 0.521)])
def test_an_order_without_any_relation_seldom_passes(count, limit):
    assert _patterns.by_chance(count) == pytest.approx(limit, abs=0.002)
    draw = np.random.default_rng(0)
    ranks = np.argsort(draw.random((20_000, count)), axis=1)
    rho = 1 - 6 * ((ranks - np.arange(count)) ** 2).sum(1) / (count**3 - count)
    assert (rho > limit).mean() < 0.055


def test_a_rule_that_is_not_there_is_refused():
    with pytest.raises(OptionError, match="there is no rule 'nothing'"):
        analyses.by_rule("nothing", [1.0, 2.0])


def test_the_limit_of_a_rule_can_not_be_changed_where_it_is_used():
    found = analyses.by_rule("lowest-critical", [0.2, 0.21, 0.19], above=0.1)
    assert (found.condition, found.verdict) == ("above 0.25", "disagrees")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_statements_of_one_experiment_are_corrected_as_holm_has_it(values):
    plain = analyses.finding("a", "b", [1.0, 2.0, 1.5], above=0)
    said = analyses.correct([dataclasses.replace(plain, p=value) for value in values])
    order, count, still = np.argsort(values, kind="stable"), len(values), True
    for rank, at in enumerate(order):
        still = still and values[at] * (count - rank) < 0.05
        assert (said[at].verdict == "agrees") == still


def test_one_run_is_no_test_and_corrects_no_other():
    one = analyses.finding("a", "b", [1.0], above=0)
    several = analyses.finding("a", "b", [1.0, 1.1, 1.05], above=0)
    assert math.isnan(one.p)
    assert several.p < 0.05
    alone, among = analyses.correct([several])[0], analyses.correct([several, one, one])[0]
    assert (among.verdict, among.statements) == (alone.verdict, 1)


def test_what_is_undecided_says_how_many_runs_would_decide_it():
    draw = np.random.default_rng(0)
    (found,) = analyses.correct([analyses.finding("a", "b", [0.1, 0.5, 0.3], above=0.1)])
    assert found.verdict == "undecided"
    samples = 0.3 + 0.2 * draw.standard_normal((400, found.needed))
    decided = [analyses.finding("a", "b", each, above=0.1).verdict == "agrees" for each in samples]
    assert 0.72 < np.mean(decided) < 0.9


def test_a_network_all_of_whose_layers_are_critical_does_not_pass_for_robust():
    ds = testing.dataset(layers=6)
    first = ds["value"].sel(layer="layer1", epoch=0, perturbation="reinitialize")
    for number in range(1, 7):
        at = {"layer": f"layer{number}", "epoch": 0, "perturbation": "reinitialize"}
        ds["value"].loc[at] = first - 0.02 * number
        ds["difference"].loc[at] = (first - 0.02 * number - ds["baseline"]).transpose(
            *ds["difference"].sel(at).dims
        )
    assert analyses.no_upper_critical(ds).value > rules.CRITICAL
