"""Counts the parameters of the networks from the arithmetic of their layers; nothing of ours or of torch is used.

Prints the table of ParameterCountsAreThePublishedOnes (backbone_test.cpp), and parameters and multiplications of
IR (ir_test.cpp): 112 px (7 x 7 tail), 512-d, width 1, and for IR also 128-d, width 0.25.
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



def ir(blocks, bottleneck=False, squeeze=False, stem=64, embedding=512):
    """Parameters and multiplications of IR and IR-SE; the last norm has neither slope nor shift."""
    side, channels = 112, stem
    total, macs = conv(3, stem, 3) + norm(stem) + stem, conv(3, stem, 3) * side**2
    for stage, count in enumerate(blocks):
        out = (4 * stem if bottleneck else stem) << stage
        inner = out // 4 if bottleneck else out
        for k in range(count):
            after = side // 2 if k == 0 else side
            if channels != out:
                total += conv(channels, out, 1) + norm(out)
                macs += conv(channels, out, 1) * after**2
            total += norm(channels) + norm(inner) + inner + norm(out)
            if bottleneck:
                total += conv(channels, inner, 1) + conv(inner, inner, 3) + norm(inner) + inner + conv(inner, out, 1)
                macs += (conv(channels, inner, 1) + conv(inner, inner, 3)) * side**2 + conv(inner, out, 1) * after**2
            else:
                total += conv(channels, out, 3) + conv(out, out, 3)
                macs += conv(channels, out, 3) * side**2 + conv(out, out, 3) * after**2
            if squeeze:
                total += 2 * out * max(out // 16, 1)
                macs += 2 * out * max(out // 16, 1)
            channels, side = out, after
    return total + norm(channels) + (channels * 7 * 7 + 1) * embedding, macs + channels * 7 * 7 * embedding


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

for name, blocks, bottleneck, squeeze in (
    ("ir_18", (2, 2, 2, 2), False, False),
    ("ir_34", (3, 4, 6, 3), False, False),
    ("ir_50", (3, 4, 14, 3), False, False),
    ("ir_101", (3, 13, 30, 3), False, False),
    ("ir_152", (3, 8, 36, 3), True, False),
    ("ir_200", (3, 24, 36, 3), True, False),
    ("ir_se_50", (3, 4, 14, 3), False, True),
    ("ir_se_101", (3, 13, 30, 3), False, True),
    ("ir_se_152", (3, 8, 36, 3), True, True),
    ("ir_se_200", (3, 24, 36, 3), True, True),
):
    print(name, *ir(blocks, bottleneck, squeeze), *ir(blocks, bottleneck, squeeze, 16, 128))
