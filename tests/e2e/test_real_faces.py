"""Real photographs, end to end: pack, train, evaluate, resume, export on LFW folds 1-2 and ORL.

LFW fold 1 and ORL are trained on (joined, two ranks), the 600 official pairs of fold 2 are other people. Skips visibly where
the research sets are not there (FACETRAIN_SHARED, default ../shared beside the checkout): nobody's use of the program may
depend on them. The short variant runs in CI; the long one, at 112 pixels, is a program of its own:

  FACETRAIN_PYTHON tests/e2e/test_real_faces.py FOLDER [EPOCHS]
"""
import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy
import pytest
from program import SHARED, command, environment, metrics, newest_checkpoint, run, tensors

LFW = SHARED / "data/lfw-folds1-2"
ORL = SHARED / "data/orl"
RANKS = 2


def write_list(file, fold):
    """`path<TAB>label` of all LFW images of a fold; returns (images, people)."""
    with open(LFW / "lfw.csv", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["view2_fold"] == str(fold)]
    labels = {person: label for label, person in enumerate(sorted({row["identity"] for row in rows}))}
    file.write_text("".join(f"{LFW / 'images' / row['identity'] / row['image']}\t{labels[row['identity']]}\n" for row in rows))
    return len(rows), len(labels)


def write_pairs(file, fold):
    """The official pairs of one fold, in the same text form."""
    lines = (LFW / "pairs.txt").read_text().splitlines()
    folds, each = map(int, lines[0].split())
    assert (folds, each, len(lines)) == (2, 300, 1 + 2 * 600)
    chosen = lines[1 + (fold - 1) * 600:1 + fold * 600]
    assert sum(len(line.split("\t")) == 3 for line in chosen) == 300
    file.write_text(f"1\t{each}\n" + "\n".join(chosen) + "\n")
    return {name for line in chosen for name in line.split("\t")[::2] if not name.isdigit()}


def configuration(folder, size, epochs):
    return {
        "run": str(folder / "run"),
        "data": {"train": [str(folder / "lfw-fold1"), str(folder / "orl")], "size": size, "fit": "resize", "batch_size": 64,
                 "workers": 1},
        "model": {"name": "iresnet18", "width": 0.25, "embedding": 128},
        "loss": {"name": "cosface", "margin": 0.1, "scale": 30},
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"name": "poly"},
        "trainer": {"epochs": epochs, "precision": "fp32"},
        "checkpoint": {"every": "1 epochs", "keep": 2},
        "eval": {"every": 0},
        "log": {"every": 10},
    }


def evaluate(folder, model, name):
    out = folder / f"{name}.json"
    run(["eval", model, "--protocol", "pairs", "--images", LFW / "images", "--pairs", folder / "pairs.txt", "--json", out], RANKS)
    return json.loads(out.read_text())


def pack(folder):
    images, people = write_list(folder / "lfw-fold1.tsv", 1)
    tested = write_pairs(folder / "pairs.txt", 2)
    with open(LFW / "lfw.csv", newline="") as table:
        trained = {row["identity"] for row in csv.DictReader(table) if row["view2_fold"] == "1"}
    assert len(trained) == people and not trained & tested, "the test people are to be others"
    run(["shards", "pack", "--out", folder / "lfw-fold1", folder / "lfw-fold1.tsv", "--jobs", 1])
    run(["shards", "pack", "--out", folder / "orl", ORL, "--jobs", 1])
    for name in ("lfw-fold1", "orl"):
        run(["shards", "verify", folder / name, "--jobs", 1])
    assert f"{images} images" in run(["shards", "info", folder / "lfw-fold1"]).stdout
    assert "400 images" in run(["shards", "info", folder / "orl"]).stdout
    return images + 400, people + 40


def train_until(folder, step):
    """Trains on from the initial checkpoint and interrupts by SIGUSR1 once a step is done; returns the step it stopped at."""
    with open(folder / "first.log", "w") as log:
        process = subprocess.Popen(command(["train", "--resume", folder / "run", "trainer.steps=-1"], RANKS), env=environment(),
                                   stdout=log, stderr=subprocess.STDOUT)
        try:
            done = 0
            while done < step and process.poll() is None:
                time.sleep(0.2)
                file = folder / "run/metrics.jsonl"
                complete = file.read_text().split("\n")[:-1] if file.exists() else []
                done = json.loads(complete[-1])["step"] if complete else 0
            process.send_signal(signal.SIGUSR1)
            assert process.wait(300) == 85, (folder / "first.log").read_text()[-3000:]
        finally:
            process.kill()
    return int(newest_checkpoint(folder / "run").name[len("step_"):])


