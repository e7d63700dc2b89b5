"""What a user may get wrong: one message that says what was wanted, what was found and what to do; nothing half-written."""
import pathlib
import shutil
import subprocess

import pytest
from program import PROGRAM, environment, metrics, newest_checkpoint, run, tiny_faces, write_config


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
    fails(train(base, "data.train=sets/absent"), "command line: data.train: there is no 'sets/absent'", "where facetrain is started: ")
    fails(train(base, "data.train="), "command line: data.train: wanted a value after '=', found nothing")
    fails(["embed", base / "run", base / "faces/id_000/000.ppm", "-o", tmp_path / "e.npy"], "000.ppm' is a picture: give its folder, or list:FILE")
    run(["shards", "pack", "--out", tmp_path / "flat", base / "faces/id_000"])
    fails(train(base, f"data.train={tmp_path}/flat"), "at least two identities, found 0; pack a folder with one sub-folder an identity")
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
    done = run(["train", base / "config.yaml", f"run={tmp_path}/replaces", f"data.train={tmp_path}/set", "data.corrupt=skip",
                "trainer.steps=8"], 2)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "skipped a sample" in line]
    assert len(said) == 2 and all(shard.name in line and "sample 17: wrong checksum" in line for line in said), said
    assert metrics(tmp_path / "replaces")[-1]["skipped_samples"] == 2, "eight steps are two epochs: each meets it once"
    shutil.copy(shard, tmp_path / "future.h5")
    with h5py.File(tmp_path / "future.h5", "r+") as file:
        file.attrs["version"] = 99
    fails(["shards", "info", tmp_path / "future.h5"], "version 99", "future.h5")


def test_labels_of_a_list(base, tmp_path):
    faces = sorted((base / "faces").rglob("*.ppm"))
    (tmp_path / "gaps.tsv").write_text("".join(f"{face}\t{7 * (n // 24)}\n" for n, face in enumerate(faces)))
    missing = "found none of: 1, 2, 3, 4, 5, 6"
    fails(train(base, f"data.train=list:{tmp_path}/gaps.tsv"), "gaps.tsv", missing, "without gaps")
    fails(train(base, f"data.train=list:{tmp_path}/gaps.tsv"), "gaps.tsv", missing, ranks=2)
    fails(["shards", "pack", "--out", tmp_path / "set", tmp_path / "gaps.tsv"], missing, "--allow-gaps")
    assert not (tmp_path / "set").exists()


def test_one_image_identities(base, tmp_path):
    shutil.copytree(base / "faces", tmp_path / "faces")
    shutil.copytree(base / "faces/id_000", tmp_path / "faces/zoe")
    for file in sorted((tmp_path / "faces/zoe").iterdir())[1:]:
        file.unlink()
    fails(["shards", "pack", "--out", tmp_path / "set", tmp_path / "faces", "--min-images", 2], "at least 2 images", "1 of 7",
          "'zoe/000.ppm'", "lower --min-images")
    assert not (tmp_path / "set").exists()
    done = run(["shards", "pack", "--out", tmp_path / "set", tmp_path / "faces"])
    assert "identities with one image: 1 of 7" in done.stdout + done.stderr
    # Two images of each identity in a batch: one image would be its own positive pair.
    fails(train(base, f"data.train={tmp_path}/set", "data.sampler.name=balanced", "data.sampler.images=2"), "two images of each",
          "1 of 7", "sample 48", "--min-images 2")
    assert "identities with one image: 1" in run(["shards", "info", tmp_path / "set"]).stdout


def test_an_image_that_changed_after_it_was_packed(base, tmp_path):
    shutil.copytree(base / "faces", tmp_path / "faces")
    pack = ["shards", "pack", "--out", tmp_path / "set", tmp_path / "faces", "--shard-size", 24]
    run(pack)
    assert "(2 of them complete before)" in run(pack).stdout
    face = tmp_path / "faces/id_003/000.ppm"
    face.write_bytes(face.read_bytes()[:-1] + b"x")
    fails(pack, "set-00001.h5', sample 0", "another version of the image", "remove the shard")


def test_resume_names_the_run_not_a_checkpoint(base, tmp_path):
    newest = newest_checkpoint(base / "run")
    for what in (newest, f"{newest}/", base / "run" / "latest"):
        fails(["train", "--resume", what], f"this names a checkpoint: --resume {base}/run continues from the newest; to start from this "
              f"one: model.init={newest}/model.safetensors", code=2)
    fails(["train", "--resume", tmp_path / "nope"], "no run folder: there is no", "nope")
    fails(["report", tmp_path / "nope"], "no run folder: there is no", "nope")


def test_resume_is_told_one_run_folder(base, tmp_path):
    fails(["train", "--resume", base / "run", f"run={tmp_path}/other"], "run=", "leave it out", code=2)
    moved = tmp_path / "a #1: b"
    shutil.copytree(base / "run", moved)
    run(["train", "--resume", moved, "trainer.steps=3"], 2)
    assert newest_checkpoint(moved).name == "step_000000003"


