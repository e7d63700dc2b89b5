"""Vision transformers against the real timm, and arcface_torch's face transformers against a restatement in plain PyTorch.

As test_timm_trunks.py: weights that are nobody's defaults, saved by timm, embedded and exported by us, loaded by timm again;
features of order 1 must agree to 1e-5 (absolute, fp32 on both sides).
"""
import re

import numpy
import onnxruntime
import pytest
import timm
import torch
import torch.nn.functional as functional
from program import run
from safetensors.torch import save_file
from test_timm_trunks import embedded, exchange, faces, feature, pixels  # noqa: F401  (faces is a fixture)
from torch import nn

torch.set_num_threads(1)
FACE_NAMES = {"vit_t": (256, 12), "vit_t_dp005_mask0": (256, 12), "vit_s": (512, 12), "vit_s_dp005_mask_0": (512, 12),
              "vit_b": (512, 24), "vit_b_dp005_mask_005": (512, 24), "vit_l_dp005_mask_005": (768, 24), "vit_h": (1024, 48)}


def names():
    listed = re.findall(r"^  (vit_\w+) ", run(["list", "backbones"]).stdout, re.MULTILINE)
    assert FACE_NAMES.keys() <= set(listed)
    return [name for name in listed if name not in FACE_NAMES]


def shaken(net):
    """No parameter as it started: norms, biases, scales, tokens and positions count."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.05, 0.4)
            elif parameter.dim() == 1:
                parameter += 0.2 * torch.rand_like(parameter) if "weight" in name else 0.1 * torch.randn_like(parameter)
            elif name in ("cls_token", "pos_embed", "mask_token"):
                parameter.normal_(0, 0.3)
            else:
                parameter += 0.02 * torch.randn_like(parameter)
    return net.eval()


def made(name="vit_tiny_patch16_224", size=64, depth=2, **more):
    return shaken(timm.create_model(name, num_classes=0, img_size=size, depth=depth, **more))


@pytest.mark.parametrize("name", names())
def test_every_name_is_timms(name, faces, tmp_path):
    """With two of its blocks, on a grid of 3 x 3 patches: the width, heads, norms, scales and the rest are the name's own."""
    patch = timm.create_model(name, num_classes=0, depth=0, img_size=224).patch_embed.patch_size[0]
    exchange(made(name, 3 * patch), name, 3 * patch, faces, tmp_path, "model.depth=2")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch32_224"])
def test_whole_networks_from_both_kinds_of_file(name, faces, tmp_path):
    net = shaken(timm.create_model(name, num_classes=0))
    expected = exchange(net, name, 224, faces, tmp_path)
    torch.save({"model": {**net.state_dict(), "head.weight": torch.rand(5, net.embed_dim), "head.bias": torch.rand(5)}, "epoch": 3},
               tmp_path / "timm.pth")
    found = embedded(tmp_path / "timm.pth", faces(224), tmp_path / "p.npy", name)
    assert (found - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("words,options", [(["model.pool=mean"], dict(global_pool="avg")),
                                           (["model.layer_scale=0.1"], dict(init_values=0.1)),
                                           (["model.qkv_bias=false", "model.mlp_ratio=2"], dict(qkv_bias=False, mlp_ratio=2)),
                                           (["model.heads=6"], dict(num_heads=6)),
                                           (["model.pre_norm=true", "model.activation=quick_gelu"], dict(pre_norm=True, act_layer="quick_gelu")),
                                           (["model.patch=8", "model.width=0.5"], dict(patch_size=8, embed_dim=96))])
def test_options_are_timms(words, options, faces, tmp_path):
    exchange(made(**options), "vit_tiny_patch16_224", 64, faces, tmp_path, "model.depth=2", *words)


def test_both_is_the_class_token_beside_the_mean(faces, tmp_path):
    net = made()
    with torch.no_grad():
        tokens = net.forward_features(pixels(faces(64)))
    save_file(net.state_dict(), tmp_path / "timm.safetensors")
    found = embedded(tmp_path / "timm.safetensors", faces(64), tmp_path / "e.npy", "vit_tiny_patch16_224", "model.depth=2",
                     "model.image_size=64", "model.pool=both")
    assert (found - torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1)).abs().max() <= 1e-5


def test_the_number_of_heads_is_not_in_a_file(faces, tmp_path):
    net = made()  # 3 heads
    save_file(net.state_dict(), tmp_path / "timm.safetensors")
    found = embedded(tmp_path / "timm.safetensors", faces(64), tmp_path / "e.npy", "vit_tiny_patch16_224", "model.depth=2",
                     "model.image_size=64", "model.heads=12")
    assert (found - feature(net, pixels(faces(64)))).abs().max() > 1e-2


