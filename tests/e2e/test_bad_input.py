"""What a user may get wrong: one message that says what was wanted, what was found and what to do; nothing half-written."""
import pathlib
import shutil
import subprocess

import pytest
from program import PROGRAM, environment, newest_checkpoint, run, tiny_faces, write_config


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of faces, a configuration and a finished run of two ranks, made once."""
    folder = tmp_path_factory.mktemp("base")
    faces = tiny_faces(folder / "faces")
    config = write_config(folder, faces)
    run(["train", config, "trainer.steps=2"], 2)
    return folder


def fails(args, *words, ranks=1, code=1, **more):
    done = run(args, ranks, check=False, **more)
    said = done.stdout + done.stderr
    assert done.returncode == code, f"exit code {done.returncode}, wanted {code}\n{said}"
    for word in words:
        assert word in said, f"'{word}' is not in:\n{said}"
    assert "Traceback" not in said and "terminate called" not in said and "core dumped" not in said
    if ranks > 1:
        assert sum(f"[rank {r}] " in line and "warning" not in line for line in said.splitlines() for r in range(ranks)) == 1, said
    return said


def train(base, *overrides):
    return ["train", base / "config.yaml", f"run={base}/bad", *overrides]


@pytest.fixture(autouse=True)
def no_run_folder(base):
    yield
    left = (base / "bad").exists()
    shutil.rmtree(base / "bad", ignore_errors=True)
    assert not left, "a refused run leaves nothing"


@pytest.mark.parametrize("ranks", [1, 2])
def test_mistyped_key_names_file_line_and_suggestion(base, tmp_path, ranks):
    file = tmp_path / "typo.yaml"
    file.write_text((base / "config.yaml").read_text().replace("margin:", "margni:"))
    fails(["train", file, f"run={base}/bad"], "typo.yaml:5", "margni", "did you mean 'margin'", ranks=ranks)


def test_values(base):
    fails(train(base, "loss.margin=7"), "loss.margin", "7")
    fails(train(base, "optimizer.lr=abc"), "optimizer.lr", "abc")
    fails(train(base, "trainer.precision=fp8"), "fp8", "bf16")
    fails(train(base, "trainer.precision=fp16"), "fp16 runs on CUDA only")
    fails(train(base, "model.name=iresnet19"), "iresnet19", "did you mean 'iresnet18'")


def test_data(base, tmp_path):
    fails(train(base, "data.train=sets/absent"), "sets/absent")
    (tmp_path / "empty").mkdir()
    fails(train(base, f"data.train=folder:{tmp_path}/empty"), str(tmp_path / "empty"))
    fails(train(base, "data.batch_size=1000"), "1000", "48 samples")
    fails(train(base, "classifier.classes=3"), "classifier.classes is 3")
    fails(train(base, "data.size=40"), "40", "32", "data.fit")
    fails(train(base, "data.batch_size=1"), "every rank needs one", ranks=2)


def pack(base, out):
    run(["shards", "pack", "--out", out, base / "faces"])
    return sorted(pathlib.Path(out).glob("*.h5"))


def test_damaged_shards_name_shard_and_sample(base, tmp_path):
    shard = pack(base, tmp_path / "set")[0]
    import h5py
    with h5py.File(shard) as file:
        place = file["images/bytes"].id.get_offset() + int(file["images/offset"][17]) + 20
    with open(shard, "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 255]))
    fails(["shards", "verify", tmp_path / "set"], shard.name, "17")
    fails(["train", base / "config.yaml", f"run={tmp_path}/reads", f"data.train={tmp_path}/set", "trainer.steps=8"], shard.name, "17")
    done = run(["train", base / "config.yaml", f"run={tmp_path}/skips", f"data.train={tmp_path}/set", "data.corrupt=skip",
                "trainer.steps=8"], 2)
    assert "skip" in (done.stdout + done.stderr).lower(), "skips are reported"
    shutil.copy(shard, tmp_path / "future.h5")
    with h5py.File(tmp_path / "future.h5", "r+") as file:
        file.attrs["version"] = 99
    fails(["shards", "info", tmp_path / "future.h5"], "version 99", "future.h5")


def test_run_folder(base):
    fails(["train", base / "config.yaml"], "already exists", "--resume")
    fails(["train", "--resume", base / "nowhere"], "nowhere", "config.yaml")
    fails(["train", base / "config.yaml", "run="], "run")


def test_run_folder_that_cannot_be_made(base):
    fails(["train", base / "config.yaml", "run=/proc/nope/run"], "/proc/nope", ranks=2)


def test_checkpoint_of_another_network(base):
    said = fails(["train", "--resume", base / "run", "model.width=0.125", "trainer.steps=4"], "has shape")
    assert "model.width" in said
    fails(["train", "--resume", base / "run", "optimizer.name=adamw", "trainer.steps=4"], "another network, loss or optimizer")


def test_truncated_checkpoint(base, tmp_path):
    shutil.copytree(base / "run", tmp_path / "run")
    file = newest_checkpoint(tmp_path / "run") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    fails(["train", "--resume", tmp_path / "run", "trainer.steps=4"], "model.safetensors")


def test_non_finite_loss_ends_the_run(base, tmp_path):
    args = ["train", base / "config.yaml", f"run={tmp_path}/nan", "optimizer.lr=1e300", "schedule.name=constant", "trainer.steps=50"]
    fails(args, "not finite", "10 steps in a row", ranks=2)


def test_ranks_with_different_configurations(base):
    words = [PROGRAM, "train", str(base / "config.yaml"), f"run={base}/bad"]
    done = subprocess.run(["mpirun", "--bind-to", "none", "--oversubscribe", "-np", "1", *words, ":", "-np", "1", *words, "seed=2"],
                          env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "configuration" in done.stderr and "rank 1" in done.stderr, done.stderr


def test_wrong_usage_is_2(base):
    fails(["train"], code=2)
    fails(["nonsense"], code=2)
    fails(["train", base / "config.yaml", "second.yaml"], "one configuration file", code=2)
    fails(["eval"], code=2)
    for words in (["--help"], ["train", "--help"], ["shards", "--help"], ["shards", "synth", "--help"], ["shards", "pack", "--help"],
                  ["shards", "info", "--help"], ["shards", "verify", "--help"], ["eval", "--help"], ["embed", "--help"],
                  ["export", "--help"], ["list", "--help"]):
        said = run(words).stdout
        assert "xample" in said and "facetrain" in said.split("xample", 1)[1], f"{words} has no worked example"


def test_disk_full_while_saving(base, tmp_path):
    """A file size limit stands for a full disk: the checkpoint fails with a warning, training goes on to the end."""
    script = f"ulimit -f 30; exec {PROGRAM} train {base}/config.yaml run={tmp_path}/full trainer.steps=3 checkpoint.every=1"
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr  # the last checkpoint is what the run is for
    assert "model.safetensors" in done.stderr and "training goes on" in done.stderr, done.stderr
    assert len((tmp_path / "full" / "metrics.jsonl").read_text().splitlines()) == 3
    assert newest_checkpoint(tmp_path / "full") is None and not list((tmp_path / "full").glob("*.tmp"))


def test_eval_embed_export_refuse_a_run_without_checkpoint(base, tmp_path):
    shutil.copytree(base / "run", tmp_path / "run")
    shutil.rmtree(newest_checkpoint(tmp_path / "run"))
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("fold,i,j,same\n0,0,1,1\n0,0,9,0\n1,2,3,1\n1,2,20,0\n")
    fails(["eval", tmp_path / "run", "--images", base / "faces", "--pairs", pairs], "no checkpoint")
    fails(["embed", tmp_path / "run", base / "faces", "-o", tmp_path / "e.h5"], "no checkpoint")
    fails(["export", tmp_path / "run", "--to", "safetensors", "-o", tmp_path / "m.safetensors"], "no checkpoint")
    assert not (tmp_path / "e.h5").exists() and not (tmp_path / "m.safetensors").exists()
