"""eval, embed and export as a user runs them, checked with h5py, safetensors and numpy.

The network is an untrained one (trainer.steps=0): what is tested is that every way to name a model gives the same
embeddings, and that the figures are those of a second implementation of the protocol.
"""

import json
import pathlib

import h5py
import numpy
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import program

MODEL = ["model.name=iresnet18", "model.width=0.125", "model.embedding=16", "data.size=32"]


def run(*words, ranks=1, code=0):
    done = program.run(words, ranks=ranks, check=False)
    assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder of faces in LFW's naming, its pair list, and a run with one checkpoint."""
    folder = tmp_path_factory.mktemp("model_use")
    random = numpy.random.default_rng(3)
    for person in ("Ann", "Bob_B", "Cy", "Di"):
        (folder / "faces" / person).mkdir(parents=True)
        face = random.integers(0, 256, (8, 8, 3))
        for number in range(1, 6):
            pixels = numpy.clip(face + random.integers(-60, 60, (8, 8, 3)), 0, 255).astype(numpy.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(folder / "faces" / person / f"{person}_{number:04d}.png")
    same = [("Ann", 1, 2), ("Bob_B", 1, 3), ("Cy", 4, 5), ("Di", 2, 5)]
    other = [("Ann", 1, "Cy", 2), ("Bob_B", 2, "Di", 1), ("Cy", 1, "Di", 3), ("Ann", 5, "Bob_B", 4)]
    lines = ["2\t2"]
    for fold in range(2):
        lines += ["\t".join(map(str, pair)) for pair in same[2 * fold : 2 * fold + 2] + other[2 * fold : 2 * fold + 2]]
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(
        f"run: {folder}/run\n"
        f"data: {{train: 'folder:{folder}/faces', size: 32, batch_size: 4}}\n"
        "model: {name: iresnet18, width: 0.125, embedding: 16}\n"
        "loss: {name: cosface}\noptimizer: {name: sgd}\ntrainer: {steps: 0}\n"
    )
    run("train", folder / "config.yaml")
    return folder


def test_embed_writes_rows_in_path_order(work):
    run("embed", work / "run", work / "faces", "-o", work / "a.h5")
    with h5py.File(work / "a.h5") as file:
        rows, names = file["embeddings"][:], [name.decode() for name in file["names"][:]]
    assert rows.shape == (20, 16) and rows.dtype == numpy.float32
    assert names == sorted(str(p.relative_to(work / "faces")) for p in (work / "faces").rglob("*.png"))
    assert not numpy.allclose(numpy.linalg.norm(rows, axis=1), 1, atol=1e-3)  # raw, not normalised
    run("embed", work / "run", work / "faces", "-o", work / "a.npy", "--batch", 64)
    assert numpy.array_equal(numpy.load(work / "a.npy"), rows)
    run("embed", work / "run", work / "faces", "-o", work / "two.npy", ranks=2)
    assert numpy.allclose(numpy.load(work / "two.npy"), rows, rtol=1e-4, atol=1e-5 * abs(rows).max())


def test_embed_takes_images_beside_and_below_folders(work):
    """All of them, by the order of their whole paths: '-' comes before '/', '/' before letters."""
    folder = work / "mixed"
    faces = sorted((work / "faces").rglob("*.png"))
    for name, face in zip(["z.png", "a/2.png", "a/deep/1.png", "a-b/0.png", "a.png"], faces):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(face.read_bytes())
    run("embed", work / "run", folder, "-o", work / "mixed.h5")
    run("embed", work / "run", work / "faces", "-o", work / "whole.h5")
    with h5py.File(work / "mixed.h5") as file, h5py.File(work / "whole.h5") as whole:
        names = [name.decode() for name in file["names"][:]]
        assert names == ["a-b/0.png", "a.png", "a/2.png", "a/deep/1.png", "z.png"]
        for name, row in zip(["z.png", "a/2.png", "a/deep/1.png", "a-b/0.png", "a.png"], whole["embeddings"][:5]):
            assert numpy.allclose(file["embeddings"][names.index(name)], row, rtol=1e-4, atol=1e-5)
    (work / "mixed.csv").write_text("fold,i,j,same\n0,4,2,1\n0,4,1,0\n1,2,3,1\n1,0,1,0\n")
    assert "kfold accuracy" in run("eval", work / "run", "--images", folder, "--pairs", work / "mixed.csv")


def test_every_name_of_a_model_gives_the_same_rows(work):
    run("embed", work / "run", work / "faces", "-o", work / "run.npy")
    expected = numpy.load(work / "run.npy")
    output = run("export", work / "run", "--to", "safetensors", "-o", work / "out.safetensors")
    assert "read back and compared" in output
    with safe_open(work / "out.safetensors", "numpy") as file:
        assert "conv1.weight" in file.keys() and not any(name.startswith("backbone.") for name in file.keys())
        assert "iresnet18" in file.metadata()["facetrain.config"]
    checkpoint = work / "run" / "step_000000000"
    trained = load_file(checkpoint / "model.safetensors")
    public = load_file(work / "out.safetensors")
    for name, value in public.items():
        assert numpy.array_equal(value, trained["backbone." + name])
    save_file(public, work / "bare.safetensors")
    for model in ([checkpoint], [work / "out.safetensors"], [work / "bare.safetensors", *MODEL]):
        run("embed", model[0], work / "faces", "-o", work / "same.npy", *model[1:])
        assert numpy.array_equal(numpy.load(work / "same.npy"), expected), model
    assert "add model.name=" in run("embed", work / "bare.safetensors", work / "faces", "-o", work / "x.npy", code=1)
    assert not (work / "x.npy").exists()


def two_fold_accuracy(rows, pairs):
    """The protocol once more: pairs are (fold, i, j, same)."""
    unit = rows.astype(numpy.float64) / numpy.linalg.norm(rows.astype(numpy.float64), axis=1, keepdims=True)
    fold, i, j, same = numpy.array(pairs).T
    distance = ((unit[i] - unit[j]) ** 2).sum(1)
    thresholds = numpy.arange(400) * 0.01
    accuracies = []
    for tested in numpy.unique(fold):
        right = [((distance < t) == same.astype(bool))[fold != tested].mean() for t in thresholds]
        best = thresholds[int(numpy.argmax(right))]
        accuracies.append(((distance < best) == same.astype(bool))[fold == tested].mean())
    return accuracies


def test_eval_agrees_with_a_second_implementation(work):
    run("embed", work / "run", work / "faces", "-o", work / "e.h5")
    with h5py.File(work / "e.h5") as file:
        rows, names = file["embeddings"][:], [name.decode()[:-4] for name in file["names"][:]]
    pairs = []
    for number, line in enumerate((work / "pairs.txt").read_text().splitlines()[1:]):
        words = line.split("\t")
        first = f"{words[0]}/{words[0]}_{int(words[1]):04d}"
        name = words[0] if len(words) == 3 else words[2]
        pairs.append((number // 4 + 1, names.index(first), names.index(f"{name}/{name}_{int(words[-1]):04d}"), len(words) == 3))
    expected = two_fold_accuracy(rows, pairs)
    common = ["--protocol", "pairs", "--images", work / "faces", "--pairs", work / "pairs.txt", "--json", work / "r.json"]
    text = run("eval", work / "run", "--no-flip", *common)
    result = json.loads((work / "r.json").read_text())
    assert [fold["accuracy"] for fold in result["folds"]] == expected
    assert f"kfold accuracy {numpy.mean(expected):.6f} std {numpy.std(expected):.6f}" in text
    run("eval", work / "run", "--no-flip", *common, ranks=2)
    assert json.loads((work / "r.json").read_text())["accuracy"] == result["accuracy"]
    # The same pairs as rows, over the embeddings.
    (work / "pairs.csv").write_text("fold,i,j,same\n" + "".join(f"{f},{i},{j},{int(s)}\n" for f, i, j, s in pairs))
    run("eval", work / "e.h5", "--pairs", work / "pairs.csv", "--json", work / "f.json")
    assert json.loads((work / "f.json").read_text())["folds"] == result["folds"]
    run("eval", work / "run", *common)  # flip is the default
    assert json.loads((work / "r.json").read_text())["flip"] is True


def test_baselines_need_no_network(work):
    for name in ("baseline:pixels", "baseline:histogram"):
        assert "kfold accuracy" in run("eval", name, "--images", work / "faces", "--pairs", work / "pairs.txt")


def test_wrong_usage_is_2_and_errors_are_1(work):
    run("eval", work / "run", code=2)
    run("eval", code=2)
    run("eval", work / "run", "--protocol", "nothing", code=2)
    run("embed", work / "run", work / "faces", "-o", work / "x.txt", code=2)
    run("export", work / "run", code=2)
    text = run("export", work / "run", "--to", "safetensor", "-o", work / "x", code=1)
    assert "did you mean 'safetensors'" in text and "known:" in text
    assert "there is no" in run("embed", work / "nowhere", work / "faces", "-o", work / "x.npy", code=1)
    empty = pathlib.Path(work / "fresh")
    empty.mkdir()
    (empty / "config.yaml").write_text((work / "config.yaml").read_text())
    assert "no checkpoint yet" in run("export", empty, "--to", "safetensors", "-o", work / "x.safetensors", code=1)
    broken = work / "broken.txt"
    broken.write_text("1\t1\nAnn\t1\t2\nAnn\t1\tEve\t1\n")
    assert "Eve/Eve_0001" in run("eval", work / "run", "--images", work / "faces", "--pairs", broken, code=1)
    assert not (work / "x").exists() and not (work / "x.partial").exists()
