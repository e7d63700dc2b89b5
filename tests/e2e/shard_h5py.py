#!/usr/bin/env python3
"""Reads shards with h5py and checks every column of them without our code.

usage: shard_h5py.py PROGRAM    (python with h5py, numpy and pillow)
"""
import io
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np
from PIL import Image

PROGRAM = os.path.abspath(sys.argv[1])
TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data, before=0):
    crc = before ^ 0xFFFFFFFF
    for byte in bytes(data):
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283

FIXED = {  # name: type, shape of one record, unit
    "identity": ("<i8", (), "class"),
    "landmarks5": ("<f4", (5, 2), "pixels"),
    "landmarks68": ("<f4", (68, 2), "pixels"),
    "pose": ("<f4", (3,), "degrees"),
    "gaze": ("<f4", (2,), "degrees"),
    "expression": ("<i8", (), "class"),
    "age": ("<f4", (), "years"),
    "age_group": ("<i8", (), "class"),
    "quality": ("<f4", (), "1"),
    "visibility68": ("|u1", (68,), "0 or 1"),
}
VARIABLE = {"mask": "png", "name": "text"}


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def lines(value):
    return text(value).split("\n") if text(value) else []


def run(*arguments, code=0):
    result = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    return result.stdout + result.stderr


def check_description(name, item, bit):
    assert item.attrs["presence_bit"] == bit
    assert text(item.attrs["convention"])
    missing = item.attrs["missing"]
    kind = text(item.attrs["type"])
    if kind == "int64":
        assert missing == -1
    elif kind == "float32":
        assert np.isnan(missing)
    elif kind == "uint8":
        assert missing == 255
    else:
        assert kind == VARIABLE[name] and text(missing) == ""


def check_shard(path):
    """Opens one shard and returns its records as dictionaries."""
    records = []
    with h5py.File(path, "r") as file:
        assert text(file.attrs["format"]) == "facetrain shard" and file.attrs["version"] == 1
        assert file.attrs["file_length"] == os.path.getsize(path)
        count = int(file.attrs["records"])
        images = file["images/bytes"]
        assert images.dtype == np.uint8 and images.chunks is None and images.ndim == 1
        position = images.id.get_offset()
        assert position % 4096 == 0
        data, offset = images[:], file["images/offset"][:]
        with open(path, "rb") as raw:  # what the loader does: plain reads at the offset
            raw.seek(position)
            assert raw.read(len(data)) == data.tobytes()
        assert offset.dtype == np.dtype("<u8") and offset.shape == (count + 1,)
        assert offset[0] == 0 and offset[-1] == len(data) and (np.diff(offset.astype(np.int64)) > 0).all()
        crc = file["images/crc32c"][:]
        assert crc.dtype == np.dtype("<u4") and crc.shape == (count,)
        presence = file["presence"][:]
        assert presence.dtype == np.dtype("<u8") and presence.shape == (count,)
        names = lines(file["presence"].attrs["columns"])
        assert sorted(names) == sorted(file["labels"].keys())

        whole = crc32c(presence.tobytes(), crc32c(crc.tobytes(), crc32c(offset.tobytes(), crc32c(data.tobytes()))))
        columns = {}
        for bit, name in enumerate(names):
            item = file["labels"][name]
            check_description(name, item, bit)
            if name in VARIABLE:
                values, at = item["bytes"][:], item["offset"][:]
                assert at.shape == (count + 1,) and at[0] == 0 and at[-1] == len(values)
                whole = crc32c(at.tobytes(), crc32c(values.tobytes(), whole))
                columns[name] = [values[at[i]:at[i + 1]].tobytes() for i in range(count)]
            else:
                values = item[:]
                whole = crc32c(values.tobytes(), whole)
                if name == "attributes":
                    assert values.dtype == np.uint8 and values.shape == (count, len(lines(item.attrs["classes"])))
                else:
                    kind, shape, unit = FIXED[name]
                    assert values.dtype == np.dtype(kind) and values.shape == (count, *shape), name
                    assert text(item.attrs["unit"]) == unit
                columns[name] = values
        assert whole == file.attrs["content_crc32c"]
        classes = {name: lines(file["labels"][name].attrs["classes"]) for name in names}
        for i in range(count):
            encoded = data[offset[i]:offset[i + 1]].tobytes()
            assert crc32c(encoded) == crc[i]
            record = {"image": encoded, "classes": classes, "present": set()}
            for bit, name in enumerate(names):
                record[name] = columns[name][i]
                if presence[i] >> np.uint64(bit) & np.uint64(1):
                    record["present"].add(name)
            records.append(record)
    return records


