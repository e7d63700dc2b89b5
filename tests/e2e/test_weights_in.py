"""Weights that others published: .pth files of the real torch.save in every form met, and networks in plain PyTorch.

Tensors of a file must come through equal bit for bit; embeddings must be torch's own to 1e-5 of the larger of 1 and the
largest of them (fp32 on both sides). A file that asks for code is refused by name, and the code does not run.
"""
import argparse
import collections
import copy
import functools
import os
import pathlib
import zipfile

import numpy
import pytest
import safetensors.numpy
import torch
from iresnet_witness import IRESNETS, MOBILE, build
from ir_witness import IRS, Ir
from PIL import Image
from program import newest_checkpoint, run, tensors, tiny_faces

torch.set_num_threads(1)
SMALL = ["model.width=0.125", "model.embedding=16", "data.size=32", "data.normalize=face"]


@functools.cache
def made_once(name):
    torch.manual_seed(0)
    made = Ir(name, 0.125, 16, 32) if name in IRS else build(name, 0.125, 16, 32)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    made.train()
    with torch.no_grad():
        for _ in range(20):
            made(torch.rand(8, 3, 32, 32) * 2 - 1)
    return made.eval()


def network(name):
    """With parameters and running statistics that are nobody's defaults."""
    return copy.deepcopy(made_once(name))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return tiny_faces(tmp_path_factory.mktemp("faces"), identities=3, images=2, size=32)


def pixels(folder):
    files = sorted(folder.rglob("*.ppm"))
    return torch.from_numpy(numpy.stack([numpy.asarray(Image.open(file)) for file in files])).permute(0, 3, 1, 2)


def fails(words, *parts):
    done = run(words, check=False)
    assert done.returncode == 1, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    for part in parts:
        assert part in done.stdout + done.stderr, f"{part}\nnot in: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def exported(file, out, name="iresnet18", *words):
    done = run(["export", file, "--to", "safetensors", "-o", out, f"model.name={name}", *SMALL, *words])
    return safetensors.numpy.load_file(out), done.stdout + done.stderr


# ---- the forms of a file: what is saved, how, and the type it comes back as -------------------------------------------------
class Wrapper(torch.nn.Module):
    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


def plain(net):
    return net.state_dict()


def nested(net):
    return {"state_dict": net.state_dict(), "epoch": 3}


def one_entry(net):
    return {"model": net.state_dict()}


def one_list(net):
    return [net.state_dict()]


def parameters(net):
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def mae(net):
    """As MAE, DINO and FSFM save: arguments, optimizer, scaler, numpy numbers."""
    args = argparse.Namespace(lr=1e-3, name="x", path=pathlib.Path("a/b"), blr=None, betas=(0.9, 0.95), set={1, 2}, device=torch.device("cuda:0"))
    optimizer = torch.optim.AdamW(net.parameters())
    net.train()
    net(torch.rand(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    net.eval()
    return {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": numpy.int64(7), "scaler": {"scale": 65536.0},
            "args": args, "best": numpy.float64(0.5), "history": numpy.arange(5), "dtype": torch.float32, "big": 2**80}


def data_parallel(net):
    return torch.nn.DataParallel(net).state_dict()


def lightning(net):
    """As AdaFace saves: the trunk beside the head, which is no part of it."""
    whole = Wrapper(model=net)
    state = whole.state_dict()
    state["head.kernel"] = torch.rand(16, 10)
    return {"state_dict": state, "epoch": 25, "global_step": 10, "pytorch-lightning_version": "1.4.4",
            "callbacks": {}, "hparams_name": "kwargs", "hyper_parameters": {"arch": "ir_18", "lr": 0.1}}


def cvlface(net):
    return Wrapper(net=net).state_dict()


def arcface_torch(net):
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    return {"epoch": 20, "global_step": 9, "state_dict_backbone": net.state_dict(),
            "state_dict_softmax_fc": {"weight": torch.rand(10, 16)}, "state_optimizer": optimizer.state_dict(),
            "state_lr_scheduler": {"base_lrs": [0.1], "last_epoch": 9}}


def one_storage(net):
    """All parameters as views of one storage, every other one transposed in memory."""
    state = collections.OrderedDict(net.state_dict())
    flat = torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])
    at = 0
    for number, (name, value) in enumerate(state.items()):
        if not value.is_floating_point():
            continue
        view = flat[at : at + value.numel()]
        at += value.numel()
        if value.dim() == 4 and number % 2:
            view = view.view(value.shape[1], value.shape[0], *value.shape[2:]).transpose(0, 1)
        else:
            view = view.view(value.shape)
        view.copy_(value)
        state[name] = view
    return state


