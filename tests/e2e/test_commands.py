"""The command line itself: help, list, --print-config, mixed builds."""
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from program import PROGRAM, ROOT, environment, run, tiny_faces, write_config

SUBCOMMANDS = [[], ["train"], ["list"], ["shards"], ["shards", "pack"], ["shards", "synth"], ["shards", "info"], ["shards", "verify"],
               ["eval"], ["embed"], ["export"], ["report"]]


def subcommands(words):
    """What the help of `facetrain WORDS` names below its heading of subcommands."""
    text = run([*words, "--help"]).stdout
    return re.findall(r"^  ([a-z]+) ", text.split("Subcommands:")[1].split("\n\n")[0], re.M) if "Subcommands:" in text else []


def test_every_level_is_known_here():
    assert [[]] + [[name] for name in subcommands([])] + [["shards", name] for name in subcommands(["shards"])] == sorted(
        SUBCOMMANDS, key=lambda words: (len(words), [subcommands(words[:-1]).index(words[-1])] if words else []))


@pytest.mark.parametrize("words", SUBCOMMANDS, ids=" ".join)
def test_help_ends_with_a_worked_example(words):
    lines = [line for line in run([*words, "--help"]).stdout.splitlines() if line.strip()]
    start = max(n for n, line in enumerate(lines) if re.match("Examples?:", line))
    examples = lines[start + 1:]
    assert examples and all(line.startswith("  ") for line in examples), "nothing stands behind the example"
    assert any(" ".join(["facetrain", *words]) in line for line in examples), examples


def registered():
    """(folder, name) of every registration in the sources: `Kinds::get().add<...>("name", "meaning")`."""
    found = []
    for folder in ("data", "models", "losses", "eval", "export", "trainer"):
        for file in sorted((ROOT / folder).rglob("*.cpp")):
            found += re.findall(r'(\w+)::get\(\)\.add<[^;]*?>\(\s*"(\w+)"', file.read_text())
    return found


def test_list_shows_every_registered_name_with_meaning_and_options():
    text = run(["list"]).stdout
    kinds = re.split(r"^(?=\w)", text, flags=re.M)[1:]
    listed = {kind.split("\n")[0]: kind for kind in kinds}
    names = registered()
    assert {kind for kind, _ in names} == {"Backbones", "Margins", "PairLosses", "Recipes", "Protocols", "Sources", "Samplers", "Transforms",
                                           "Schedules", "Optimizers", "Exporters"}
    for kind, name in names:
        title = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()
        assert re.search(rf"^  {name} +\w.{{8,}}", listed[title], re.M), f"{kind}: {name} with one line of meaning"
    by_helpers = {"backbones": "iresnet18 iresnet34 iresnet50 iresnet100 iresnet200 mobilefacenet", "margins": "arcface cosface softmax",
                  "schedules": "constant cosine poly step", "sources": "folder images list shards"}
    for kind, wanted in by_helpers.items():
        assert set(wanted.split()) <= set(re.findall(r"^  (\w+)", listed[kind], re.M)), kind
    for line in re.findall(r"^      .*", text, re.M):  # an option, its default, its meaning
        assert re.match(r"      \w+ +\S.* .{8,}", line), line
    # By hand, from the documentation: name, default and allowed values.
    assert re.search(r"^  arcface .*\n(      .*\n)*      margin +0\.5 .*\(", listed["margins"], re.M)
    assert re.search(r"^  cosface .*\n(      .*\n)*      margin +0\.4 ", listed["margins"], re.M)
    assert re.search(r"^  sgd .*\n(      .*\n)*      momentum +0\.9 ", listed["optimizers"], re.M)
    assert re.search(r"precision +fp32 .*fp32 \| bf16 \| fp16 \| fp64", listed["trainer"])


def test_list_of_one_kind_or_name():
    assert run(["list", "margins"]).stdout.split("\n")[0] == "margins" and "iresnet" not in run(["list", "margins"]).stdout
    assert re.fullmatch(r"margins\n  arcface .*\n(      .*\n)+", run(["list", "arcface"]).stdout)
    assert run(["list", "networks"]).stdout == run(["list", "backbones"]).stdout
    optimizers = run(["list", "optimizers"]).stdout
    assert re.match(r"optimizers\n  \(each of them\)\n(      .*\n)*      no_decay  ", optimizers) and optimizers.count("      no_decay ") == 1
    assert run(["list", "sgd"]).stdout.count("      no_decay ") == 1, "one by itself has all its options"
    assert re.search(r"^      protocol +identification ", run(["list", "identification"]).stdout, re.M)
    for word, guess in (("arcfaec", "did you mean 'arcface'"), ("nonsense", "no 'nonsense'; kinds: backbones, margins, ")):
        done = run(["list", word], check=False)
        assert done.returncode == 2 and guess in done.stderr and not done.stdout, done


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    write_config(folder, tiny_faces(folder / "faces", identities=3, images=4))
    return folder