def read_set(folder):
    files = sorted(f for f in os.listdir(folder) if f.endswith(".h5"))
    assert files, folder
    with h5py.File(os.path.join(folder, files[0]), "r") as first:
        prints = text(first.attrs["set_fingerprint"])
        assert first.attrs["shard_count"] == len(files)
    records = []
    for index, name in enumerate(files):
        with h5py.File(os.path.join(folder, name), "r") as file:
            assert file.attrs["shard_index"] == index and text(file.attrs["set_fingerprint"]) == prints
        records += check_shard(os.path.join(folder, name))
    return records


def check_synthetic(folder, identities, images):
    records = read_set(folder)
    assert [int(r["identity"]) for r in records] == [i for i in range(identities) for _ in range(images)]
    for record in records:
        picture = Image.open(io.BytesIO(record["image"]))
        assert picture.format == "JPEG" and picture.size == (112, 112) and picture.mode == "RGB"
        picture.load()
        assert record["present"] == set(FIXED) | {"mask", "attributes"}
        mask = np.array(Image.open(io.BytesIO(record["mask"])))
        assert mask.shape == (112, 112) and mask.dtype == np.uint8
        assert len(record["classes"]["mask"]) == 11 and mask.max() <= 10 and len(np.unique(mask)) >= 4
        assert len(record["classes"]["attributes"]) >= 12 and set(np.unique(record["attributes"])) <= {0, 1}
        assert 0 <= record["expression"] < len(record["classes"]["expression"])
        assert 0 <= record["age_group"] < len(record["classes"]["age_group"])
        assert set(np.unique(record["visibility68"])) <= {0, 1}
        assert 0 <= record["quality"] <= 1 and 0 < record["age"] < 120
        assert abs(record["pose"][0]) <= 90 and np.isfinite(record["gaze"]).all()
        left, right = record["landmarks5"][0], record["landmarks5"][1]
        assert np.isfinite(record["landmarks68"]).all() and left[0] < right[0] + 20
        eye = record["landmarks68"][36:42].mean(0)
        assert np.hypot(*(eye - left)) < 12, (eye, left)  # the same eye in both conventions
    return records


def check_pairs(folder, images):
    with open(os.path.join(folder, "pairs.csv")) as file:
        rows = file.read().splitlines()
    assert rows[0] == "fold,i,j,same"
    people = {}
    for row in rows[1:]:
        fold, i, j, same = map(int, row.split(","))
        assert (i // images == j // images) == bool(same) and i != j
        for person in (i // images, j // images):
            assert people.setdefault(person, fold) == fold, "a person in two folds"
    assert len(rows) > 1


def main():
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "synth")
        synth = ["shards", "synth", "--identities", 5, "--images", 3, "--seed", 3, "--test-identities", 4,
                 "--test-images", 3, "--shard-size", 4]
        run(*synth, "--out", out, "--jobs", 2)
        records = check_synthetic(out, 5, 3)
        test = check_synthetic(out + "-test", 4, 3)
        assert not {r["image"] for r in records} & {r["image"] for r in test}
        check_pairs(out + "-test", 3)
        assert "15 images" in run("shards", "info", out)
        run("shards", "verify", out)

        source = os.path.join(folder, "people")
        for number, person in enumerate(("anna", "bert")):
            os.makedirs(os.path.join(source, person))
            for i in range(2):
                name = os.path.join(source, person, f"{i}.jpg")
                with open(name, "wb") as file:
                    file.write(records[2 * number + i]["image"])
        pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
        with open(os.path.join(source, "bert", "grey.pgm"), "wb") as file:
            file.write(b"P5 4 3 255\n" + pixels.tobytes())
        packed = os.path.join(folder, "packed")
        run("shards", "pack", "--out", packed, source)
        records = read_set(packed)
        assert [int(r["identity"]) for r in records] == [0, 0, 1, 1, 1]
        names = [text(r["name"]) for r in records]
        assert names == ["anna/0.jpg", "anna/1.jpg", "bert/0.jpg", "bert/1.jpg", "bert/grey.pgm"]
        for record, name in zip(records[:4], names):
            with open(os.path.join(source, name), "rb") as file:
                assert file.read() == record["image"], "JPEG bytes must be kept"
        picture = Image.open(io.BytesIO(records[4]["image"]))
        assert picture.format == "PNG" and (np.array(picture) == pixels).all()

        shard = os.path.join(packed, "packed-00000.h5")
        with open(shard, "r+b") as file:
            body = file.read()
            file.seek(body.index(records[2]["image"]) + 200)
            file.write(b"\0\1\2\3")
        complaint = run("shards", "verify", packed, code=1)
        assert "packed-00000.h5" in complaint and "sample 2" in complaint, complaint
    print("shards: every column checked with h5py")


main()