def test_sections_inside_lists(base):
    for words, wanted in (("eval.sets=[{path: a, pairz: b}]", "'pairs'"), ("optimizer.rules=[{match: a, lr_scal: 1}]", "'lr_scale'"),
                          ("data.train=[{path: a, wieght: 1}]", "'weight'"), ("eval.sets={path: a}", "wanted a list"),
                          ("optimizer.rules=nothing", "wanted a list")):
        fails(["train", base / "config.yaml", "--print-config", words], words.split("=")[0], wanted)


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


def test_disk_full_while_saving(base, tmp_path):
    """A file size limit stands for a full disk: the checkpoint fails with a warning, training goes on to the end."""
    script = f"ulimit -f 30; exec {PROGRAM} train {base}/config.yaml run={tmp_path}/full trainer.steps=3 checkpoint.every=1"
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr  # the last checkpoint is what the run is for
    assert "model.safetensors" in done.stderr and "training goes on" in done.stderr, done.stderr
    assert len((tmp_path / "full" / "metrics.jsonl").read_text().splitlines()) == 3
    assert newest_checkpoint(tmp_path / "full") is None and not list((tmp_path / "full").glob("*.tmp"))


def limited(*words):
    """Runs the program where no file may grow over 30 KiB."""
    script = 'ulimit -f 30; exec "$@"'
    done = subprocess.run(["bash", "-c", script, "bash", PROGRAM, *map(str, words)], env=environment(), capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 1, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_disk_full_leaves_one_message_and_no_file(base, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    many = tmp_path / "many"
    for copy in range(10):
        shutil.copytree(base / "faces", many / str(copy))  # 480 rows of 16 numbers
    assert "model.safetensors" in limited("export", base / "run", "--to", "safetensors", "-o", out / "model.safetensors")
    for name in ("rows.npy", "rows.h5"):
        assert name in limited("embed", base / "run", many, "-o", out / name)
    assert not list(out.iterdir())
    assert "faces-00000.h5" in limited("shards", "synth", "--out", out / "faces", "--identities", 4, "--images", 4, "--seed", 1)
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_places_that_cannot_be_written_are_found_before_the_work(base, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("fold,i,j,same\n0,0,1,1\n0,0,9,0\n1,2,3,1\n1,2,20,0\n")
    evaluation = ["eval", base / "run", "--images", base / "faces", "--pairs", pairs]
    for name in ("e.h5", "e.npy", "e.json", "e.safetensors"):
        words = {"e.json": [*evaluation, "--json"], "e.safetensors": ["export", base / "run", "--to", "safetensors", "-o"]}.get(
            name, ["embed", base / "run", base / "faces", "-o"])
        said = fails([*words, tmp_path / "no" / name], f"no/{name}: there is no folder", "make it first")
        assert "run " not in said and "kfold" not in said, "found before the model is read"
        (tmp_path / name).mkdir()
        fails([*words, tmp_path / name], name, "is a folder")
    fails([*evaluation, "--json", tmp_path / "no/e.json"], "there is no folder", ranks=2)


def test_options_that_would_do_nothing(base, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("fold,i,j,same\n0,0,1,1\n0,0,9,0\n1,2,3,1\n1,2,20,0\n")
    run(["embed", base / "run", base / "faces", "-o", tmp_path / "e.npy"])
    rows = ["eval", tmp_path / "e.npy", "--pairs", pairs]
    run(rows)
    for words in (["--no-flip"], ["--flip"], ["--batch", 3], ["model.name=iresnet18"], ["--device", "cpu"]):
        fails([*rows, *words], "would do nothing", str(words[0]) if words != ["--flip"] else "--no-flip", code=2)
    baseline = ["eval", "baseline:pixels", "--images", base / "faces", "--pairs", pairs]
    run([*baseline, "--batch", 3])
    fails([*baseline, "--no-flip"], "would do nothing", code=2)
    fails(["export", base / "run", "--to", "safetensors", "-o", tmp_path / "x", "--device", "cpu"], "--device", code=2)


def test_eval_embed_export_refuse_a_run_without_checkpoint(base, tmp_path):
    shutil.copytree(base / "run", tmp_path / "run")
    shutil.rmtree(newest_checkpoint(tmp_path / "run"))
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("fold,i,j,same\n0,0,1,1\n0,0,9,0\n1,2,3,1\n1,2,20,0\n")
    fails(["eval", tmp_path / "run", "--images", base / "faces", "--pairs", pairs], "no checkpoint")
    fails(["embed", tmp_path / "run", base / "faces", "-o", tmp_path / "e.h5"], "no checkpoint")
    fails(["export", tmp_path / "run", "--to", "safetensors", "-o", tmp_path / "m.safetensors"], "no checkpoint")
    assert not (tmp_path / "e.h5").exists() and not (tmp_path / "m.safetensors").exists()
