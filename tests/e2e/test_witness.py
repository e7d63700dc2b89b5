"""Training agrees with plain PyTorch, step for step: losses, weights, running statistics, optimizer state, averages.

Each case trains the same tiny IResNet on the same 64 images by `facetrain train` and by witness_model.py, from the
initial checkpoint that `trainer.steps=0` wrote. Tolerances (DESIGN section 3): fp64, five steps: losses 1e-8, tensors 1e-6,
relative to max(1, |value|); fp32, the first step: losses, weights and statistics 1e-5 in the same way, gradients (as the
optimizer's state keeps them, and their norm) 5e-5 of the tensor's largest value: PyTorch's batch norm in channels_last, which
the program trains in, leaves 2e-5 in the activations here.

In fp32 the gradient of this network is not a continuous function at that accuracy: with slopes of 0.25 one of 800,000
inputs of PReLUs lies 1.3e-7 from zero, carries 1.3 % of layer1's gradient, and PyTorch's own kernels put it on either side
depending on the memory format (measured). So the fp32 cases start, through model.init, from slopes of 1, where a PReLU has
no kink; fp64 covers the kink. AdamW divides gradients that are zero but for rounding by their own size: fp32 takes an eps
above them.
"""
import copy
import json

import numpy
import pytest
import safetensors.numpy
from program import metrics, newest_checkpoint, run, tensors, tiny_faces
from witness_model import Witness

STEPS = 5
IMAGES = 64
SGD = {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}
ADAMW = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
ARCFACE = {"name": "arcface", "margin": 0.5, "scale": 64, "fallback": "hard", "gradient": "exact"}
COSFACE = {"name": "cosface", "margin": 0.4, "scale": 64}
STATES = (".momentum", ".exp_avg", ".exp_avg_sq")
LOSSES = {"arcface": ARCFACE, "cosface": COSFACE}
OPTIMIZERS = {"sgd": SGD, "adamw": ADAMW}
# Batch norm as a whole; the witness knows it by this name.
FROZEN_NORMS = ["*bn[123].*", "*downsample.1.*", "*features.*"]

# Beyond the four of the issue: what differs, and the ranks.
VARIANTS = {
    "fallback": (1, {"loss": {**ARCFACE, "margin": 1.5}}),
    "easy_margin": (2, {"loss": {**ARCFACE, "fallback": "easy"}}),
    "straight_through": (2, {"loss": {**ARCFACE, "gradient": "straight_through"}}),
    "softmax": (2, {"loss": {"name": "softmax"}, "optimizer": {**SGD, "lr": 0.01}}),
    "uneven_batches": (2, {"data": {"batch_size": 25}, "loss": COSFACE}),
    "three_ranks": (3, {"data": {"batch_size": 31}, "optimizer": ADAMW}),
    "nesterov_poly": (2, {"optimizer": {**SGD, "nesterov": True},
                          "schedule": {"name": "poly", "warmup": 2, "power": 2, "final": 0.1}}),
    "cosine": (2, {"schedule": {"name": "cosine", "warmup": 1, "final": 0.2}}),
    "milestones": (1, {"schedule": {"name": "step", "warmup": 1, "milestones": [2, 4], "gamma": 0.3}}),
    "no_decay": (2, {"optimizer": {**SGD, "weight_decay": 0.1, "no_decay": ["rank<2"]}}),
    "no_decay_adamw": (2, {"optimizer": {**ADAMW, "weight_decay": 0.5, "no_decay": ["rank<2"]}}),
    "clip": (2, {"trainer": {"clip": 0.5}}),
    "clip_replicated": (2, {"trainer": {"clip": 0.5, "clip_scope": "replicated"}}),
    "ema": (2, {"trainer": {"ema": 0.3}}),
    "accumulate_without_batch_statistics": (2, {"trainer": {"accumulate": 2, "freeze": FROZEN_NORMS, "ema": 0.9, "clip": 1}}),
    "accumulate_with_batch_statistics": (2, {"trainer": {"accumulate": 2}}),
    "local_batch_norm": (2, {"model": {"batch_norm": "local"}}),
    "local_batch_norm_accumulate": (2, {"model": {"batch_norm": "local"}, "trainer": {"accumulate": 3}, "optimizer": ADAMW}),
    "positives_only_sparse": (2, {"data": {"batch_size": 24}, "classifier": {"sample_rate": 0, "rows": "sparse"}}),
    "positives_only_dense": (2, {"data": {"batch_size": 24}, "classifier": {"sample_rate": 0, "rows": "dense"}}),
    "positives_only_sparse_adamw": (2, {"data": {"batch_size": 24}, "classifier": {"sample_rate": 0, "rows": "sparse"},
                                        "optimizer": ADAMW}),
}


