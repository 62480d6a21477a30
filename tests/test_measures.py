"""Measures of one pass are what their formulas give on stored hidden states."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from layerscope import layers, measures, open_dataset, results, save
from layerscope.errors import OptionError

transformers = pytest.importorskip("transformers")

TINY = {
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 97, "n_positions": 64,
             "bos_token_id": 0, "eos_token_id": 0},
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
                 "num_attention_heads": 4, "vocab_size": 97, "bos_token_id": 0, "eos_token_id": 0},
    "gemma2": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 8,
               "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97},
    "mixtral": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
                "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97,
                "num_local_experts": 4},
    "phi": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "vocab_size": 97, "bos_token_id": 0, "eos_token_id": 0},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
               "vocab_size": 97, "bos_token_id": 0, "eos_token_id": 0},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 97, "state_size": 4,
              "bos_token_id": 0, "eos_token_id": 0},
}  # fmt: skip

BLOCKS = {"llama": "model.layers", "gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers",
          "gemma2": "model.layers", "mixtral": "model.layers", "phi": "model.layers",
          "falcon": "transformer.h", "mamba": "backbone.layers"}  # fmt: skip


def tiny(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **TINY[kind])
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():  # so that all parts add something
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def padded(side="right", n=6, length=12):
    """Tokens of rows of different length, and what of them is no padding."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 97, (n, length), generator=generator)
    kept = torch.tensor([12, 9, 12, 4, 1, 7])[:, None] > torch.arange(length)
    kept = kept if side == "right" else kept.flip(1)
    return {"input_ids": ids.where(kept, torch.zeros_like(ids)), "attention_mask": kept.long()}


def measured(model, data, wanted=None, **options):
    given = {"device": "cpu", "show_progress": False, **options}
    return measures.measure(model, data, wanted, **given)


def states(model, inputs, kind):
    """Hidden states that enter every block, and those that leave the last, in double precision."""
    blocks = model.get_submodule(BLOCKS[kind])
    seen = []
    hooks = [b.register_forward_pre_hook(lambda _, args, kw: seen.append((*args, *kw.values())[0]),
                                         with_kwargs=True) for b in blocks]  # fmt: skip
    last = blocks[-1].register_forward_hook(
        lambda *a: seen.append(a[-1][0] if isinstance(a[-1], tuple) else a[-1])
    )
    with torch.no_grad():
        model(**inputs)
    for hook in (*hooks, last):
        hook.remove()
    return [h.double().numpy() for h in seen]


def cosine(x, y):
    return (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def last_of(kept):
    places = np.arange(kept.shape[1])
    return np.where(kept, places, -1).max(1)


def by_hand(x, y, kept):
    """Every measure of the stream, from hidden states (n, T, d) and the tokens that count."""
    rows, last = np.arange(len(kept)), last_of(kept)
    angle = np.arccos(cosine(x, y)) / np.pi
    norms = [np.linalg.norm(h, axis=-1)[kept].mean() for h in (x, y)]
    return {
        "block_influence": 1 - cosine(x, y)[kept].mean(),
        "angular_distance": angle[kept].mean(),
        "angular_distance_last": angle[rows, last].mean(),
        "norm_growth": norms[1] / norms[0],
        "variance": y[kept].var(),
    }


STREAM = [
    "block_influence", "angular_distance", "angular_distance_last", "norm_growth", "variance"
]  # fmt: skip


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_blocks_measure_what_the_formulas_give(kind, side):
    model, inputs = tiny(kind), padded(side)
    ds = measured(model, inputs, STREAM)
    hidden = states(model, inputs, kind)
    with torch.no_grad():
        told = model(**inputs, output_hidden_states=True).hidden_states
    for mine, theirs in zip(hidden[:-1], told, strict=False):  # the last of theirs is normalised
        assert np.array_equal(mine, theirs.double().numpy())
    kept = inputs["attention_mask"].bool().numpy()
    for index in range(4):
        for name, value in by_hand(hidden[index], hidden[index + 1], kept).items():
            found = ds.measure_value.sel(layer=f"{BLOCKS[kind]}.{index}", measure=name)
            assert float(found) == pytest.approx(value, rel=1e-10), (name, index)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_ranges_measure_what_stored_hidden_states_give(kind):
    model, inputs = tiny(kind), padded()
    ds = measured(model, inputs, STREAM, layers=layers.ranges(model), batch_size=4)
    hidden = states(model, inputs, kind)
    kept = inputs["attention_mask"].bool().numpy()
    assert ds.sizes["layer"] == 10
    for first in range(4):
        for end in range(first + 1, 5):
            name = f"{BLOCKS[kind]}.{first}" + (f"-{end - 1}" if end > first + 1 else "")
            for measure, value in by_hand(hidden[first], hidden[end], kept).items():
                found = float(ds.measure_value.sel(layer=name, measure=measure))
                assert found == pytest.approx(value, rel=1e-10), (name, measure)


def test_several_batches_are_one_batch_to_rounding():
    model, inputs = tiny("llama"), padded()
    one, two = (measured(model, inputs, batch_size=size).measure_value for size in (6, 1))
    # A single row is computed by other kernels: their rounding is single precision's.
    np.testing.assert_allclose(one, two, rtol=2e-6, equal_nan=True)
    # The same hidden states, summed in several parts, differ by that of double precision.
    rows = {name: tensor.repeat(2, 1) for name, tensor in inputs.items()}
    twice = [rows, *[{n: t[:6] for n, t in rows.items()}] * 2]
    whole, parts = (measured(model, [(each, None) for each in given]).measure_value
                    for given in ([twice[1]], twice[1:]))  # fmt: skip
    np.testing.assert_allclose(whole, parts, rtol=1e-12, equal_nan=True)


def test_padding_counts_nothing():
    model, inputs = tiny("llama"), padded()
    other = {
        **inputs,
        "input_ids": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 5),
    }
    one, two = (measured(model, each, STREAM).measure_value for each in (inputs, other))
    np.testing.assert_array_equal(one, two)
    plain = measured(model, (inputs["input_ids"], None), STREAM).measure_value
    assert not np.allclose(one, plain, rtol=1e-3, equal_nan=True)


