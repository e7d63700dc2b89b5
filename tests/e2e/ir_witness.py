"""IR and IR-SE in plain PyTorch, written from the description of the public files (reference/recognition.md 3.2):
the second opinion on models/ir.cpp. The embedding is the feature before AdaFace divides it by its norm."""
import torch
from torch import nn

# name: (blocks a stage, bottlenecks, squeeze and excitation)
IRS = {
    "ir_18": ((2, 2, 2, 2), False, False),
    "ir_34": ((3, 4, 6, 3), False, False),
    "ir_50": ((3, 4, 14, 3), False, False),
    "ir_101": ((3, 13, 30, 3), False, False),
    "ir_152": ((3, 8, 36, 3), True, False),
    "ir_200": ((3, 24, 36, 3), True, False),
    "ir_se_50": ((3, 4, 14, 3), False, True),
    "ir_se_101": ((3, 13, 30, 3), False, True),
    "ir_se_152": ((3, 8, 36, 3), True, True),
    "ir_se_200": ((3, 24, 36, 3), True, True),
}


def convolution(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Gate(nn.Module):
    """Squeeze and excitation with a sixteenth of the channels inside."""

    def __init__(self, channels):
        super().__init__()
        self.fc1 = convolution(channels, max(channels // 16, 1), 1)
        self.fc2 = convolution(max(channels // 16, 1), channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, bottleneck, squeeze):
        super().__init__()
        same = inputs == outputs
        self.shortcut_layer = nn.MaxPool2d(1, stride) if same else nn.Sequential(
            convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        inner, outer = (outputs // 4, 1) if bottleneck else (outputs, 3)
        path = [nn.BatchNorm2d(inputs), convolution(inputs, inner, outer), nn.BatchNorm2d(inner), nn.PReLU(inner)]
        if bottleneck:
            path += [convolution(inner, inner, 3), nn.BatchNorm2d(inner), nn.PReLU(inner)]
        path += [convolution(inner, outputs, outer, stride), nn.BatchNorm2d(outputs)]
        self.res_layer = nn.Sequential(*path)
        if squeeze:
            self.res_layer.add_module("se_block", Gate(outputs))

    def forward(self, x):
        return self.res_layer(x) + self.shortcut_layer(x)


class Ir(nn.Module):
    def __init__(self, name, width=1.0, embedding=512, size=112):
        super().__init__()
        blocks, bottleneck, squeeze = IRS[name]
        channels = stem = int(64 * width)
        self.input_layer = nn.Sequential(convolution(3, stem, 3), nn.BatchNorm2d(stem), nn.PReLU(stem))
        body = []
        for stage, count in enumerate(blocks):
            outputs = stem * 2**stage * (4 if bottleneck else 1)
            for k in range(count):
                body.append(Block(channels, outputs, 2 if k == 0 else 1, bottleneck, squeeze))
                channels = outputs
            size = (size + 1) // 2
        self.body = nn.Sequential(*body)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(channels), nn.Dropout(0.4), nn.Flatten(),
            nn.Linear(channels * size * size, embedding), nn.BatchNorm1d(embedding, affine=False))

    def forward(self, x):
        return self.output_layer(self.body(self.input_layer(x)))