def test_print_config_is_a_configuration_that_prints_itself(base, tmp_path):
    overrides = ["run=r", "eval.sets=[{path: 'a #b', pairs: p.csv}]", "optimizer.rules=[{match: 'rank<2', lr_scale: 2}]",
                 "data.train=[{path: 'folder:x: y', weight: 2}, {path: 'true', weight: 0.1}]", "checkpoint.every='2 epochs'",
                 "classifier.sample_rate={at: [0, '4 epochs'], value: [0.1, 1.0], interpolate: linear}"]
    for words in ([base / "config.yaml"], [base / "config.yaml", *overrides], *([file] for file in sorted(ROOT.glob("configs/*/*.yaml")))):
        first = run(["train", "--print-config", *words]).stdout
        (tmp_path / "again.yaml").write_text(first)
        assert run(["train", "--print-config", tmp_path / "again.yaml"]).stdout == first, words
    text = run(["train", "--print-config", base / "config.yaml", *overrides]).stdout
    for wanted in ("margin: 0.2", "max_skipped: 10", "path: \"a #b\"", "path: \"folder:x: y\"", "path: true, weight: 0.1", "every: 2 epochs",
                   "flip: true", "weight_decay: -1"):
        assert wanted in text, wanted


def test_an_override_of_the_same_name_drops_the_files_options(base):
    text = run(["train", "--print-config", base / "config.yaml", "loss.name=arcface", "loss.scale=20"]).stdout
    loss = text.split("\nloss:\n")[1]
    assert re.match(r"( .*\n)*  margin: 0.5\n", loss) and re.match(r"( .*\n)*  scale: 20\n", loss), text


def test_what_a_name_drops_is_said_beside_the_configuration(base):
    done = run(["train", "--print-config", base / "config.yaml", "loss.name=cosface"])
    assert re.fullmatch(r"warning: command line: loss.name=cosface: margin, scale of .*/config.yaml:5 no longer apply\n", done.stderr)
    assert "no longer apply" not in done.stdout


def test_usage_says_what_may_have_been_meant(base):
    def said(*words):
        done = run(words, check=False)
        assert done.returncode == 2 and not done.stdout, done
        return done.stderr.splitlines()[0]
    assert said("trian").startswith("there is no subcommand 'trian' (did you mean 'train'?); known: train, ")
    assert said("shards", "pakc").startswith("shards: there is no subcommand 'pakc' (did you mean 'pack'?); known: ")
    assert said("train", base / "config.yaml", "--epochs", "3") == "train: no option --epochs; settings are written trainer.epochs=3"
    assert said("train", base / "config.yaml", "--lr=0.1") == "train: no option --lr; settings are written optimizer.lr=0.1"
    assert said("train", base / "config.yaml", "--batch-size").endswith("data.batch_size=VALUE")
    assert said("train", base / "config.yaml", "--resme", "x") == "train: no option --resme (did you mean '--resume'?)"
    assert said("eval", "x", "--protocl", "pairs") == "eval: no option --protocl (did you mean '--protocol'?)"
    assert "wanted a configuration file" in said("train")
    alone = run([], check=False)
    assert alone.returncode == 2 and "  train " in alone.stdout and "launch/local.sh" in alone.stdout, alone


def test_mixed_builds_are_refused(base, tmp_path):
    """The program and its libraries, copied, with one byte more: another build as far as anybody can tell."""
    for file in pathlib.Path(PROGRAM).parent.iterdir():
        if file.name == "facetrain" or file.name.startswith("libfacetrain"):
            shutil.copy(file, tmp_path / file.name)
    with open(tmp_path / "facetrain", "ab") as file:
        file.write(b"\0")
    words = ["train", str(base / "config.yaml"), f"run={tmp_path}/run", "trainer.steps=1"]
    def job(second):
        return subprocess.run(["mpirun", "--bind-to", "none", "--oversubscribe", "-np", "1", PROGRAM, *words, ":", "-np", "1", second,
                               *words], env=environment(), capture_output=True, text=True, timeout=60)
    done = job(str(tmp_path / "facetrain"))
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    said = [line for line in done.stderr.splitlines() if re.match(r"\[rank \d\] ", line)]
    assert len(said) == 1 and "the build of facetrain wants to be the same" in said[0], done.stderr
    assert "rank 0" in said[0] and "rank 1" in said[0] and len(set(re.findall(r"0\.1\.0-[0-9a-f]{16}", said[0]))) == 2
    assert job(PROGRAM).returncode == 0, "the same build runs"


def test_half_of_mpiruns_environment_is_no_crash():
    for name in ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"):
        assert run(["--version"], env={name: "0"}).stdout.strip(), name


def test_progress_counts_whole_percent(tmp_path):
    said = run(["shards", "synth", "--out", tmp_path / "set", "--identities", 2, "--images", 2, "--test-identities", 0, "--size", 32])
    shares = re.findall(r"(\d+) of (\d+) images \((\d+) %\)", said.stdout + said.stderr)
    assert shares and all(int(percent) == 100 * int(done) // int(total) for done, total, percent in shares), shares
    assert ("1", "4", "25") in shares


def test_waiting_threads_sleep():
    script = f"source {ROOT}/launch/environment.sh; source {ROOT}/launch/mpi.sh; echo $OMP_WAIT_POLICY"
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for extra, wanted in (({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")):
        said = subprocess.run(["bash", "-c", script], env=env | extra, capture_output=True, text=True, check=True).stdout
        assert said.strip().splitlines()[-1] == wanted
