"""Swin, ResNet and ConvNeXt against the real timm: its weights in, its features out, and what we export back into it.

timm saves random weights, with statistics of batch norm and layer scales that are nobody's defaults; `facetrain embed` must
give timm's own num_classes=0 output for the same pictures to 1e-5 (absolute, fp32 on both sides; the features are of
order 1), and timm must load what `facetrain export` writes, strictly and bit by bit.
"""
import numpy
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from program import run, tiny_faces
from safetensors.torch import load_file, save_file
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.swin_transformer import SwinTransformer

torch.set_num_threads(1)
MEAN, DEVIATION = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
NAMES = ["swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_base_patch4_window7_224", "resnet18", "resnet50",
         "convnext_tiny", "convnext_base"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    made = {}

    def of_size(size):
        if size not in made:
            made[size] = tiny_faces(tmp_path_factory.mktemp(f"faces{size}"), identities=3, images=1, size=size)
        return made[size]
    return of_size


def pixels(folder):
    files = sorted(folder.rglob("*.ppm"))
    rows = torch.from_numpy(numpy.stack([numpy.asarray(Image.open(file)) for file in files])).float()
    return ((rows - MEAN) / DEVIATION).permute(0, 3, 1, 2).contiguous()


def shaken(net, size):
    """No parameter or statistic as it started; features of order 1 that differ between the faces."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.05, 0.4)
            elif parameter.dim() == 1:
                parameter += 0.2 * torch.rand_like(parameter) if "weight" in name else 0.1 * torch.randn_like(parameter)
            elif "relative_position_bias_table" in name:
                parameter.normal_(0, 0.5)
            elif isinstance(net, SwinTransformer):
                parameter += 0.03 * torch.randn_like(parameter)
        if isinstance(net, ResNet):
            for _ in range(3):
                net.train()(torch.randn(4, 3, min(size, 96), min(size, 96)))
            for module in net.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 0.5
            net.train()(torch.randn(4, 3, min(size, 96), min(size, 96)))
    return net.eval()


def feature(net, images):
    with torch.no_grad():
        found = net(images)
    assert 0.1 < found.abs().max() < 20, found.abs().max()
    assert (found[0] - found[1]).abs().max() > 1e-3
    return found


def embedded(file, folder, out, name, *words):
    run(["embed", file, folder, "-o", out, f"model.name={name}", "data.normalize=imagenet", *words])
    return torch.from_numpy(numpy.load(out))


def exchange(net, name, size, faces, folder, *words):
    """Saved by timm, embedded by us, exported by us, loaded by timm. Returns the features."""
    expected = feature(net, pixels(faces(size)))
    save_file(net.state_dict(), folder / "timm.safetensors")
    words = [*words] if size == 224 else [*words, f"model.image_size={size}"]
    found = embedded(folder / "timm.safetensors", faces(size), folder / "e.npy", name, *words)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5, (found - expected).abs().max()
    run(["export", folder / "timm.safetensors", "--to", "safetensors", "-o", folder / "ours.safetensors", f"model.name={name}",
         "data.normalize=imagenet", *words])
    saved = load_file(folder / "ours.safetensors")
    net.load_state_dict(saved, strict=True)
    assert saved.keys() == net.state_dict().keys()
    original = load_file(folder / "timm.safetensors")
    assert all(torch.equal(original[key], value) for key, value in saved.items())
    return expected


@pytest.mark.parametrize("name", NAMES)
def test_features_are_timms_and_files_go_both_ways(name, faces, tmp_path):
    exchange(shaken(timm.create_model(name, num_classes=0), 224), name, 224, faces, tmp_path)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet50", "convnext_tiny"])
def test_a_file_with_a_classifier_is_as_good(name, faces, tmp_path):
    net = shaken(timm.create_model(name, num_classes=11), 224)
    torch.save({"state_dict": net.state_dict(), "epoch": 7}, tmp_path / "timm.pth")
    net.reset_classifier(0)
    expected = feature(net, pixels(faces(224)))
    found = embedded(tmp_path / "timm.pth", faces(224), tmp_path / "e.npy", name)
    assert (found - expected).abs().max() <= 1e-5


# The networks of faces, smaller; maps that the window does not divide, that it exceeds, that have an odd side.
SWINS = {"swinface_112": dict(img_size=112, patch_size=2, window_size=7, embed_dim=24, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24)),
         "petalface_120": dict(img_size=120, patch_size=6, window_size=5, embed_dim=48, depths=(2, 4, 2), num_heads=(2, 4, 4)),
         "padded_112": dict(img_size=112, patch_size=4, window_size=6, embed_dim=24, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24)),
         "odd_60": dict(img_size=60, patch_size=4, window_size=4, embed_dim=16, depths=(2, 3, 2), num_heads=(2, 2, 4))}


@pytest.mark.parametrize("shape", SWINS)
def test_swin_of_other_shapes(shape, faces, tmp_path):
    made = SWINS[shape]
    net = shaken(SwinTransformer(num_classes=0, **made), made["img_size"])
    listed = lambda values: "[" + ",".join(map(str, values)) + "]"
    exchange(net, "swin_tiny_patch4_window7_224", made["img_size"], faces, tmp_path, f"model.patch={made['patch_size']}",
             f"model.window={made['window_size']}", f"model.embed_dim={made['embed_dim']}", f"model.depths={listed(made['depths'])}",
             f"model.heads={listed(made['num_heads'])}")


@pytest.mark.parametrize("size", [56, 112, 75])
def test_convolutions_at_other_sizes(size, faces, tmp_path):
    kinds = {"resnet18": (ResNet(BasicBlock, (1, 2, 1, 1), num_classes=0, channels=(64, 128, 256, 512)), ["model.depths=[1,2,1,1]"]),
             "resnet50": (ResNet(Bottleneck, (1, 1, 2, 1), num_classes=0), ["model.depths=[1,1,2,1]"]),
             "convnext_tiny": (ConvNeXt(depths=(1, 1, 2, 1), dims=(24, 48, 96, 192), num_classes=0),
                               ["model.depths=[1,1,2,1]", "model.width=0.25"])}
    for name, (net, words) in kinds.items():
        exchange(shaken(net, size), name, size, faces, tmp_path, *words)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18", "convnext_tiny"])
def test_onnx_and_torchscript_are_timms_too(name, faces, tmp_path):
    """At 64 pixels, where Swin shifts its windows; for one picture and for three."""
    size, words = 64, ["model.image_size=64", "data.normalize=imagenet"]
    more = {"img_size": size} if name.startswith("swin") else {}
    net = shaken(timm.create_model(name, num_classes=0, **more), size)
    images = pixels(faces(size))
    expected = feature(net, images)
    save_file(net.state_dict(), tmp_path / "timm.safetensors")
    for form, file in (("onnx", "net.onnx"), ("torchscript", "net.pt")):
        run(["export", tmp_path / "timm.safetensors", "--to", form, "-o", tmp_path / file, f"model.name={name}", *words])
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    script = torch.jit.load(str(tmp_path / "net.pt"))
    for batch in (1, 3):
        found = torch.from_numpy(session.run(["embedding"], {"data": images[:batch].numpy()})[0])
        assert (found - expected[:batch]).abs().max() <= 2e-5  # onnxruntime's own kernels
        with torch.jit.optimized_execution(False), torch.no_grad():
            assert (script(images[:batch]) - expected[:batch]).abs().max() <= 1e-5
