"""Counts the parameters of the networks from the arithmetic of their layers; nothing of ours or of torch is used.

Prints the table of ParameterCountsAreThePublishedOnes (backbone_test.cpp): 112 px (7 x 7 tail), 512-d, width 1.
"""


def conv(inputs, outputs, kernel, groups=1):
    return outputs * inputs // groups * kernel * kernel


def norm(channels):
    return 2 * channels


def iresnet(blocks):
    total, channels = conv(3, 64, 3) + norm(64) + 64, 64
    for stage, count in enumerate(blocks):
        out = 64 << stage
        total += conv(channels, out, 1) + norm(out)  # downsample of the first block
        for _ in range(count):
            total += norm(channels) + conv(channels, out, 3) + norm(out) + out
            total += conv(out, out, 3) + norm(out)
            channels = out
    return total + norm(512) + 512 * 7 * 7 * 512 + 512 + norm(512)


def block(inputs, outputs, kernel, groups=1):
    return conv(inputs, outputs, kernel, groups) + norm(outputs) + outputs


def depthwise(inputs, outputs, groups):
    middle = block(inputs, groups, 1) + block(groups, groups, 3, groups)
    return middle + conv(groups, outputs, 1) + norm(outputs)


def mobilefacenet(blocks, scale):
    narrow, wide = 64 * scale, 128 * scale
    total = block(3, narrow, 3)
    first_is_conv = blocks[0] == 1
    total += block(narrow, narrow, 3, 64) if first_is_conv else blocks[0] * depthwise(narrow, narrow, 128)
    total += depthwise(narrow, narrow, 128) + blocks[1] * depthwise(narrow, narrow, 128)
    total += depthwise(narrow, wide, 256) + blocks[2] * depthwise(wide, wide, 256)
    total += depthwise(wide, wide, 512) + blocks[3] * depthwise(wide, wide, 256)
    total += block(wide, 512, 1) + conv(512, 512, 7, 512) + norm(512)
    return total + 512 * 512 + norm(512)


for name, count in {
    "iresnet18": iresnet((2, 2, 2, 2)),
    "iresnet34": iresnet((3, 4, 6, 3)),
    "iresnet50": iresnet((3, 4, 14, 3)),
    "iresnet100": iresnet((3, 13, 30, 3)),
    "iresnet200": iresnet((6, 26, 60, 6)),
    "mobilefacenet": mobilefacenet((1, 4, 6, 2), 2),
    "mobilefacenet_large": mobilefacenet((2, 8, 12, 4), 4),
}.items():
    print(f'      {{"{name}", {count}}},')
