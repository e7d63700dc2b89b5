"""Exported files as other programs meet them: onnx.checker, onnxruntime, torch.jit.load; and `facetrain export` itself.

Figures are compared with the program's own embeddings: at most 1e-5 of the largest output (fp32, other kernels and
another order of sums).
"""
import hashlib
import json
import os
import pathlib
import re
import subprocess

import h5py
import numpy
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

import program

EXPORT_TEST = pathlib.Path(program.PROGRAM).parent / "tests" / "export_test"
TOLERANCE = 1e-5
torch.set_num_threads(1)


def run(*words, code=0, **options):
    done = program.run(words, check=False, **options)
    assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def session(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def close(found, expected):
    return found.shape == expected.shape and numpy.abs(found - expected).max() <= TOLERANCE * numpy.abs(expected).max()


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    """Every registered backbone after 20 training-mode batches, in every format, with inputs and our outputs."""
    folder = tmp_path_factory.mktemp("exchange")
    subprocess.run([EXPORT_TEST, "--gtest_filter=*EveryBackbone*:*EveryRule*"], check=True, stdout=subprocess.DEVNULL, timeout=700,
                   env=program.environment({"FACETRAIN_EXCHANGE": str(folder)}))
    return folder


def backbones():
    listed = program.run(["list", "backbones"]).stdout
    return re.findall(r"^  (\w+) ", listed, re.MULTILINE)


def test_every_backbone_was_written(exchange):
    assert sorted(backbones()) == sorted(file.stem for file in exchange.glob("*.onnx") if not file.stem.startswith("toy_"))


def test_onnx_of_every_rule_of_the_converter(exchange):
    """Networks made for the rules that no backbone needs; that all rules are in them is export_test's to know."""
    files = sorted(exchange.glob("toy_*.onnx"))
    assert len(files) == 6
    for file in files:
        onnx.checker.check_model(onnx.load(file), full_check=True)
        expected = load_file(file.with_suffix(".expected"))
        for batch in (1, 3, 8):
            found = session(file).run(["embedding"], {"data": expected[f"input_{batch}"]})[0]
            assert close(found, expected[f"output_{batch}"]), (file.name, batch, found, expected[f"output_{batch}"])


@pytest.mark.parametrize("name", backbones())
def test_onnx_of_every_backbone(exchange, name):
    file = exchange / f"{name}.onnx"
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    normed = any(node.op_type == "LayerNormalization" for node in model.graph.node)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17 if normed else 13)]
    assert model.producer_name == "facetrain"
    weights = load_file(exchange / f"{name}.safetensors")
    written = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for key, value in weights.items():
        if not key.endswith(("num_batches_tracked", "mask_token")):  # training's alone
            assert numpy.array_equal(written[key].reshape(value.shape), value), key
    expected = load_file(exchange / f"{name}.expected")
    running = session(file)
    assert [i.name for i in running.get_inputs()] == ["data"] and [o.name for o in running.get_outputs()] == ["embedding"]
    assert running.get_inputs()[0].shape == ["batch", 3, 32, 32] and running.get_outputs()[0].shape == ["batch", 24]
    for batch in (1, 3, 8):
        found = running.run(["embedding"], {"data": expected[f"input_{batch}"]})[0]
        assert close(found, expected[f"output_{batch}"]), (batch, numpy.abs(found - expected[f"output_{batch}"]).max())