ADDED = {
    # What is added, where, in the order in which the network does.
    "llama": ("self_attn", "mlp", False),
    "gpt2": ("attn", "mlp", False),
    "gpt_neox": ("attention", "mlp", True),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm", False),
    "mixtral": ("self_attn", "mlp", False),
    "phi": ("self_attn", "mlp", True),
    "falcon": ("self_attention", "mlp", True),
}


@pytest.mark.parametrize("kind", ADDED)
def test_attention_and_mlp_are_measured_by_what_they_add(kind):
    model, inputs = tiny(kind), padded()
    attention, mlp, at_once = ADDED[kind]
    block = model.get_submodule(f"{BLOCKS[kind]}.1")
    gave = {}

    def keep(name):
        def hook(*args):
            output = args[-1]
            gave[name] = (output[0] if isinstance(output, tuple) else output).clone()

        return hook  # fmt: skip

    hooks = [getattr(block, n).register_forward_hook(keep(n)) for n in (attention, mlp)]
    x = states(model, inputs, kind)[1]
    for hook in hooks:
        hook.remove()
    a, m = (gave[n].numpy() for n in (attention, mlp))
    kept = inputs["attention_mask"].bool().numpy()
    single = x.astype(np.float32)
    middle = single if at_once else single + a
    wanted = {
        "attention_importance": 1 - cosine(x, (single + a).astype(float))[kept].mean(),
        "mlp_importance": 1 - cosine(middle.astype(float), (middle + m).astype(float))[kept].mean(),
    }
    ds = measured(model, inputs, list(wanted), batch_size=6)
    parts = measured(model, inputs, list(wanted), view="component")
    for name, value in wanted.items():
        found = ds.measure_value.sel(layer=f"{BLOCKS[kind]}.1", measure=name)
        assert float(found) == pytest.approx(value, rel=1e-9, abs=1e-14), name
        column = parts.measure_value.sel(measure=name)
        inside = [
            str(row) for row in column.layer.values if str(row).startswith(f"{BLOCKS[kind]}.1.")
        ]
        known = [row for row in inside if not math.isnan(column.sel(layer=row))]
        (row,) = known  # the attention alone, or the MLP
        assert float(column.sel(layer=row)) == float(found)
        assert ("att" in row.rsplit(".")[-1]) == (name == "attention_importance")


def test_a_mixer_is_neither_attention_nor_mlp():
    ds = measured(tiny("mamba"), (padded()["input_ids"], None))
    row = ds.measure_value.sel(layer="backbone.layers.1")
    assert row.sel(measure=["attention_importance", "mlp_importance"]).isnull().all()
    assert row.sel(measure=STREAM).notnull().all()


def test_the_largest_output_of_a_down_projection():
    model, inputs = tiny("llama"), padded()
    seen = []
    hook = model.model.layers[2].mlp.down_proj.register_forward_hook(
        lambda *a: seen.append(a[-1][inputs["attention_mask"].bool()].abs().max())
    )
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    ds = measured(model, inputs, "output_spike")
    assert float(ds.measure_value.sel(layer="model.layers.2").squeeze()) == float(seen[0])
    assert ds.measure_value.sel(layer="lm_head" if "lm_head" in ds.layer else "model.norm").isnull()


def test_spectral_exponents_are_hill_estimates_of_the_spectrum():
    model = tiny("gpt2")
    ds = measured(model, (padded()["input_ids"], None), "spectral_exponent")
    found = []
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        weight = model.get_submodule(f"transformer.h.1.{name}").weight.detach().double()
        squares = np.sort(np.linalg.svd(weight.numpy(), compute_uv=False) ** 2)
        n = len(squares)
        k = n // 2
        found.append(
            1 + k / sum(math.log(squares[n - i] / squares[n - k - 1]) for i in range(1, k + 1))
        )
    row = ds.measure_value.sel(layer="transformer.h.1").squeeze()
    assert float(row) == pytest.approx(np.mean(found), rel=1e-9)
    assert ds.attrs["measured_on"] == 0  # no pass was needed