@pytest.mark.parametrize("size", [48, 96])
def test_positions_of_another_grid_are_interpolated(size, faces, tmp_path):
    """MAE's rule (util/pos_embed.py): the class token's row stays, the others bicubic with align_corners=False."""
    stored, net = made(size=64), made(size=size)
    state = stored.state_dict()
    grid = state["pos_embed"][:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(size // 16, size // 16), mode="bicubic", align_corners=False)
    positions = torch.cat([state["pos_embed"][:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)
    net.load_state_dict({**state, "pos_embed": positions}, strict=True)
    expected = feature(net, pixels(faces(size)))
    save_file(state, tmp_path / "timm.safetensors")
    words = ["model.name=vit_tiny_patch16_224", "data.normalize=imagenet", "model.depth=2", f"data.size={size}"]
    done = run(["embed", tmp_path / "timm.safetensors", faces(size), "-o", tmp_path / "e.npy", *words])
    said = f"positions of a 4 x 4 grid of patches interpolated to {size // 16} x {size // 16}"
    assert (done.stdout + done.stderr).count(said) == 1
    assert (torch.from_numpy(numpy.load(tmp_path / "e.npy")) - expected).abs().max() <= 1e-5


def test_a_file_of_mae_with_its_decoder(faces, tmp_path):
    net = made()
    state = {**net.state_dict(), "mask_token": torch.rand(1, 1, 32), "decoder_embed.weight": torch.rand(32, 192),
             "decoder_pos_embed": torch.rand(1, 17, 32), "decoder_blocks.0.attn.qkv.weight": torch.rand(96, 32)}
    torch.save({"model": state, "epoch": 799}, tmp_path / "mae.pth")
    found = embedded(tmp_path / "mae.pth", faces(64), tmp_path / "e.npy", "vit_tiny_patch16_224", "model.depth=2",
                     "model.image_size=64", "model.position=sincos")
    assert (found - feature(net, pixels(faces(64)))).abs().max() <= 1e-5


@pytest.mark.parametrize("words,options", [([], {}), (["model.pool=mean", "model.layer_scale=0.1"], dict(global_pool="avg", init_values=0.1)),
                                           (["model.pre_norm=true", "model.activation=quick_gelu"], dict(pre_norm=True, act_layer="quick_gelu"))])
def test_onnx_and_torchscript_are_timms_too(words, options, faces, tmp_path):
    net = made(**options)
    images = pixels(faces(64))
    expected = feature(net, images)
    save_file(net.state_dict(), tmp_path / "timm.safetensors")
    for form, file in (("onnx", "net.onnx"), ("torchscript", "net.pt")):
        run(["export", tmp_path / "timm.safetensors", "--to", form, "-o", tmp_path / file, "model.name=vit_tiny_patch16_224",
             "data.normalize=imagenet", "model.depth=2", "model.image_size=64", *words])
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    script = torch.jit.load(str(tmp_path / "net.pt"))
    for batch in (1, 3):
        found = torch.from_numpy(session.run(["embedding"], {"data": images[:batch].numpy()})[0])
        assert (found - expected[:batch]).abs().max() <= 2e-5  # onnxruntime's own kernels
        with torch.jit.optimized_execution(False), torch.no_grad():
            assert (script(images[:batch]) - expected[:batch]).abs().max() <= 1e-5


# ---- arcface_torch's face transformers, from reference/recognition.md 3.4 -----------------------------------------------------
class FaceAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        heads = [part.view(batch, tokens, 8, dim // 8).transpose(1, 2) for part in self.qkv(x).chunk(3, 2)]
        scores = heads[0] @ heads[1].transpose(2, 3) / (dim // 8) ** 0.5
        return self.proj((scores.softmax(3) @ heads[2]).transpose(1, 2).flatten(2))


class FaceBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(dim), FaceAttention(dim), nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](functional.relu6(self.mlp["fc1"](self.norm2(x))))


class FaceVit(nn.Module):
    def __init__(self, dim, depth, embedding=512, size=112):
        super().__init__()
        patches = (size // 9) ** 2
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, 9, 9)})
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.Sequential(*[FaceBlock(dim) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.feature = nn.Sequential(nn.Linear(patches * dim, dim, bias=False), nn.BatchNorm1d(dim, eps=2e-5),
                                     nn.Linear(dim, embedding, bias=False), nn.BatchNorm1d(embedding, eps=2e-5))

    def forward(self, images):
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2) + self.pos_embed
        return self.feature(self.norm(self.blocks(x)).flatten(1))


@pytest.mark.parametrize("name,words,options", [("vit_t", [], {}), ("vit_b", ["model.depth=3", "model.width=0.5", "model.embedding=64"],
                                                                    dict(depth=3, dim=256, embedding=64))])
def test_face_transformers_are_arcface_torchs(name, words, options, faces, tmp_path):
    dim, depth = FACE_NAMES[name]
    net = shaken(FaceVit(**{"dim": dim, "depth": depth, **options}))
    images = (pixels(faces(112)) * torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1) + torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1))
    images = (images - 127.5) / 127.5
    with torch.no_grad():  # statistics of the batch norms: over colours, as three faces alone differ by little
        net.train()
        net.feature[1].momentum = net.feature[3].momentum = 0.7
        for _ in range(4):
            net(images.repeat(5, 1, 1, 1) * (2 * torch.rand(15, 3, 1, 1) - 1) + 2 * torch.rand(15, 3, 1, 1) - 1)
        expected = net.eval()(images)
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    torch.save(net.state_dict(), tmp_path / "model.pt")
    run(["embed", tmp_path / "model.pt", faces(112), "-o", tmp_path / "e.npy", f"model.name={name}", "data.normalize=face", *words])
    found = torch.from_numpy(numpy.load(tmp_path / "e.npy"))
    assert (found - expected).abs().max() <= 1e-5 * max(1, expected.abs().max()), (found - expected).abs().max()
    run(["export", tmp_path / "model.pt", "--to", "onnx", "-o", tmp_path / "net.onnx", f"model.name={name}", "data.normalize=face", *words])
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        found = torch.from_numpy(session.run(["embedding"], {"data": images[:batch].numpy()})[0])
        assert (found - expected[:batch]).abs().max() <= 2e-5 * max(1, expected.abs().max())