def cast(dtype):
    def save(net):
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in net.state_dict().items()}
    return save


FORMS = {
    "state_dict": (plain, {}), "nested": (nested, {}), "one_entry": (one_entry, {}), "one_list": (one_list, {}),
    "parameters": (parameters, {}), "mae": (mae, {}), "data_parallel": (data_parallel, {}), "lightning": (lightning, {}),
    "cvlface": (cvlface, {}), "arcface_torch": (arcface_torch, {}), "one_storage": (one_storage, {}),
    "half": (cast(torch.half), {}), "bfloat16": (cast(torch.bfloat16), {}), "double": (cast(torch.double), {}),
    "legacy": (plain, {"_use_new_zipfile_serialization": False}),
    "legacy_mae": (mae, {"_use_new_zipfile_serialization": False}),
    "legacy_views": (one_storage, {"_use_new_zipfile_serialization": False}),
    "protocol_4": (mae, {"pickle_protocol": 4}), "protocol_5": (nested, {"pickle_protocol": 5}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_comes_through_unchanged(form, tmp_path):
    make, how = FORMS[form]
    net = network("iresnet18")
    table = make(net)
    torch.save(table, tmp_path / "face.pth", **how)
    found, said = exported(tmp_path / "face.pth", tmp_path / "out.safetensors")
    dtype = {"half": torch.half, "bfloat16": torch.bfloat16}.get(form, torch.float32)
    expected = {name: value.to(dtype) if value.is_floating_point() else value for name, value in net.state_dict().items()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert numpy.array_equal(found[name], value.float().numpy() if value.is_floating_point() else value.numpy()), name
    assert f"{len(expected)} tensors loaded" in said
    if form == "lightning":
        assert "from below 'state_dict.model.'" in said and "1 ignored: state_dict.head.kernel" in said


def test_files_without_checksums_are_read(tmp_path):
    net = network("iresnet18")
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(net.state_dict(), tmp_path / "face.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    found, _ = exported(tmp_path / "face.pth", tmp_path / "out.safetensors")
    assert numpy.array_equal(found["fc.weight"], net.fc.weight.detach().numpy())


# ---- networks ---------------------------------------------------------------------------------------------------------------
def embedded(file, faces, out, name, *words):
    run(["embed", file, faces, "-o", out, f"model.name={name}", *SMALL, *words])
    return torch.from_numpy(numpy.load(out))


def close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * max(1, expected.abs().max()), (found - expected).abs().max()


@pytest.mark.parametrize("name", ["iresnet18", "iresnet50", "mobilefacenet", "mobilefacenet_large", "ir_18", "ir_34", "ir_50",
                                  "ir_101", "ir_152", "ir_200", "ir_se_50", "ir_se_101", "ir_se_152", "ir_se_200"])
def test_embeddings_are_those_of_torch(name, faces, tmp_path):
    assert name in IRS or name in IRESNETS or name in MOBILE
    net = network(name)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "face.pth")
    with torch.no_grad():
        expected = net((pixels(faces).float() - 127.5) / 127.5)
    assert expected.std(0).min() > 1e-3  # the faces differ
    close(embedded(tmp_path / "face.pth", faces, tmp_path / "e.npy", name), expected)


def test_weights_for_bgr_are_turned_once(faces, tmp_path):
    net = network("ir_18")
    torch.save(lightning(net), tmp_path / "adaface.ckpt")
    with torch.no_grad():
        expected = net((pixels(faces).flip(1).float() - 127.5) / 127.5)
    close(embedded(tmp_path / "adaface.ckpt", faces, tmp_path / "e.npy", "ir_18", "model.color_order=bgr"), expected)
    # What is exported takes RGB, says so, and is not turned again.
    found, said = exported(tmp_path / "adaface.ckpt", tmp_path / "rgb.safetensors", "ir_18", "model.color_order=bgr")
    assert "turned from BGR to RGB" in said
    assert numpy.array_equal(found["input_layer.0.weight"], net.input_layer[0].weight.detach().flip(1).numpy())
    run(["embed", tmp_path / "rgb.safetensors", faces, "-o", tmp_path / "again.npy"])
    close(torch.from_numpy(numpy.load(tmp_path / "again.npy")), expected)
    # A run that starts from them, and what is made of the run.
    config = tmp_path / "config.yaml"
    config.write_text(
        f"run: {tmp_path}/run\ndata: {{train: 'folder:{faces}', size: 32, batch_size: 3}}\n"
        f"model: {{name: ir_18, width: 0.125, embedding: 16, init: {tmp_path}/adaface.ckpt, color_order: bgr}}\n"
        "loss: {name: cosface}\noptimizer: {name: sgd}\ntrainer: {steps: 0}\n")
    said = run(["train", config]).stdout
    assert "adaface.ckpt: " in said and "turned from BGR to RGB" in said
    started = tensors(newest_checkpoint(tmp_path / "run"))
    for key, value in found.items():
        assert numpy.array_equal(started[f"backbone.{key}"], value), key
    run(["embed", tmp_path / "run", faces, "-o", tmp_path / "run.npy"])
    close(torch.from_numpy(numpy.load(tmp_path / "run.npy")), expected)
    run(["train", config, f"run={tmp_path}/two", "trainer.steps=2"])  # and it trains on


# ---- what is refused --------------------------------------------------------------------------------------------------------
class Touch:
    """Runs a command when Python loads it."""

    def __init__(self, call, *words):
        self.call, self.words = call, words

    def __reduce__(self):
        return self.call, self.words


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", ["system", "eval", "exec"])
def test_code_is_refused_and_does_not_run(call, legacy, tmp_path, faces):
    marker = tmp_path / "executed"
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    attack = {"system": Touch(os.system, f"touch {marker}"), "eval": Touch(eval, code), "exec": Touch(exec, code)}[call]
    file = tmp_path / "face.pth"
    torch.save({"state_dict": network("iresnet18").state_dict(), "args": attack}, file, _use_new_zipfile_serialization=not legacy)
    named = {"system": f"{os.system.__module__}.system", "eval": "builtins.eval", "exec": "builtins.exec"}[call]
    said = (f"face.pth: asks for {named}: refused, nothing was executed", "torch.save(model.state_dict()")
    fails(["embed", file, faces, "-o", tmp_path / "e.npy", "model.name=iresnet18", *SMALL], *said)
    fails(["export", file, "--to", "safetensors", "-o", tmp_path / "x.safetensors"], *said)
    config = tmp_path / "config.yaml"
    config.write_text(f"run: {tmp_path}/run\ndata: {{train: 'folder:{faces}', size: 32, batch_size: 3}}\n"
                      f"model: {{name: iresnet18, width: 0.125, embedding: 16, init: {file}}}\n"
                      "loss: {name: cosface}\noptimizer: {name: sgd}\ntrainer: {steps: 1}\n")
    fails(["train", config], *said)
    assert not marker.exists()
    assert not (tmp_path / "e.npy").exists() and not (tmp_path / "x.safetensors").exists()
    torch.load(file, weights_only=False)  # it is what it is said to be
    assert marker.exists()


def test_whole_modules_are_refused_by_their_class(tmp_path):
    torch.save(network("iresnet18"), tmp_path / "module.pth")
    fails(["export", tmp_path / "module.pth", "--to", "safetensors", "-o", tmp_path / "x.safetensors", "model.name=iresnet18", *SMALL],
          "module.pth: asks for iresnet_witness.IResNet: refused", "torch.save(model.state_dict()")


def test_other_tensors_are_refused_by_their_kind(tmp_path):
    odd = {"sparse": (torch.eye(3).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
           "complex": (torch.ones(2, dtype=torch.complex64), "torch.ComplexFloatStorage"),
           "quantised": (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "torch._utils._rebuild_qtensor"),
           "meta": (torch.ones(2, device="meta"), "torch._utils._rebuild_meta_tensor_no_storage")}
    for kind, (value, name) in odd.items():
        torch.save({"conv1.weight": value}, tmp_path / f"{kind}.pth")
        fails(["export", tmp_path / f"{kind}.pth", "--to", "safetensors", "-o", tmp_path / "x.safetensors", "model.name=iresnet18"],
              f"{kind}.pth: asks for {name}: refused")


def test_files_that_do_not_fit(tmp_path):
    net = network("ir_18")
    good = tmp_path / "good.pth"
    torch.save({"state_dict": net.state_dict()}, good)
    out = ["--to", "safetensors", "-o", tmp_path / "x.safetensors"]

    def refuse(file, *parts, words=("model.name=ir_18", *SMALL)):
        fails(["export", file, *out, *words], pathlib.Path(file).name, *parts)
        assert not (tmp_path / "x.safetensors").exists()

    refuse(good, "add model.name=", "ir_se_50", words=())
    refuse(good, "no tensor of this file belongs to the network", "missing: bn1.bias", "unexpected: state_dict.body.0",
           words=("model.name=iresnet18", *SMALL))
    refuse(good, "do not fit the network", "missing: body.10.", words=("model.name=ir_34", *SMALL))
    refuse(good, "of another shape", "output_layer.3.weight: network [8, 256], file [16, 256]",
           words=("model.name=ir_18", *SMALL, "model.embedding=8"))
    state = net.state_dict()
    del state["body.3.res_layer.1.weight"]
    state["body.3.extra"] = torch.ones(1)
    torch.save(state, tmp_path / "partial.pth")
    refuse(tmp_path / "partial.pth", "1 missing: body.3.res_layer.1.weight", "1 unexpected: body.3.extra", "model.strict=false")
    run(["export", tmp_path / "partial.pth", *out, "model.name=ir_18", *SMALL, "model.strict=false"])
    (tmp_path / "x.safetensors").unlink()

    whole = good.read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        refuse(tmp_path / "cut.pth")
    weight = state["output_layer.3.weight"].numpy().tobytes()
    at = whole.index(weight)
    (tmp_path / "flipped.pth").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    refuse(tmp_path / "flipped.pth", "output_layer.3.weight", "checksum", "damaged")
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in source.namelist():
            packed.writestr(entry, source.read(entry))
    refuse(tmp_path / "packed.pth", "compressed", "zip -0")
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    refuse(tmp_path / "nothing.pth", "holds no tensors")
    (tmp_path / "notes.txt").write_text("no weights")
    refuse(tmp_path / "notes.txt", "wanted a run folder", ".pth")


def test_a_zip_of_stored_entries_is_as_good(tmp_path):
    """Unpacked and zipped again by another program: no alignment, other headers."""
    net = network("ir_18")
    torch.save(net.state_dict(), tmp_path / "face.pth")
    with zipfile.ZipFile(tmp_path / "face.pth") as source, zipfile.ZipFile(tmp_path / "again.pth", "w") as again:
        for entry in sorted(source.namelist()):
            again.writestr(entry, source.read(entry))
    found, _ = exported(tmp_path / "again.pth", tmp_path / "x.safetensors", "ir_18")
    assert numpy.array_equal(found["output_layer.3.bias"], net.output_layer[3].bias.detach().numpy())


def test_a_torchscript_file_is_no_start_for_training(tmp_path, faces):
    torch.jit.trace(network("iresnet18"), torch.zeros(1, 3, 32, 32)).save(str(tmp_path / "script.pt"))
    config = tmp_path / "config.yaml"
    config.write_text(f"run: {tmp_path}/run\ndata: {{train: 'folder:{faces}', size: 32, batch_size: 3}}\n"
                      f"model: {{name: iresnet18, width: 0.125, embedding: 16, init: {tmp_path}/script.pt}}\n"
                      "loss: {name: cosface}\noptimizer: {name: sgd}\ntrainer: {steps: 1}\n")
    fails(["train", config], "script.pt", "found a TorchScript module", "state_dict()")