def test_a_power_law_has_its_exponent():
    # λᵢ = (n / i)^(1 / (α − 1)) has the density λ^(−α).
    n, alpha = 4000, 3.0
    squares = (n / torch.arange(1, n + 1).double()) ** (1 / (alpha - 1))
    matrix = torch.diag(squares.sqrt())
    assert measures.MEASURES["spectral_exponent"].per_matrix(matrix) == pytest.approx(
        alpha, rel=0.01
    )


def test_nothing_is_left_behind():
    model, inputs = tiny("llama").train(), padded()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured(model, inputs, layers=layers.ranges(model))
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    for module in model.modules():
        hooks = [module._forward_hooks, module._forward_hooks_with_kwargs]
        hooks += [module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs]
        assert not any(hooks)
        assert "forward" not in vars(module)


def test_a_pass_that_fails_leaves_nothing_either():
    model = tiny("llama")
    own = model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(Exception, match="division by zero"):
        measured(model, padded())
    own.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_rows_that_are_no_blocks_say_why():
    model, inputs = tiny("llama"), padded()
    apart = {
        "apart": ["model.layers.0", "model.layers.2"],
        "pair": ["model.layers.0", "model.layers.1"],
    }
    ds = measured(model, inputs, ["block_influence"], layers=apart)
    assert math.isnan(ds.measure_value.sel(layer="apart").item())
    assert not math.isnan(ds.measure_value.sel(layer="pair").item())
    reasons = results.settings(ds)["not_measured"]
    assert list(reasons) == ["apart block_influence"]
    assert (
        "model.layers.2 does not begin with what model.layers.0 gives"
        in reasons["apart block_influence"]
    )
    parts = measured(model, inputs, ["block_influence", "output_spike"], view="component")
    why = results.settings(parts)["not_measured"]
    assert "no row of whole blocks" in why["model.layers.0.mlp block_influence"]
    assert "holds no down-projection" in why["model.layers.0.self_attn output_spike"]


class Overwriting(nn.Module):
    """A block that adds to its hidden states where they are."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x):
        x += self.down(torch.relu(self.up(x)))
        return x


def test_hidden_states_that_are_overwritten_are_kept():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = nn.Sequential(Overwriting(), Overwriting()), torch.randn(5, 6)
    ds = measured(model, (x.clone(), None), ["block_influence"])
    with torch.no_grad():
        middle = model[0](x.clone())
        last = model[1](middle.clone())
    for index, (before, after) in enumerate([(x, middle), (middle, last)]):
        value = 1 - cosine(before.double().numpy(), after.double().numpy()).mean()
        assert float(ds.measure_value[index, 0]) == pytest.approx(value, rel=1e-10)


def test_a_block_that_is_called_twice_is_refused():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = nn.Sequential(block, block, nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
        x = torch.randn(3, 5, 8)
    ds = measured(model, (x, None), ["block_influence"])
    values = ds.measure_value.squeeze().to_series()
    assert values.isnull().tolist() == [True, False]
    assert "called 2 times" in results.settings(ds)["not_measured"]["0 block_influence"]


def test_a_measure_of_ones_own_and_what_a_dataset_says_of_it(tmp_path):
    shift = measures.Measure(
        "shift", per_token=lambda x, y: (y - x).norm(dim=-1), long_name="how far", unit="m",
        lower_bound=0.0, higher_matters=False,
    )  # fmt: skip
    model, inputs = tiny("llama"), padded()
    ds = measured(model, inputs, [shift, "block_influence"])
    hidden = states(model, inputs, "llama")
    kept = inputs["attention_mask"].bool().numpy()
    value = np.linalg.norm(hidden[2] - hidden[1], axis=-1)[kept].mean()
    assert float(ds.measure_value.sel(layer="model.layers.1", measure="shift")) == pytest.approx(
        value
    )
    save(ds, tmp_path / "measures.nc")
    again = open_dataset(tmp_path / "measures.nc")
    for each in (ds, again):
        # Bounds that are not known are NaN, which differs from itself.
        assert repr(results.measure(each, "shift")) == repr(shift.info)
        assert results.measure(each, "block_influence") == measures.MEASURES["block_influence"].info
    assert results.measure(again, "shift").label == "shift (m)"
    with pytest.raises(OptionError, match=r"there is no measure 'shft'\. Did you mean 'shift'"):
        results.measure(ds, "shft")


@pytest.mark.parametrize(
    ("wanted", "match"),
    [
        ("block_inflence", r"no measure 'block_inflence'\. Did you mean 'block_influence'"),
        (["variance", "variance"], "two measures have the name 'variance'"),
        ([3], "a measure came as 3"),
        (7, "measures came as 7"),
    ],
)
def test_what_is_no_measure_is_refused(wanted, match):
    with pytest.raises(OptionError, match=match):
        measured(tiny("llama"), padded(), wanted)


def test_a_measure_says_how_in_one_way():
    with pytest.raises(OptionError, match="needs one of per_token, per_output and per_matrix"):
        measures.Measure("nothing")
    with pytest.raises(OptionError, match="no place of a measure"):
        measures.Measure("x", per_token=lambda x, _: x, between="norm")
