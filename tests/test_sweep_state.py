"""What a network carries from batch to batch: noticed and refused, or without any effect."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import layerscope
from layerscope import metrics
from layerscope.core.running import find_logits
from layerscope.core.session import Session
from layerscope.errors import LayerscopeError


class ActNorm(nn.Module):
    """Sets its shift and scale from the first batch that it sees (Kingma & Dhariwal, 2018)."""

    def __init__(self, flag: str, holder: str = "parameter") -> None:
        super().__init__()
        for name, value in (("loc", torch.zeros(8)), ("scale", torch.ones(8))):
            if holder == "parameter":
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.initialized = False
        if flag == "buffer":
            del self.initialized
            self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, inputs):
        if not bool(self.initialized):
            self.loc.data.copy_(-inputs.mean(0))
            self.scale.data.copy_(1 / (inputs.std(0) + 1e-6))
            if torch.is_tensor(self.initialized):
                self.initialized.fill_(1)
            else:
                self.initialized = True
        return self.scale * (inputs + self.loc)


def network(seed, layer):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), layer(), nn.ReLU(), nn.Linear(8, 3))


GENERATOR = torch.Generator().manual_seed(0)
PAIR = torch.randn(48, 4, generator=GENERATOR), torch.randint(3, (48,), generator=GENERATOR)


def sweep(model, states, batch_size=16, **options):
    options = {"perturbations": ["reinitialize"], "epochs": [0], "device": "cpu"} | options
    return layerscope.sweep(
        model, PAIR, checkpoints=states, batch_size=batch_size, show_progress=False, **options
    )


def recorded(layer, *, ran: bool):
    start, end = network(0, layer), network(1, layer)
    states = {0: copy.deepcopy(start.state_dict())}
    if ran:
        end.eval()(PAIR[0][:16])
    return states | {1: copy.deepcopy(end.state_dict())}


@pytest.mark.parametrize("flag", ["buffer", "attribute"])
@pytest.mark.parametrize("holder", ["parameter", "buffer"])
def test_a_network_that_initialises_itself_is_refused_and_left_alone(flag, holder):
    def layer():
        return ActNorm(flag, holder)

    states = recorded(layer, ran=False)
    model = network(2, layer)
    model.load_state_dict(states[1])  # whose memory is lent as it is
    before = copy.deepcopy(model.state_dict())
    for use in (sweep, lambda m, s: Session(m, PAIR, checkpoints=s, batch_size=16, device="cpu")):
        with pytest.raises(LayerscopeError, match="initialises itself from the first batch"):
            use(model, states)
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
        assert not bool(model[1].initialized)


def test_a_cell_that_initialises_itself_is_refused(tmp_path):
    def layer():
        return ActNorm("buffer")

    states, model = recorded(layer, ran=True), network(2, layer)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LayerscopeError, match="1 under reinitialize initialises itself"):
        sweep(model, states, out=tmp_path)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    with (
        Session(model, PAIR, checkpoints=states, batch_size=16, device="cpu") as live,
        pytest.raises(LayerscopeError, match="initialises itself"),
    ):
        live.measure({"1": ("reinitialize", 0)})
    # The others are as they should be, and with a single batch it is too.
    for options in ({"layers": ["0", "3"], "whole": False}, {"batch_size": 48}):
        ds = sweep(model, states, **options)
        for row in ds["layer"].values:
            plain = network(3, layer)
            changed = {n: t for n, t in states[0].items() if n.startswith(f"{row}.")}
            plain.load_state_dict(states[1] | (states[0] if row == "fullmodel" else changed))
            size = options.get("batch_size", 16)
            right = metrics.evaluate(plain, PAIR, ["loss"], size, "cpu")["loss"].mean
            assert float(ds["value"].sel(layer=row, metric="loss").squeeze()) == right


class Counting(nn.Module):
    """Counts, keeps tables and the last input: nothing that an answer hangs on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("table", torch.ones(0, 8), persistent=False)
        self.weight = nn.Parameter(torch.ones(8))
        self.last, self.cache = None, {}

    def forward(self, inputs):
        self.seen += len(inputs)
        self.last = inputs
        if len(self.table) < len(inputs):
            self.table = torch.arange(8.0).expand(len(inputs), 8)
        self.cache.setdefault(len(inputs), torch.full((8,), 2.0))
        return (inputs + self.table[: len(inputs)]) * self.cache[len(inputs)] * self.weight


class Constrained(nn.Linear):
    """Bounds the norm of its rows in every pass, as EEGNet does."""

    def __init__(self, in_place: bool) -> None:
        super().__init__(8, 8)
        self.in_place = in_place

    def forward(self, inputs):
        bounded = torch.renorm(self.weight.data, 2, 0, 0.25)
        if self.in_place:
            self.weight.data.copy_(bounded)
        else:
            self.weight.data = bounded
        return super().forward(inputs)


