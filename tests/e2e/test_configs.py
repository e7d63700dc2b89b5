"""Every file of configs/ (configs/base holds what they share) runs for two steps, and opens with its own command.

Data, sizes of batch, images and network, and the device are overridden; what a file says about margins, optimizer, schedule,
clipping, augmentation and sampling runs as it is.
"""
import math

import pytest
from program import ROOT, metrics, newest_checkpoint, run, tiny_faces

CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if "base" not in p.relative_to(ROOT / "configs").parts)
OVERRIDES = ["data.batch_size=8", "data.size=32", "data.fit=resize", "data.workers=1", "device=cpu", "trainer.precision=fp32",
             "trainer.steps=2", "trainer.accumulate=1", "model.width=0.0625", "model.embedding=32",
             "checkpoint.every=0", "eval.every=0", "log.every=1"]


def name_of(config):
    return str(config.relative_to(ROOT))


def has_classifier(config):
    """Only recognition has one, and a section that nobody reads is an error."""
    return config.parent.name == "recognition" and "name: metric_learning" not in config.read_text()


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """As shards: what the files are written for."""
    folder = tmp_path_factory.mktemp("data")
    tiny_faces(folder / "faces", identities=4, images=4, size=48)
    run(["shards", "pack", "--out", folder / "shards", folder / "faces", "--jobs", 1])
    return folder / "shards"


def test_there_are_configurations():
    assert len(CONFIGS) >= 2, CONFIGS


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_it_runs_two_steps(config, faces, tmp_path):
    classes = ["classifier.classes=0"] if has_classifier(config) else []
    if "name: classification" in config.read_text():  # these faces have no other labels
        classes = ["recipe.column=identity", "recipe.classes=0"]
    run(["train", config, f"run={tmp_path}/run", f"data.train={faces}", "eval.sets=[]", *OVERRIDES, *classes])
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2]
    for line in metrics(tmp_path / "run"):
        if "name: simsiam" in config.read_text():  # minus a cosine
            assert -1 <= line["loss"] < 1
        elif "name: sface" in config.read_text():  # a gated sum of cosines, of any sign
            assert math.isfinite(line["loss"]) and line["loss"] != 0
        elif "name: triplet" in config.read_text():  # nothing where every triplet is far enough apart
            assert line["loss"] >= 0
        else:
            assert line["loss"] > 0
    assert newest_checkpoint(tmp_path / "run").name == "step_000000002"


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_it_opens_with_its_command(config):
    """A comment that says what it is, and a line that a user can copy."""
    lines = config.read_text().splitlines()
    comment = lines[:next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert len(comment) >= 2, "wanted what this is, and the command that runs it"
    commands = [line for line in comment if name_of(config) in line]
    assert commands, f"no line of the opening comment names {name_of(config)}"
    assert any("facetrain train" in line or "launch/" in line for line in commands), commands