@pytest.mark.parametrize("name", backbones())
def test_torchscript_of_every_backbone(exchange, name):
    module = torch.jit.load(str(exchange / f"{name}.pt"))
    weights = load_file(exchange / f"{name}.safetensors")
    state = module.state_dict()
    assert state.keys() == weights.keys()
    assert all(numpy.array_equal(state[key].numpy(), value) for key, value in weights.items())
    expected = load_file(exchange / f"{name}.expected")
    with torch.jit.optimized_execution(False):  # which would compile the deep ones anew for every batch size
        for batch in (1, 3, 8):
            found = module(torch.from_numpy(expected[f"input_{batch}"])).detach().numpy()
            assert close(found, expected[f"output_{batch}"]), batch


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A trained run with an evaluation, and its faces."""
    folder = tmp_path_factory.mktemp("export")
    faces = program.tiny_faces(folder / "faces")
    config = program.write_config(folder, faces)
    pairs = [(fold, 8 * fold + i, 8 * (fold + 3 * (1 - same)) + i + 1, same) for fold in range(3) for i in range(5) for same in (0, 1)]
    (folder / "pairs.csv").write_text("fold,i,j,same\n" + "".join(f"{a},{b},{c},{d}\n" for a, b, c, d in pairs))
    run("train", config, "trainer.steps=24", "trainer.precision=fp32", "eval.every=24", "checkpoint.every=12",
        f"eval.sets=[{{name: tiny, path: {faces}, pairs: {folder}/pairs.csv}}]", "data.normalize=imagenet")
    return folder


def pixels(work):
    """The images in path order as a user of the ONNX file prepares them, by its metadata alone."""
    from PIL import Image
    metadata = {p.key: p.value for p in onnx.load(work / "network.onnx").metadata_props}
    assert metadata["input.color_order"] == "RGB" and metadata["input.layout"] == "NCHW"
    mean, deviation = (numpy.array(metadata[f"input.{k}"].split(), numpy.float64) for k in ("mean", "deviation"))
    files = sorted((work / "faces").rglob("*.ppm"))
    assert {Image.open(f).size for f in files} == {(int(metadata["input.size"]),) * 2}
    images = numpy.stack([numpy.asarray(Image.open(f).convert("RGB"), numpy.float64) for f in files])
    return ((images - mean) / deviation).transpose(0, 3, 1, 2).astype(numpy.float32)


def test_files_of_a_trained_run_give_its_embeddings(work):
    run("embed", work / "run", work / "faces", "-o", work / "run.npy")
    expected = numpy.load(work / "run.npy")
    for format, file in (("onnx", "network.onnx"), ("torchscript", "network.pt"), ("safetensors", "network.safetensors")):
        assert "read back and compared" in run("export", work / "run", "--to", format, "-o", work / file)
    assert not list(work.glob("*.partial")) and not list(work.glob("*.tmp"))
    data = pixels(work)
    onnx.checker.check_model(onnx.load(work / "network.onnx"), full_check=True)
    assert close(session(work / "network.onnx").run(None, {"data": data})[0], expected)
    assert close(torch.jit.load(str(work / "network.pt"))(torch.from_numpy(data)).detach().numpy(), expected)
    for file in ("network.pt", "network.safetensors"):
        run("embed", work / file, work / "faces", "-o", work / "file.npy")
        assert close(numpy.load(work / "file.npy"), expected), file
    assert "kfold accuracy" in run("eval", work / "network.pt", "--images", work / "faces", "--pairs", work / "pairs.csv")


def test_metadata_says_how_the_input_is_made(work):
    run("export", work / "run", "--to", "onnx", "-o", work / "network.onnx")
    metadata = {p.key: p.value for p in onnx.load(work / "network.onnx").metadata_props}
    assert numpy.allclose([float(v) for v in metadata["input.mean"].split()], 255 * numpy.array([0.485, 0.456, 0.406]))
    assert "iresnet18" in metadata["facetrain.config"] and "step_000000024" in metadata["facetrain.origin"]
    points = json.loads(metadata["input.template"])
    template = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    assert numpy.allclose(points, numpy.array(template) * 32 / 112, atol=1e-4)
    extra = {"facetrain.config": "", "facetrain.origin": "", "facetrain.size": ""}
    run("export", work / "run", "--to", "torchscript", "-o", work / "network.pt")
    torch.jit.load(str(work / "network.pt"), _extra_files=extra)
    assert b"iresnet18" in extra["facetrain.config"] and extra["facetrain.size"] == b"32"


def test_torchscript_of_others(work):
    class Theirs(torch.nn.Module):
        def forward(self, x):
            return torch.flatten(x[:, :, ::8, ::8], 1)

    torch.jit.script(Theirs()).save(str(work / "theirs.pt"))
    said = run("embed", work / "theirs.pt", work / "faces", "-o", work / "theirs.npy", code=1)
    assert "data.size=PIXELS" in said and "data.normalize=face" in said
    run("embed", work / "theirs.pt", work / "faces", "-o", work / "theirs.npy", "data.size=32", "data.normalize=imagenet")
    run("export", work / "run", "--to", "onnx", "-o", work / "network.onnx")
    assert numpy.allclose(numpy.load(work / "theirs.npy"), pixels(work)[:, :, ::8, ::8].reshape(48, -1), atol=1e-5)
    assert "no weights to export again" in run("export", work / "theirs.pt", "--to", "onnx", "-o", work / "x.onnx",
                                               "data.size=32", "data.normalize=face", code=1)
    assert not (work / "x.onnx").exists()


def test_a_card_says_what_is_known(work):
    run("export", work / "run", "--to", "onnx", "-o", work / "network.onnx", "--card", work / "card.md")
    card = (work / "card.md").read_text()
    assert hashlib.sha256((work / "network.onnx").read_bytes()).hexdigest() in card
    lines = [json.loads(line) for line in (work / "run/metrics.jsonl").read_text().splitlines()]
    figures = [line["eval"] for line in lines if "eval" in line][-1]
    accuracy = figures["tiny.accuracy"]
    row = re.search(r"^\| tiny \| accuracy \| ([\d.]+) \| ([\d.]+) … ([\d.]+) \| 30 pairs", card, re.MULTILINE)
    value, low, high = map(float, row.groups())
    n, z = 30, 1.959963984540054  # Wilson 1927, written out
    middle, half = (accuracy + z * z / 2 / n) / (1 + z * z / n), z / (1 + z * z / n) * (accuracy * (1 - accuracy) / n + z * z / 4 / n / n) ** 0.5
    assert abs(value - accuracy) < 1e-4 and abs(low - (middle - half)) < 1e-4 and abs(high - (middle + half)) < 1e-4
    for word in ("Wilson", "Intended use", "Training", f"folder:{work}/faces", "step 24", "iresnet18", "arcface", "per group"):
        assert word in card, word
    # From a file that knows no run: said so, not left out.
    run("export", work / "run", "--to", "safetensors", "-o", work / "network.safetensors")
    run("export", work / "network.safetensors", "--to", "onnx", "-o", work / "again.onnx", "--card", work / "again.md")
    again = (work / "again.md").read_text()
    assert "not known" in again and "| tiny |" not in again
    assert (work / "again.onnx").read_bytes() != b"" and hashlib.sha256((work / "again.onnx").read_bytes()).hexdigest() in again


def test_bad_input_leaves_one_message_and_no_file(work):
    def refused(file, *words, model=work / "run", code=1):
        said = run("export", model, "-o", file, *words, code=code)
        assert len(said.strip().splitlines()) == 1, said
        assert not pathlib.Path(file).exists() or pathlib.Path(file).is_dir()
        return said

    assert "for *.pt the format is torchscript" in refused(work / "a.pt", "--to", "onnx")
    assert "*.safetensors" in refused(work / "a.bin", "--to", "safetensors")
    assert "there is no folder" in refused(work / "nowhere/a.onnx", "--to", "onnx")
    assert "did you mean 'onnx'" in refused(work / "a.onnx", "--to", "onx")
    assert "there is no folder" in refused(work / "b.onnx", "--to", "onnx", "--card", work / "nowhere/card.md")
    assert "*.md" in refused(work / "b.onnx", "--to", "onnx", "--card", work / "card.txt")
    (work / "folder.onnx").mkdir(exist_ok=True)
    assert "is a folder" in refused(work / "folder.onnx", "--to", "onnx")
    # An exported file of another network than the command line says, and one that is none.
    run("export", work / "run", "--to", "safetensors", "-o", work / "network.safetensors")
    said = refused(work / "c.onnx", "--to", "onnx", "model.width=0.125", model=work / "network.safetensors")
    assert "do not fit" in said
    (work / "broken.pt").write_bytes(b"PK\x03\x04 and nothing more")
    refused(work / "d.onnx", "--to", "onnx", model=work / "broken.pt")
    run("export", work / "run", "--to", "onnx", "-o", work / "network.onnx")
    for words in (["embed", work / "network.onnx", work / "faces", "-o", work / "x.npy"],
                  ["eval", work / "network.onnx", "--images", work / "faces", "--pairs", work / "pairs.csv"]):
        said = run(*words, code=1)
        assert ".safetensors" in said and "facetrain.origin" in said and len(said.strip().splitlines()) == 1
    assert not (work / "x.npy").exists()


@pytest.mark.parametrize("format, ending", [("onnx", "onnx"), ("torchscript", "pt"), ("safetensors", "safetensors")])
def test_a_disk_that_fills_up_leaves_nothing(work, format, ending):
    """A limit on file sizes stands for it: the first write beyond 64 KiB fails."""
    words = program.command(["export", work / "run", "--to", format, "-o", work / f"full.{ending}"])
    done = subprocess.run(["bash", "-c", 'ulimit -f 64; exec "$@"', "limited", *words], env=program.environment(),
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and f"full.{ending}" in done.stderr, done.stdout + done.stderr
    assert not list(work.glob("full.*"))