class Gathering(nn.Module):
    """Answers with the mean of all that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.count = torch.zeros(8), 0

    def forward(self, inputs):
        self.total, self.count = self.total + inputs.sum(0), self.count + len(inputs)
        return inputs - self.total / self.count


HARMLESS = {
    "counts": Counting,
    "bounds by another tensor": lambda: Constrained(in_place=False),
    "bounds in place": lambda: Constrained(in_place=True),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
    "batch norm": lambda: nn.BatchNorm1d(8),
    "batch norm without statistics": lambda: nn.BatchNorm1d(8, track_running_stats=False),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_what_no_answer_hangs_on_is_no_false_alarm(what):
    layer = HARMLESS[what]
    states, model = recorded(layer, ran=True), network(2, layer)
    before = copy.deepcopy(model.state_dict())
    ds = sweep(model, states, perturbations=["reinitialize", "rerandomize"])
    assert bool(ds["value"].notnull().any())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_one_that_gathers_is_refused():
    with pytest.raises(LayerscopeError, match="keeps something of a batch in evaluation mode"):
        sweep(network(2, Gathering), recorded(Gathering, ran=True))


def test_one_that_gathers_is_refused_with_its_own_weights_as_well():
    with pytest.raises(LayerscopeError, match="keeps something of a batch in evaluation mode"):
        sweep(network(2, Gathering), None, perturbations=["zero"], epochs=None)


def pictures(name):
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=5), torch.randn(
        4, 3, 64, 64
    )


def timmed(name):
    import timm

    return timm.create_model(name, num_classes=5, img_size=64), torch.randn(4, 3, 64, 64)


def texts(name):
    import transformers

    sizes = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40,
        "intermediate_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "dim": 16,
        "hidden_dim": 32, "n_heads": 2, "n_layers": 2, "num_key_value_heads": 2, "ffn_dim": 32,
        "word_embed_proj_dim": 16, "pad_token_id": 0, "head_dim": 8,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(name)
    known = {key: value for key, value in sizes.items() if hasattr(config, key)}
    config = transformers.AutoConfig.for_model(name, **known)
    kind = transformers.AutoModelForCausalLM
    if name in ("bert", "distilbert", "roberta", "electra"):
        kind = transformers.AutoModelForMaskedLM
    return kind.from_config(config), torch.randint(1, 40, (4, 6))


FOREIGN = [
    *((pictures, name) for name in (
        "alexnet", "vgg11_bn", "resnet18", "squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small",
        "shufflenet_v2_x0_5", "mnasnet0_5", "efficientnet_b0", "regnet_y_400mf", "densenet121",
        "swin_t",
    )),
    *((timmed, name) for name in (
        "vit_tiny_patch16_224", "mixer_s32_224", "deit_tiny_patch16_224",
    )),
    *((texts, name) for name in (
        "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "opt", "bert", "distilbert", "roberta",
    )),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("made", "name"), FOREIGN)
def test_networks_of_others_are_no_false_alarm(made, name):
    torch.manual_seed(0)
    model, inputs = made(name)
    with torch.no_grad():
        shape = find_logits(model.eval()(inputs)).shape[:-1]
    targets = inputs.roll(-1, 1) if made is texts else torch.zeros(shape, dtype=torch.long)
    batches = list(zip(inputs.split(2), targets.split(2), strict=True))
    states = {0: copy.deepcopy(model.state_dict()), 1: copy.deepcopy(model.state_dict())}
    for tensor in states[0].values():
        if tensor.is_floating_point():
            tensor.mul_(0.9)
    with Session(model, batches, checkpoints=states, device="cpu", metrics=["loss"]) as live:
        row = live.rows()[1].name
        assert live.measure({row: ("reinitialize", 0)}).final


class Writing(nn.Module):
    """Adds to its weights in every pass, past PyTorch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(8))

    def forward(self, inputs):
        memory = self.shift.detach().numpy()
        memory += 1
        return inputs + self.shift


@pytest.mark.parametrize("alone", [False, True], ids=["checkpoints", "its own weights"])
def test_one_that_writes_to_its_weights_is_found_by_a_single_batch(alone):
    """No later batch shows it, and no log does: the values are compared."""
    model = network(2, Writing)
    states = None if alone else recorded(Writing, ran=False)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LayerscopeError, match=r"writes to its weights \(1\.shift\)"):
        sweep(model, states, batch_size=48, perturbations=["zero"], epochs=None)
    # Of a network that came alone the weights are where it wrote to, and nowhere else.
    same = (torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert alone or all(same)


class Looking(Writing):
    """Goes past PyTorch as well, and leaves its weights alone."""

    def forward(self, inputs):
        return inputs + float(self.shift.detach().numpy()[0])


def test_one_that_only_looks_past_pytorch_is_swept():
    ds = sweep(network(2, Looking), recorded(Looking, ran=False), batch_size=48)
    assert bool(ds["value"].notnull().any())
    assert "numpy" in json.loads(ds.attrs["reuse"])["refusal"]