SGD_FP32, ADAMW_FP32 = {**SGD, "lr": 0.005}, {**ADAMW, "eps": 0.1}


def configuration(faces, changes, precision):
    config = {
        "seed": 7,
        "data": {"train": f"folder:{faces}", "size": 32, "batch_size": IMAGES, "workers": 1, "flip": False,
                 "sampler": {"name": "sequential"}, "normalize": "face"},
        "model": {"name": "iresnet18", "width": 0.0625, "embedding": 16, "batch_norm": "sync"},
        "loss": ARCFACE,
        "classifier": {"sample_rate": 1, "rows": "sparse"},
        "optimizer": SGD,
        "schedule": {"name": "constant"},
        "trainer": {"steps": STEPS, "precision": precision, "threads": 1},
        "checkpoint": {"every": 0},
        "log": {"every": 1},
    }
    for section, values in changes.items():
        config[section] = values if "name" in values else {**config[section], **values}
    return config


def train(config, folder, ranks, *overrides):
    """A JSON file is a YAML file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".yaml")
    file.write_text(json.dumps(config))
    run(["train", file, f"run={folder}", *overrides], ranks, timeout=120)
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tiny_faces(tmp_path_factory.mktemp("faces"), identities=8, images=8, size=32)
    assert len(list(folder.rglob("*.ppm"))) == IMAGES
    return folder


@pytest.fixture(scope="module")
def initial(faces, tmp_path_factory):
    """Tensors of the initial checkpoint: the same for every case, as they depend on seed, network and precision only."""
    kept = {}

    def start(config):
        key = (config["trainer"]["precision"], config["loss"]["name"] == "softmax", json.dumps(config["model"]))
        if key not in kept:
            folder = train(config, tmp_path_factory.mktemp("initial") / "run", 1, "trainer.steps=0")
            assert newest_checkpoint(folder).name == "step_000000000"
            kept[key] = tensors(newest_checkpoint(folder))
        return kept[key]

    return start


def for_witness(config):
    config = copy.deepcopy(config)
    if "freeze" in config["trainer"]:
        assert config["trainer"]["freeze"] == FROZEN_NORMS
        config["trainer"]["freeze"] = "batch_norm"
    return config


def assert_close(ours, theirs, tolerance, exact):
    """Every tensor, by name; the message lists the worst."""
    assert ours.keys() == theirs.keys(), sorted(ours.keys() ^ theirs.keys())
    off = {}
    for name, wanted in theirs.items():
        found, wanted = ours[name].astype(numpy.float64), wanted.astype(numpy.float64)
        assert found.shape == wanted.shape, name
        assert numpy.isfinite(found).all(), name
        scale = numpy.maximum(1, abs(wanted))
        if not exact and name.endswith(STATES):
            scale = 5 * scale.max(initial=1)
        off[name] = float((abs(found - wanted) / scale).max(initial=0))
    worst = sorted(off.items(), key=lambda item: -item[1])
    print(f"worst of {len(off)} tensors: {worst[0][1]:.1e} {worst[0][0]}")
    assert worst[0][1] <= tolerance, [f"{name}: {value:.1e}" for name, value in worst if value > tolerance][:12]


def assert_lines(folder, witness, tolerance):
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [line["step"] for line in witness.lines]
    for ours, theirs in zip(lines, witness.lines):
        print({name: (ours[name], theirs[name]) for name in ("loss", "lr", "gradient_norm")})
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=tolerance, abs=tolerance), ours["step"]
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=5 * tolerance), ours["step"]
        assert ours["lr"] == pytest.approx(theirs["lr"], rel=1e-12), ours["step"]


@pytest.fixture(scope="module")
def without_kinks(faces, initial, tmp_path_factory):
    """The initial weights in fp32 with all PReLU slopes at 1, as a file for model.init."""
    start = initial(configuration(faces, {}, "fp32"))
    weights = {name[len("backbone."):]: value for name, value in start.items()
               if name.startswith("backbone.") and not name.endswith(STATES)}
    slopes = [name for name in weights if name.endswith("prelu.weight")]
    assert len(slopes) == 1 + 8
    for name in slopes:
        weights[name] = numpy.ones_like(weights[name])
    file = tmp_path_factory.mktemp("weights") / "without_kinks.safetensors"
    safetensors.numpy.save_file(weights, file)
    return str(file)


def compare(config, faces, initial, folder, ranks):
    train(config, folder, ranks)
    witness = Witness(for_witness(config), initial(config), faces)
    local = config["model"]["batch_norm"] == "local"
    witness.train(config["trainer"]["steps"], ranks if local else 1)
    checkpoint = newest_checkpoint(folder)
    assert checkpoint.name == f"step_{config['trainer']['steps']:09d}"
    assert len(list(checkpoint.glob("rows_*.safetensors"))) == ranks
    exact = config["trainer"]["precision"] == "fp64"
    assert_lines(folder, witness, 1e-8 if exact else 1e-5)
    ours = tensors(checkpoint)
    wanted_type = numpy.float64 if exact else numpy.float32
    assert all(value.dtype == (numpy.int64 if name.endswith("num_batches_tracked") else wanted_type) for name, value in ours.items())
    assert_close(ours, witness.tensors(), 1e-6 if exact else 1e-5, exact)
    return witness


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_five_steps_in_fp64(loss, optimizer, ranks, faces, initial, tmp_path):
    config = configuration(faces, {"loss": LOSSES[loss], "optimizer": OPTIMIZERS[optimizer]}, "fp64")
    witness = compare(config, faces, initial, tmp_path / "run", ranks)
    start = initial(config)
    moved = max(abs(value - start[name]).max() for name, value in witness.tensors().items() if name in start)
    assert moved > 1e-3, "five steps are to move the weights by far more than the tolerance"


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_first_step_in_fp32(loss, optimizer, ranks, faces, initial, without_kinks, tmp_path):
    changes = {"loss": LOSSES[loss], "optimizer": {"sgd": SGD_FP32, "adamw": ADAMW_FP32}[optimizer], "trainer": {"steps": 1}}
    config = configuration(faces, changes, "fp32")
    config["model"]["init"] = without_kinks
    compare(config, faces, initial, tmp_path / "run", ranks)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_in_fp64(variant, faces, initial, tmp_path):
    ranks, changes = VARIANTS[variant]
    config = configuration(faces, changes, "fp64")
    witness = compare(config, faces, initial, tmp_path / "run", ranks)
    if variant == "fallback":
        assert 0 < witness.fell_back < witness.rows_seen, "both branches of the hard fall-back are to be used"
    if variant.startswith("clip"):
        assert any(line["gradient_norm"] > config["trainer"]["clip"] for line in witness.lines), "nothing was clipped"


def test_the_initial_weights_do_not_depend_on_the_ranks(faces, initial, tmp_path):
    config = configuration(faces, {}, "fp64")
    for ranks in (2, 3):
        folder = train(config, tmp_path / f"run{ranks}", ranks, "trainer.steps=0")
        ours, theirs = tensors(newest_checkpoint(folder)), initial(config)
        assert ours.keys() == theirs.keys()
        assert all(numpy.array_equal(ours[name], theirs[name]) for name in theirs)
