"""An independent IResNet and MobileFaceNet in plain PyTorch, and ir_witness.py's IR, compared with the program's own.

Written from the description of the public implementation (reference/recognition.md 3.1 and 3.3), without a look at
models/. Usage: iresnet_witness.py FOLDER, where FOLDER was filled by
  FACETRAIN_DUMP=FOLDER models_test --gtest_filter=Backbones.DumpForTheWitness
Each NAME.safetensors must load with strict keys. All is float64: evaluation and training outputs must agree to 1e-10
of the largest output, and the gradients of the sum of cubed training outputs to 1e-8 of the norm of each.
"""

import pathlib
import sys

import torch
from ir_witness import IRS, Ir
from safetensors.torch import load_file
from torch import nn


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps=1e-5)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, eps=1e-5)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, eps=1e-5)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs, eps=1e-5))

    def forward(self, x):
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    def __init__(self, blocks, width, embedding, size):
        super().__init__()
        channels = int(64 * width)
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        for stage, count in enumerate(blocks):
            outputs = int(64 * width) * 2**stage
            layer = [Block(channels if k == 0 else outputs, outputs, 2 if k == 0 else 1) for k in range(count)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
            channels = outputs
        for _ in range(4):
            size = (size + 1) // 2
        self.bn2 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels * size * size, embedding)
        self.features = nn.BatchNorm1d(embedding)

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(self.bn2(x), 1)
        with torch.autocast("cpu", enabled=False):
            return self.features(self.fc(x.to(self.fc.weight.dtype)))


class Conv(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1, padding=0, groups=1, slope=True):
        super().__init__()
        layers = [nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
                  nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*layers, *([nn.PReLU(outputs)] if slope else []))

    def forward(self, x):
        return self.layers(x)


class DepthWise(nn.Module):
    def __init__(self, inputs, outputs, groups, stride=1, residual=False):
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(Conv(inputs, groups), Conv(groups, groups, 3, stride, 1, groups),
                                    Conv(groups, outputs, slope=False))

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


class Residual(nn.Module):
    def __init__(self, channels, count, groups):
        super().__init__()
        self.layers = nn.Sequential(*[DepthWise(channels, channels, groups, residual=True) for _ in range(count)])

    def forward(self, x):
        return self.layers(x)


class Tail(nn.Module):
    def __init__(self, channels, side, embedding):
        super().__init__()
        self.layers = nn.Sequential(Conv(channels, channels, side, groups=channels, slope=False), nn.Flatten(),
                                    nn.Linear(channels, embedding, bias=False), nn.BatchNorm1d(embedding))

    def forward(self, x):
        return self.layers(x)


class MobileFaceNet(nn.Module):
    def __init__(self, blocks, scale, width, embedding, size):
        super().__init__()
        c = lambda channels: int(channels * width)
        narrow, wide = c(64 * scale), c(128 * scale)
        second = (Conv(narrow, narrow, 3, 1, 1, c(64)) if blocks[0] == 1 else Residual(narrow, blocks[0], c(128)))
        self.layers = nn.ModuleList([
            Conv(3, narrow, 3, 2, 1), second,
            DepthWise(narrow, narrow, c(128), 2), Residual(narrow, blocks[1], c(128)),
            DepthWise(narrow, wide, c(256), 2), Residual(wide, blocks[2], c(256)),
            DepthWise(wide, wide, c(512), 2), Residual(wide, blocks[3], c(256))])
        self.conv_sep = Conv(wide, c(512))
        self.features = Tail(c(512), (size + 15) // 16, embedding)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))


IRESNETS = {"iresnet18": (2, 2, 2, 2), "iresnet34": (3, 4, 6, 3), "iresnet50": (3, 4, 14, 3),
            "iresnet100": (3, 13, 30, 3), "iresnet200": (6, 26, 60, 6)}
MOBILE = {"mobilefacenet": ((1, 4, 6, 2), 2), "mobilefacenet_large": ((2, 8, 12, 4), 4)}


def build(name, width=1.0, embedding=512, size=112):
    if name in IRESNETS:
        return IResNet(IRESNETS[name], width, embedding, size)
    if name in IRS:
        return Ir(name, width, embedding, size)
    return MobileFaceNet(*MOBILE[name], width, embedding, size)


def check(folder, name):
    """Returns the largest relative differences of evaluation, training output and gradients."""
    weights, probe = load_file(folder / f"{name}.safetensors"), load_file(folder / f"{name}.probe.safetensors")
    x = probe["input"]
    first = next(key for key in ("conv1.weight", "input_layer.0.weight", "layers.0.layers.0.weight") if key in weights)
    network = build(name, weights[first].shape[0] / (64 * MOBILE[name][1] if name in MOBILE else 64),
                    probe["eval_output"].shape[1], x.shape[-1])
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0  # as the dump was made; what it drops is the program's own
    network.double().load_state_dict(weights, strict=True)
    relative = lambda ours, theirs: ((ours - theirs).abs().max() / theirs.abs().max()).item()
    with torch.no_grad():
        evaluated = relative(probe["eval_output"], network.eval()(x))
    y = network.train()(x)
    y.pow(3).sum().backward()
    gradients = {k: p.grad for k, p in network.named_parameters() if f"gradient.{k}" in probe}
    frozen = {k for k, _ in network.named_parameters()} - gradients.keys()
    assert frozen == ({"features.weight"} if name in IRESNETS else set()), frozen
    largest = max(gradient.norm() for gradient in gradients.values())
    backward = max(((probe[f"gradient.{k}"] - g).norm() / (g.norm() + 1e-4 * largest)).item()
                   for k, g in gradients.items())
    return evaluated, relative(probe["training_output"], y.detach()), backward


def main():
    folder = pathlib.Path(sys.argv[1])
    names = sorted(p.name[: -len(".probe.safetensors")] for p in folder.glob("*.probe.safetensors"))
    assert names, f"{folder} holds no dump: run models_test with FACETRAIN_DUMP first"
    failed = False
    for name in names:
        evaluated, trained, backward = check(folder, name)
        bad = evaluated > 1e-10 or trained > 1e-10 or backward > 1e-8
        failed |= bad
        print(f"{name}: eval {evaluated:.1e}, training {trained:.1e}, gradients {backward:.1e}"
              f" {'FAILED' if bad else 'ok'}")
    sys.exit(failed)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
