"""Networks, data, training and sweeps with each other: every kind with every other."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import layerscope
from benchmarks import smoke
from layerscope import data, layers, models, perturb, results
from layerscope.base.tensors import tied_names
from layerscope.cli import main
from layerscope.core import sweep as engine
from layerscope.core.checkpoints import open_series
from layerscope.errors import (
    CheckpointError,
    DataError,
    LayerError,
    OptionError,
)
from layerscope.zoo import training
from layerscope.zoo.recorders import CheckpointRecorder
from layerscope.zoo.training import Recipe


@pytest.fixture(scope="module")
def docs() -> data.TextData:
    return data.load("python-docs", vocab=300, length=8, lines=60, test_size=40)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures of three classes in files, larger than what a network gets."""
    root = tmp_path_factory.mktemp("pictures") / "shapes"
    chance = torch.Generator().manual_seed(0)
    for part, count in (("train", 8), ("val", 4)):
        for number in range(3 * count):
            folder = root / part / f"class{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(256, (3, 40, 44), generator=chance, dtype=torch.uint8)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return root


def train(network, given, out, *, epochs=1, batch_size=10, augment=None, steps=(), **recipe):
    return training.train(
        network,
        given,
        Recipe(epochs=epochs, batch_size=batch_size, **recipe),
        out=out,
        record=range(epochs + 1),
        record_steps=steps,
        augment=augment,
        device="cpu",
        show_progress=False,
    )


def sweep(model, given, series, **options):
    options = {"draws": 1, "device": "cpu", "show_progress": False, **options}
    return layerscope.sweep(model, given, checkpoints=series, **options)


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


# Every network with its data


def test_a_pair_is_trained_killed_resumed_and_swept_to_the_last_bit():
    (row,) = smoke.run(["lstm"], device="cpu")
    assert row.resumed
    assert row.exact
    assert row.checkpoints == 4  # with one inside the second epoch
    assert row.cells == 20
    assert "perplexity" in row.score


def test_smoke_sees_what_is_not_the_same(monkeypatch, capsys):
    """The optimiser forgets when going on, and one cell of the sweep is off by the last bit."""
    pair = dataclasses.replace(smoke.select(["fcn"])[0], data="mnist-5k+size=60@0+test_size=50@0")
    monkeypatch.setattr(smoke, "PAIRS", [pair])
    restore, swept = training._loop.state.restore, engine.sweep

    def forgetting(folder, model, optimizer, sums):
        position = restore(folder, model, optimizer, sums)
        optimizer.state.clear()
        return position

    @functools.wraps(swept)
    def inexact(*args, **options):
        ds = swept(*args, **options)
        ds["value"][0, -1, 0, 0, 1] = np.nextafter(ds["value"][0, -1, 0, 0, 1], 9)
        return ds

    monkeypatch.setattr(training._loop.state, "restore", forgetting)
    monkeypatch.setattr(smoke.engine, "sweep", inexact)
    with pytest.raises(SystemExit, match="not the same to the last bit: fcn-2x64 on mnist-5k"):
        smoke.main(["--device", "cpu"])
    shown = capsys.readouterr().out
    assert "OTHER" in shown
    assert "NOT" in shown


def test_names_to_try_are_checked():
    assert len(smoke.select()) == len(smoke.PAIRS)
    assert {pair.network.split("-")[0] for pair in smoke.PAIRS} >= {
        family.example.split("-")[0].removesuffix("16") for family in models.FAMILIES.values()
    } - {"vgg"}
    with pytest.raises(OptionError, match="there is no network to try 'vgg99'"):
        smoke.select(["vgg99"])


@pytest.mark.slow
def test_every_network_with_its_data():
    rows = list(smoke.run(device="cpu"))
    assert len(rows) == len(smoke.PAIRS)
    assert all(row.resumed and row.exact for row in rows)


# Pictures in files


def test_pictures_in_files_are_trained_on_as_in_memory(folders, tmp_path):
    streamed = data.load(folders, image_size=32, workers=1)
    held = data.load(folders, image_size=32, stream=False)
    assert isinstance(streamed.train, data.Pictures)
    assert isinstance(held.train, data.Examples)
    one, other = (
        train("resnet18-w0.0625", given, tmp_path / str(index))
        for index, given in enumerate((streamed, held))
    )
    assert same(one.read(1), other.read(1))
    first, second = (series.manifest["epochs"]["1"]["metrics"] for series in (one, other))
    assert first["train_loss"] == second["train_loss"]
    swept = [
        sweep(models.rebuild(one), given.test, one, view="stage") for given in (streamed, held)
    ]
    assert swept[0]["value"].equals(swept[1]["value"])