def train_and_judge(folder, size, epochs, report=print):
    """Everything; returns the figures. The run is stopped at half of its epochs and resumed."""
    images, people = pack(folder)
    (folder / "real.yaml").write_text(json.dumps(configuration(folder, size, epochs)))
    run(["train", folder / "real.yaml", "trainer.steps=0"], RANKS)
    before = evaluate(folder, folder / "run", "before")

    stopped = train_until(folder, round(images * epochs / 64 / 2))
    resumed = run(["train", "--resume", folder / "run"], RANKS, timeout=7200)
    assert f"(step {stopped})" in resumed.stdout, "it is to say where it resumed"
    after = evaluate(folder, folder / "run", "after")
    lines = metrics(folder / "run")
    report(f"{images} images of {people} people, {lines[-1]['step']} steps at {size} px: loss {lines[0]['loss']:.2f} -> "
           f"{lines[-1]['loss']:.2f}; pairs of fold 2 (other people): accuracy {before['accuracy']:.4f} -> "
           f"{after['accuracy']:.4f}, AUC {before['auc']:.4f} -> {after['auc']:.4f}; "
           f"{lines[-1]['samples_per_second']:.0f} img/s on {RANKS} ranks")
    return {"images": images, "people": people, "stopped": stopped, "before": before, "after": after, "lines": lines}


def check_export(folder):
    """The exported file holds the checkpoint's network bit for bit, and evaluates like the run."""
    from safetensors import safe_open
    file = folder / "model.safetensors"
    run(["export", folder / "run", "--to", "safetensors", "-o", file])
    with safe_open(file, framework="numpy") as opened:
        exported = {name: opened.get_tensor(name) for name in opened.keys()}
    optimizer = safe_open(newest_checkpoint(folder / "run") / "optimizer.safetensors", framework="numpy").keys()
    network = {name[len("backbone."):]: value for name, value in tensors(newest_checkpoint(folder / "run")).items()
               if name.startswith("backbone.") and name not in optimizer}
    assert exported.keys() == network.keys()
    for name, value in network.items():
        assert exported[name].dtype == value.dtype and numpy.array_equal(exported[name], value), name
    return evaluate(folder, file, "exported")


# The short variant. Measured with 5 epochs: accuracy 0.605 -> 0.758, AUC 0.659 -> 0.824, loss 14.7 -> 2.8.
EPOCHS, SIZE, MARGIN = 4, 64, 0.05


@pytest.mark.skipif(not (LFW / "lfw.csv").exists() or not ORL.exists(),
                    reason=f"real faces: no {LFW} and {ORL}; point FACETRAIN_SHARED at the folder with the research sets")
def test_training_on_real_faces(tmp_path):
    figures = train_and_judge(tmp_path, SIZE, EPOCHS)
    lines, stopped = figures["lines"], figures["stopped"]
    total = round(EPOCHS * figures["images"] / 64)
    assert 0 < stopped < total
    assert [line["step"] for line in lines] == [*range(10, total, 10), total], "each step once, also over the resume"

    mean = lambda part: sum(line["loss"] for line in part) / len(part)
    before_stop, after_stop = [line for line in lines if line["step"] <= stopped], [line for line in lines if line["step"] > stopped]
    assert mean(before_stop[-3:]) < lines[0]["loss"] - 0.5
    assert after_stop[0]["loss"] < lines[0]["loss"] - 0.5, "a resumed run goes on from where it was"
    assert mean(after_stop[-3:]) < mean(before_stop[-3:]) - 0.3

    before, after = figures["before"], figures["after"]
    assert before["pairs"] == after["pairs"] == 600 and before["same"] == 300
    assert after["accuracy"] >= before["accuracy"] + MARGIN
    assert after["auc"] >= before["auc"] + MARGIN

    exported = check_export(tmp_path)
    for name in ("accuracy", "auc", "eer"):
        assert exported[name] == pytest.approx(after[name], abs=1e-12), name


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1])
    place.mkdir(parents=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    train_and_judge(place, size=112, epochs=int(sys.argv[2]) if len(sys.argv) > 2 else 12)
    print({name: value for name, value in check_export(place).items() if name in ("accuracy", "auc", "eer")})