def test_pieces_of_pictures_are_the_same_after_going_on(folders, tmp_path, monkeypatch):
    given = data.load(folders, image_size=32, workers=1)

    def run(out):
        return train(
            "fcn-1x4", given, out, epochs=2, batch_size=7, augment="resized-crop", steps=(1, 2, 5)
        )

    whole = run(tmp_path / "whole")
    assert whole.manifest["augment"] == repr(data.RandomResizedCrop())
    step = training._loop.Loop._step
    with monkeypatch.context() as patch:

        def stopping(self, epoch, inputs, targets):
            if (epoch, self.position.step) == (2, 3):
                raise KeyboardInterrupt
            step(self, epoch, inputs, targets)

        patch.setattr(training._loop.Loop, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    assert run(tmp_path / "cut").digests() == whole.digests()
    plain = train("fcn-1x4", given, tmp_path, epochs=2, batch_size=7, steps=(1, 2, 5))
    assert not same(plain.read(1), whole.read(1))


def test_an_unreadable_picture_stops_a_training_with_its_name(folders, tmp_path):
    root = tmp_path / "shapes"
    shutil.copytree(folders, root)
    (root / "train" / "class1" / "broken.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"1 of this batch of .*class1/broken.png.*skip_unread"):
        train("fcn-1x4", data.load(root, image_size=32), tmp_path / "out")
    given = data.load(root, image_size=32, skip_unreadable=True)
    assert train("fcn-1x4", given, tmp_path / "out").last == 1


# Augmentation


def test_training_augments_as_data_does(few_digits, tmp_path):
    shift = data.Augment(pad=2, flip=False)
    seen = []

    class Kept(data.Examples):
        def batches(self, *args):
            for batch in super().batches(*args):
                seen.append(batch[0].clone())
                yield batch

    part = few_digits.train
    kept = Kept(part.inputs, part.targets, part.mean, part.std)
    train("fcn-1x4", dataclasses.replace(few_digits, train=kept), tmp_path, augment=shift)
    order = torch.randperm(len(part), generator=layerscope.base.seeds.generator("order", 0, 1))
    expected = [inputs for inputs, _ in part.batches(10, order, shift.at(0, 1))]
    assert all(map(torch.equal, seen, expected))
    assert len(seen) == len(expected)


def test_augmentation_goes_by_name_and_fits_the_data(few_digits, folders, tmp_path):
    named = train("fcn-1x4", few_digits, tmp_path, augment="shift")
    assert named.manifest["augment"] == "Augment(pad=4, flip=False)"
    with pytest.raises(OptionError, match="Did you mean 'shift'"):
        train("fcn-1x4", few_digits, tmp_path, augment="shfit")
    with pytest.raises(OptionError, match=r"pictures in files; these are images in memory: use A"):
        train("fcn-1x4", few_digits, tmp_path, augment="resized-crop")
    with pytest.raises(OptionError, match="images in memory; these are pictures in files: use Ran"):
        train("fcn-1x4", data.load(folders, image_size=32), tmp_path, augment="shift-flip")


# Text


def test_a_text_keeps_its_tokenizer_and_is_scored_by_perplexity(docs, tmp_path):
    series = train("transformer-16x1", docs, tmp_path)
    kept = data.Tokenizer.load(series.folder / "tokenizer.json")
    assert kept.sha256 == docs.tokenizer.sha256
    scores = series.manifest["epochs"]["1"]["metrics"]
    assert scores["test_perplexity"] == math.exp(scores["test_loss"])
    again = data.load(docs.name, tokenizer=series.folder / "tokenizer.json")
    assert again.train.fingerprint == docs.train.fingerprint
    ds = sweep(models.rebuild(series), again.test, series, layers=["head"], whole=False)
    assert list(ds["metric"].values) == ["error", "loss", "perplexity"]
    loss, perplexity = (ds["value"].sel(metric=name) for name in ("loss", "perplexity"))
    assert np.array_equal(np.vectorize(math.exp)(loss), perplexity, equal_nan=True)
    trained = ds["value"].sel(epoch=1, perturbation="reinitialize", draw=0)
    assert (trained == ds["baseline"]).all()


def test_large_outputs_are_scored_in_the_batches_that_were_trained_in(docs, tmp_path, monkeypatch):
    sizes = []
    evaluate = training._loop.metrics.evaluate

    def watching(*args, **options):
        sizes.append(options["batch_size"])
        return evaluate(*args, **options)

    monkeypatch.setattr(training._loop.metrics, "evaluate", watching)
    train("lstm-4x1", docs, tmp_path)
    assert set(sizes) == {10}


def test_tied_weights_are_recorded_resumed_and_read(docs, tmp_path, monkeypatch):
    network = models.configure("lstm-8x1", tied=True)

    def run(out):
        return train(network, docs, out, epochs=2, optimizer="adam", lr=1e-3)

    whole = run(tmp_path / "whole")
    epoch, ran = training._loop.Loop._epoch, []
    with monkeypatch.context() as patch:

        def stopping(self, number):
            if number == 2:
                raise KeyboardInterrupt
            epoch(self, number)

        patch.setattr(training._loop.Loop, "_epoch", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")

    def counting(self, number):
        ran.append(number)
        epoch(self, number)

    monkeypatch.setattr(training._loop.Loop, "_epoch", counting)
    assert run(tmp_path / "cut").digests() == whole.digests()
    assert ran == [2]
    model = models.rebuild(whole)
    tied = tied_names(model)
    assert tied
    state = whole.read(2)
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())


def test_a_network_in_other_tokens_is_refused(docs, tmp_path):
    small = models.build("lstm-4x1", inputs=docs.shape, classes=40)
    with pytest.raises(DataError, match=r"token that is beyond the network's vocabulary.*RUN/tok"):
        train(small, docs, tmp_path)
    start = copy.deepcopy(small.state_dict())
    with pytest.raises(DataError, match="beyond the network's vocabulary"):
        sweep(small, docs.test, {0: start})
    with pytest.raises(DataError, match=r"knows 40 tokens and the tokenizer 300"):
        docs.tokenizer.check(small.config.classes)


def test_text_in_another_encoding_is_named_on_the_command_line(tmp_path, capsys):
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_bytes("café au lait\n".encode("latin-1") * 30)
    command = ["train", "lstm-4x1", "--data", str(tmp_path), "--epochs", "1"]
    command += ["--out", str(tmp_path / "out"), "--data-option", "vocab=260"]
    assert main(command) == 1
    assert "is not in utf-8: byte 0xe9" in capsys.readouterr().err
    assert main([*command, "--data-option", "encoding=latin-1"]) == 0


# Labels that the network does not know


def test_too_few_outputs_are_named_wherever_they_meet_the_labels(few_digits, tmp_path):
    def small():
        return models.build("fcn-1x4", classes=5)

    for refused in (
        lambda: train(small(), few_digits, tmp_path),
        lambda: sweep(small(), few_digits.test, {0: small().state_dict()}),
        lambda: layerscope.evaluate(small(), few_digits.test, device="cpu"),
    ):
        with pytest.raises(DataError, match="a target is class 9, and the network has 5 outputs"):
            refused()
    # Where only the training part has them.
    seen = few_digits.test.take(torch.nonzero(few_digits.test.targets < 5).flatten())
    with pytest.raises(DataError, match="a target is class 9"):
        train(small(), dataclasses.replace(few_digits, test=seen), tmp_path)


def test_evaluation_without_labels_measures_what_needs_none(few_digits):
    net = models.build("fcn-1x4")
    pair = few_digits.test.inputs.float(), None
    found = layerscope.evaluate(net, pair, ["agreement"], device="cpu", reference=net)
    assert found["agreement"].mean == 1


# Folders


def test_long_names_of_data_are_cut_but_not_confused(few_digits, tmp_path):
    name = "digits" + "+classes=0,1,2,3,4,5,6,7,8,9" * 12
    given = [dataclasses.replace(few_digits, name=name + end) for end in ("", "+size=3@1")]
    folders = [train("fcn-1x4", each, tmp_path).folder for each in given]
    assert folders[0] != folders[1]
    assert max(len(folder.name) for folder in folders) < 100
    assert open_series(folders[0]).manifest["data"]["name"] == name
    assert train("fcn-1x4", few_digits, tmp_path).folder.name.startswith("fcn-1x4-mnist-5k-seed0-")


# Networks of others


def recorded(net, batches, folder):
    """Train in a loop of one's own, recording."""
    recorder = CheckpointRecorder(folder, net)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for epoch in (1, 2):
        for inputs, targets in batches:
            outputs = net(**inputs) if isinstance(inputs, dict) else net(inputs)
            logits = getattr(outputs, "logits", outputs)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten()).backward()
            optimizer.step()
        recorder.step(epoch)
    return net


def of_bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    tokens = torch.arange(160).reshape(2, 8, 10) * 7 % 50
    mask = torch.ones_like(tokens)
    mask[:, ::2, 6:] = 0
    batches = [
        ({"input_ids": t, "attention_mask": m}, t[:, 0] % 3)
        for t, m in zip(tokens, mask, strict=True)
    ]
    return transformers.BertForSequenceClassification(config), batches, "bert.encoder.layer.0"


def of_gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=8, n_layer=2, n_head=2, n_positions=12, bos_token_id=0,
        eos_token_id=0, loss_type="ForCausalLM",
    )  # fmt: skip
    batches = []
    for tokens in torch.arange(160).reshape(2, 8, 10) * 7 % 50:
        targets = torch.full_like(tokens, -100)
        targets[:, :-1] = tokens[:, 1:]
        batches.append(({"input_ids": tokens, "labels": tokens}, targets))
    return transformers.GPT2LMHeadModel(config), batches, "transformer.h.0"


def of_timm():
    timm = pytest.importorskip("timm")
    net = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2,
        num_classes=3,
    )  # fmt: skip
    images = torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return net, [(each, torch.arange(8) % 3) for each in images], "blocks.0"


@pytest.mark.parametrize("make", [of_bert, of_gpt2, of_timm])
def test_a_network_of_others_goes_the_same_way(make, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, batches, block = make()
        recorded(net, batches, tmp_path / "series")
    before = copy.deepcopy(net.state_dict())
    ds = sweep(net, batches, tmp_path / "series", view="block")
    assert same(before, net.state_dict())
    assert block in ds["layer"].values
    series = open_series(tmp_path / "series").fit(net)
    plain = copy.deepcopy(net)
    start = {n: t for n, t in series.read(0).items() if n.startswith(block)}
    plain.load_state_dict({**plain.state_dict(), **start})
    found = layerscope.evaluate(plain, batches, list(ds["metric"].values), device="cpu")
    cell = ds["value"].sel(layer=block, epoch=0, perturbation="reinitialize", draw=0)
    assert [tally.mean for tally in found.values()] == list(cell.values)
    assert not np.array_equal(cell.values, ds["baseline"].values)
    assert ("perplexity" in ds["metric"].values) == (make is of_gpt2)


# Without the initial checkpoint


@pytest.mark.usefixtures("same_global_generator")
@pytest.mark.parametrize("make", [of_bert, of_gpt2, of_timm])
def test_without_the_start_a_network_draws_itself_as_its_library_does(make):
    """Its parameters have the moments of a fresh one's, not those that torch's modules draw."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net, start = make()[0], make()[0]
    late = copy.deepcopy(net.state_dict())
    for tensor in late.values():
        if tensor.is_floating_point():
            tensor.mul_(3).add_(1)
    fresh = perturb.Redraw(net, layerscope.Series({7: late}).fit(net))
    whole = layers.whole_network(net, "all", layers.Norms())
    assert fresh.origin(whole) == "init_weights (unchecked)"
    drawn = fresh.draw(whole, torch.Generator().manual_seed(0))
    again = fresh.draw(whole, torch.Generator().manual_seed(0))
    for name, parameter in start.named_parameters():
        tensor = parameter.detach()
        assert torch.equal(drawn[name], again[name])
        spread = float(tensor.std(correction=0))
        if spread == 0:
            assert torch.equal(drawn[name], tensor), name
        elif tensor.numel() >= 64:
            assert 0.75 < float(drawn[name].std(correction=0)) / spread < 1.33, name
            assert not torch.equal(drawn[name], tensor)
    leaf = next(each for each in layers.find(net) if each.members != whole.members)
    assert fresh.draw(leaf, torch.Generator().manual_seed(0)).keys() == set(leaf.tensors)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, inputs):
        return self.head(self.norm(self.inside(inputs)).relu())


def late(seeds=(5, 9)) -> dict:
    """Checkpoints of which none is the first."""
    found = {}
    for seed in seeds:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = Normed()
            net(torch.randn(20, 4))  # moves the running statistics
            found[seed] = copy.deepcopy(net.state_dict())
    return found


PAIR = (torch.linspace(-1, 1, 48).reshape(12, 4), torch.arange(12) % 3)


def test_without_the_start_values_are_drawn_but_not_put_back():
    net = Normed()
    with pytest.raises(CheckpointError, match=r"epoch 0 was not recorded; there is 5, 9. Without"):
        sweep(net, PAIR, late(), epochs=[0])
    ds = sweep(net, PAIR, late())
    assert np.isfinite(ds["value"].sel(perturbation="rerandomize", epoch=-1)).all()
    assert ds.attrs["distance_from"] == 5
    assert "epoch 5, the first checkpoint recorded" in ds["distance"].attrs["long_name"]
    assert "epoch 5" in ds["draw_distance"].attrs["long_name"]
    whole = sweep(net, PAIR, {0: late()[5], 9: late()[9]})
    assert whole["distance"].attrs["long_name"].endswith("epoch 0, the first checkpoint")
    assert results.settings(whole)["distance_from"] == 0


def test_without_the_start_running_statistics_begin_as_the_module_resets_them():
    net, series = Normed(), layerscope.Series(late())
    net.initializers = {n: lambda t, g: t.normal_(generator=g) for n, _ in net.named_parameters()}
    fresh = perturb.Redraw(net, series.fit(net))
    (norm,) = layers.select(layers.find(net), ["norm"])
    drawn = fresh.draw(norm, torch.Generator().manual_seed(0))
    assert torch.equal(drawn["norm.running_mean"], torch.zeros(6))
    assert torch.equal(drawn["norm.running_var"], torch.ones(6))
    assert drawn["norm.num_batches_tracked"] == 0
    known = perturb.Redraw(net, layerscope.Series({0: late()[5], 9: late()[9]}).fit(net))
    drawn = known.draw(norm, torch.Generator().manual_seed(0))
    assert torch.equal(drawn["norm.running_mean"], late()[5]["norm.running_mean"])


def test_without_the_start_a_buffer_that_changes_is_not_guessed():
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("mask", torch.ones(3, dtype=torch.bool))

    net = Counting()
    net.initializers = {n: lambda t, g: t.normal_(generator=g) for n, _ in net.named_parameters()}
    states = {epoch: copy.deepcopy(net.state_dict()) for epoch in (3, 4)}
    ds = sweep(net, PAIR, states, whole=False)
    assert np.isfinite(ds["value"].sel(perturbation="rerandomize", epoch=-1)).all()
    states[4]["seen"] += 1
    with pytest.raises(LayerError, match="the buffer seen was before training: epoch 0 was not"):
        sweep(net, PAIR, states)


def test_checkpoints_say_in_what_they_are_counted(few_digits, tmp_path):
    series = train("fcn-1x4", few_digits, tmp_path, steps=(3,))
    ds = sweep(models.rebuild(series), few_digits.test, series)
    assert ds["epoch"].attrs["units"] == "step"
    assert "step 0, the first checkpoint" in ds["distance"].attrs["long_name"]
    plain = train("fcn-1x4", few_digits, tmp_path)
    assert sweep(models.rebuild(plain), few_digits.test, plain)["epoch"].attrs["units"] == "epoch"


# What can't be read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(content, message, tmp_path):
    (tmp_path / "epoch-0.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"(?s)epoch-0.pt.*{message}"):
        sweep(models.build("fcn-1x4"), PAIR, tmp_path)


def test_a_pickle_of_anything_else_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"weight": Bomb()}, tmp_path / "epoch-0.pt")
    with pytest.raises(CheckpointError, match=r"epoch-0\.pt"):
        sweep(models.build("fcn-1x4"), PAIR, tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("change", ["cut", "altered"])
def test_a_checkpoint_that_changed_is_not_swept(few_digits, tmp_path, change):
    series = train("fcn-1x4", few_digits, tmp_path)
    path = series.folder / "epoch-0001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content) if change == "altered" else bytes(content[:-9]))
    with pytest.raises(CheckpointError, match=r"epoch-0001\.safetensors"):
        sweep(models.build("fcn-1x4"), few_digits.test, series.folder)


def test_too_little_memory_is_said_before_it_is_taken(folders, monkeypatch):
    monkeypatch.setattr("layerscope.base.memory.available", lambda: 1000)
    with pytest.raises(DataError, match=r"needs about .* Leave them in their files \(str"):
        data.load(folders, image_size=32, stream=False)
    assert len(data.load(folders, image_size=32).train) == 24


# The command line


def test_text_from_training_to_table_on_the_command_line(tmp_path, capsys):
    out = str(tmp_path / "series")
    known = "python-docs+vocab=300+length=8+lines=60+test_size=40@0"
    command = ["train", "transformer-16x1", "--data", known, "--epochs", "1", "--out", out]
    recipe = "--optimizer adamw --lr 1e-3 --schedule cosine --warmup 0.5 --clip 1"
    command += [*recipe.split(), "--option", "dropout=0.1", "--record-steps", "1"]
    assert main([*command, "--frozen", "block1.q"]) == 0
    folder, scores = capsys.readouterr().out.splitlines()
    assert "steps 0, 1, 2; " in scores
    assert ", perplexity " in scores
    about = open_series(folder).manifest
    assert about["network"]["dropout"] == 0.1
    asked = {"optimizer": "adamw", "clip": 1.0, "warmup": 0.5, "frozen": ["block1.q"]}
    assert asked.items() <= about["recipe"].items()
    options = "--view block --perturbations zero noise(0.1) --metrics perplexity --draws 2"
    more = "--no-whole --norms kept --epochs 0 --seed 3"
    assert main(["sweep", folder, *options.split(), *more.split()]) == 0
    assert "perplexity with one layer perturbed" in capsys.readouterr().out
    ds = results.open_dataset(f"{folder}/sweep")
    assert list(ds["perturbation"].values) == ["zero", "noise(0.1)"]
    assert "fullmodel" not in ds["layer"].values
    assert results.settings(ds)["batch_size"] == 128
    assert results.settings(ds)["seed"] == 3


def test_data_that_changed_since_are_taken_only_by_name(few_digits, tmp_path, capsys):
    series = train("fcn-1x4", few_digits, tmp_path)
    folder = str(series.folder)
    assert main(["sweep", folder]) == 1
    assert "mnist-5k is not what the series was trained on" in capsys.readouterr().err
    command = ["sweep", folder, "--data", "mnist-5k+test_size=50@0", "--decide", "0.05"]
    assert main([*command, "--outcomes", "--dtype", "bfloat16", "--layers", "layer2"]) == 0
    assert (series.folder / "sweep" / "outcomes.nc").is_file()
    settings = results.settings(results.open_dataset(f"{folder}/sweep"))
    assert settings["dtype"] == "bfloat16"
    assert settings["stopping"]["robust"] == 0.05


def test_what_was_removed_from_a_network_is_missing_from_its_series(tmp_path, capsys):
    command = ["train", "fcn-3x8", "--data", "mnist-5k+size=60@0", "--epochs", "1"]
    assert main([*command, "--out", str(tmp_path), "--option", "removed=layer2"]) == 0
    series = open_series(capsys.readouterr().out.splitlines()[0])
    assert [name for name in series.read(0) if "layer2" in name] == []
    model = models.rebuild(series)
    assert model.config.removed == ("layer2",)
    assert same(model.state_dict(), series.read(1))


def test_networks_are_listed(capsys):
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    for family in models.FAMILIES.values():
        assert family.example in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--optimizer", "sdg"], "Did you mean 'sgd'"),
        (["--warmup", "9"], "shorter than the training"),
        (["--augment", "shfit"], "Did you mean 'shift'"),
        (["--option", "dropuot=1"], "no network option 'dropuot'"),
        (["--option", "width"], "write --option name=value"),
        (["--data-option", "vocab=9"], "takes no option 'vocab'"),
    ],
)
def test_mistakes_in_a_recipe_get_one_line(more, message, tmp_path, capsys):
    assert main(["train", "fcn-1x4", "--epochs", "2", "--out", str(tmp_path), *more]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
