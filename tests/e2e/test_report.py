"""What a person sees of a run: the page of `facetrain report`, and event files as the tensorboard package reads them."""
import html.parser
import json
import math
import os
import re
import shutil

import numpy
import pytest
from program import PROGRAM, metrics, run, tiny_faces, write_config

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """A page whose every element is closed, in order; keeps attributes, text by element, and ids."""

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.text, self.ids = [], [], {}, set()
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        for name, value in attrs:
            if name == "id":
                assert value not in self.ids, f"a second id {value}"
                self.ids.add(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    def words(self):
        return " ".join(part for tag, parts in self.text.items() if tag != "style" for part in parts)


def read_page(file):
    """The page, after asking that it needs nothing but itself."""
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "srcset", "poster", "data", "action"):
            assert value.startswith("data:image/jpeg;base64,"), (tag, name, value[:60])
        if name == "href":
            assert re.match(r"(#|\./)", value), value
    style = "".join(page.text["style"])
    assert "url(" not in text and "@import" not in style and "http:" not in text and "https:" not in text and "<script" not in text
    for tag, name, value in page.attributes:  # every link within the page leads somewhere
        if name == "href" and value.startswith("#"):
            assert value[1:] in page.ids, value
    return page


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Twelve steps on two ranks, cut after step 8 and resumed, with an evaluation every fourth."""
    folder = tmp_path_factory.mktemp("report")
    faces = tiny_faces(folder / "faces & co", identities=6, images=8)
    pairs = ["fold,i,j,same"]
    for fold in range(4):
        for i in range(4):
            person = (fold + i) % 6
            pairs += [f"{fold},{person * 8 + i},{person * 8 + i + 3},1", f"{fold},{person * 8 + i},{(person + 2) % 6 * 8 + i},0"]
    (folder / "pairs.csv").write_text("\n".join(pairs) + "\n")
    config = write_config(folder, faces)
    sets = f"eval.sets=[{{name: 'tiny <set>', path: '{faces}', pairs: '{folder}/pairs.csv'}}]"
    run(["train", config, "trainer.steps=12", "checkpoint.every=4", "checkpoint.keep=0", "eval.every=4", sets], 2)
    whole = metrics(folder / "run")
    shutil.rmtree(folder / "run/step_000000012")
    (folder / "run/latest").write_text("step_000000008\n")
    run(["train", "--resume", folder / "run"], 2)
    assert [line["step"] for line in metrics(folder / "run")] == list(range(1, 13)), "each step once"
    assert [line["loss"] for line in whole] == [line["loss"] for line in metrics(folder / "run")]
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- the page


def test_the_page_shows_what_the_logs_say(base, tmp_path):
    done = run(["report", base / "run", "-o", tmp_path / "report.html"])
    assert str(tmp_path / "report.html") in done.stdout
    page = read_page(tmp_path / "report.html")
    titles = page.text["title"]  # under the mouse
    for line in metrics(base / "run"):
        wanted = f"step {line['step']}\nloss {line['loss']:.5g}"
        assert any(wanted in title for title in titles), wanted
    words = page.words()
    last = [line for line in lines(base / "run") if "eval" in line][-1]["eval"]
    for name in ("tiny <set>.accuracy", "tiny <set>.auc"):
        assert f"{last[name]:.4g}" in words, name
        assert f"{last[name]:.4f}" in words, f"{name}: the same network on the same pairs, evaluated again"
    assert page.ids >= {"curves", "progress", "evaluation", "time", "configuration", "environment", "checkpoints"}
    assert (base / "run/config.yaml").read_text().strip() in "".join(page.text["pre"])
    sessions = [json.loads(line) for line in (base / "run/sessions.jsonl").read_text().splitlines()]
    assert [s["event"] for s in sessions] == ["start", "end"] * 2 and [s["step"] for s in sessions] == [0, 12, 8, 12]
    for wanted in (sessions[0]["host"], sessions[0]["place"], sessions[0]["processor"], sessions[0]["libraries"]["torch"], "2 ranks",
                   "done at step 12", "finished", "faces & co", "threshold"):
        assert wanted in words, wanted
    links = [value for _, name, value in page.attributes if name == "href" and value.startswith("./")]
    assert [(tmp_path / link).resolve().name for link in links] == [f"step_{step:09d}" for step in (4, 8, 12)]
    assert all((tmp_path / link).is_dir() for link in links)
    pictures = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
    assert len(pictures) == 2 * 2 * 8


def test_phases_cover_the_time_of_the_steps(base):
    for line in metrics(base / "run"):
        assert set(line["phases"]) >= {"data", "forward", "backward", "reduce", "verdict", "update", "other"}
        assert all(seconds >= 0 for seconds in line["phases"].values())
        # 12 images a step at this rate; rounding apart, the phases are the whole of the time.
        assert sum(line["phases"].values()) == pytest.approx(12 / line["samples_per_second"], rel=0.02, abs=1e-4)


def test_without_evaluation_and_with_sets_that_cannot_be_read(base, tmp_path):
    out = tmp_path / "report.html"
    run(["report", base / "run", "--no-eval", "-o", out])
    page = read_page(out)
    assert "Not evaluated: asked for with --no-eval" in page.words() and "img" not in {tag for tag, _, _ in page.attributes}
    done = run(["report", base / "run", "-o", out,
                f"eval.sets=[{{name: gone, path: '{base}/none', pairs: '{base}/pairs.csv'}}, "
                f"{{name: here, path: '{base}/faces & co', pairs: '{base}/pairs.csv'}}]"])
    words = read_page(out).words()
    assert "gone could not be evaluated:" in words and str(base / "none") in words and "here" in words
    assert "gone is not in the report" in done.stderr


def test_identification_has_its_own_curves(base, tmp_path):
    out = tmp_path / "report.html"
    run(["report", base / "run", "-o", out, "--pictures=3", f"eval.sets=[{{name: who, protocol: identification, path: '{base}/faces & co'}}]"])
    page = read_page(out)
    for wanted in ("rank1", "rank10", "tpir@fpir=0.1", "Identification rate over rank", "6 entries of 6 people in the gallery; 42 probes"):
        assert wanted in page.words(), wanted
    pictures = [tag for tag, name, _ in page.attributes if tag == "img" and name == "src"]
    assert len(pictures) <= 2 * 3 and len(pictures) % 2 == 0


def test_a_run_that_has_only_begun(base, tmp_path):
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copy(base / "run/config.yaml", fresh)
    run(["report", fresh])
    words = read_page(fresh / "report.html").words()
    for wanted in ("No step is logged yet", "the run has no checkpoint yet", "The run has no checkpoint yet", "Not recorded"):
        assert wanted in words, wanted


def test_losses_that_are_not_finite_and_broken_lines(base, tmp_path):
    odd = tmp_path / "odd"
    odd.mkdir()
    shutil.copy(base / "run/config.yaml", odd)
    (odd / "metrics.jsonl").write_text('{"step": 1, "loss": null, "lr": 0.1}\nnot JSON\n{"step": 2, "loss": null, "lr": 0.1}\n{"step": 3, "lo')
    run(["report", odd, "--no-eval"])
    words = read_page(odd / "report.html").words()
    assert "2 of 2 values are not finite" in words and "no finite value" in words and "2 lines" in words


def test_many_steps_make_a_small_page(base, tmp_path):
    long = tmp_path / "long"
    long.mkdir()
    shutil.copy(base / "run/config.yaml", long)
    with open(long / "metrics.jsonl", "w") as file:
        for step in range(1, 100_001):
            loss = 99.5 if step == 70_001 else 5 + math.sin(step / 5000)
            file.write(f'{{"step": {step}, "loss": {loss}, "lr": 0.1}}\n')
    run(["report", long, "--no-eval"])
    text = (long / "report.html").read_text()
    read_page(long / "report.html")
    assert len(text) < 300_000
    raw = re.search(r'class="pale c0" d="([^"]*)"', text).group(1)
    # The one outlier is still there: 5 % below the upper edge, where everything else lies far below.
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", raw)]
    assert min(heights) < 12 and sum(height < 100 for height in heights) == 1


def test_a_damaged_checkpoint_is_told_in_the_page(base, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(base / "run", damaged)
    with open(damaged / "step_000000012/model.safetensors", "r+b") as file:
        file.truncate(100)
    done = run(["report", damaged])
    words = read_page(damaged / "report.html").words()
    assert "Not evaluated:" in words and "model.safetensors" in words and "nothing is evaluated" in done.stderr


@pytest.mark.parametrize("case", ["no_run", "no_folder", "read_only", "a_folder", "full_disk", "two_ranks", "override"])
def test_bad_input_leaves_one_message_and_no_page(base, tmp_path, case):
    ranks, words, env, wanted = 1, ["report", base / "run", "--no-eval", "-o", tmp_path / "page.html"], None, ""
    if case == "no_run":
        words[1], wanted = tmp_path, "not a run folder"
    elif case == "no_folder":
        words[-1], wanted = tmp_path / "none/page.html", "none"
    elif case == "read_only":
        words[-1], wanted = "/proc/page.html", "/proc"
    elif case == "a_folder":
        words[-1], wanted = tmp_path, str(tmp_path)
    elif case == "two_ranks":
        ranks, words, wanted = 2, [word for word in words if word != "--no-eval"], "leave mpirun away"
    elif case == "override":
        words, wanted = [*[word for word in words if word != "--no-eval"], "eval.sets=[{paht: x}]"], "paht"
    if case == "full_disk":
        import subprocess
        done = subprocess.run(["bash", "-c", f"ulimit -f 4; exec {PROGRAM} " + " ".join(f"'{word}'" for word in words)],
                              capture_output=True, text=True, timeout=60)
        wanted = "page.html"
    else:
        done = run(words, ranks, check=False, env=env)
    said = [line for line in done.stderr.splitlines() if line.startswith(("facetrain: ", "[rank "))]
    assert done.returncode not in (0, 2) and len(said) == 1 and wanted in said[0], (done.returncode, done.stderr)
    assert not list(tmp_path.iterdir()), "nothing half-written"


# ---- TensorBoard


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def wanted_scalars(folder):
    """What metrics.jsonl says, by TensorBoard's tags and in its float32."""
    speed = ("samples_per_second", "data_wait", "memory_gb")
    wanted = {}
    for line in lines(folder):
        if "eval" in line:
            values = {f"eval/{name}": value for name, value in line["eval"].items()}
        else:
            values = {("speed/" if name in speed else "train/") + name: value for name, value in line.items()
                      if name not in ("step", "samples", "phases")}
        for tag, value in values.items():
            with numpy.errstate(over="ignore"):  # 1e300 is infinite there
                wanted.setdefault(tag, []).append((line["step"], numpy.float32(math.nan if value is None else value)))
    return wanted


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for tag, points in wanted.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in points], tag
        numpy.testing.assert_array_equal([value for _, value in found[tag]], [value for _, value in points], err_msg=tag)


def test_tensorboard_reads_each_step_once_also_after_a_resume(base):
    files = sorted((base / "run").glob("events.out.tfevents.*"))
    assert len(files) == 2, "one a start"
    found = scalars(base / "run")
    assert {"train/loss", "train/lr", "speed/samples_per_second", "eval/tiny <set>.accuracy"} <= found.keys()
    assert [step for step, _ in found["train/loss"]] == list(range(1, 13))
    assert [step for step, _ in found["eval/tiny <set>.accuracy"]] == [4, 8, 12]
    same(found, wanted_scalars(base / "run"))


def test_tensorboard_can_be_turned_off_and_keeps_values_that_are_not_finite(base, tmp_path):
    run(["train", base / "config.yaml", f"run={tmp_path}/off", "log.tensorboard=false", "trainer.steps=2"])
    assert not list((tmp_path / "off").glob("events*")) and len(metrics(tmp_path / "off")) == 2
    run(["train", base / "config.yaml", f"run={tmp_path}/nan", "trainer.steps=3", "optimizer.lr=1e300", "trainer.max_skipped=10"])
    assert any(line["gradient_norm"] is None for line in metrics(tmp_path / "nan"))
    same(scalars(tmp_path / "nan"), wanted_scalars(tmp_path / "nan"))


def test_a_killed_run_without_checkpoint_begins_again(base, tmp_path):
    """Its steps were logged, but the resume starts at step 0."""
    folder = tmp_path / "begins"
    run(["train", base / "config.yaml", f"run={folder}", "trainer.steps=5"])
    shutil.rmtree(folder / "step_000000005")
    os.remove(folder / "latest")
    run(["train", "--resume", folder, "trainer.steps=3"])
    same(scalars(folder), wanted_scalars(folder))
    assert [step for step, _ in scalars(folder)["train/loss"]] == [1, 2, 3]


def test_a_full_disk_loses_records_but_neither_file_nor_run(base, tmp_path):
    import subprocess
    script = f"ulimit -f 6; exec {PROGRAM} train {base}/config.yaml run={tmp_path}/full trainer.steps=60 checkpoint.every=0"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    for name in ("metrics.jsonl", "events.out"):
        warned = [line for line in done.stderr.splitlines() if name in line and "could not be written" in line]
        assert len(warned) == 1, f"one warning in a row: {done.stderr}"
    kept = lines(tmp_path / "full")  # every line that is there is whole
    assert 2 <= len(kept) < 60 and [line["step"] for line in kept] == list(range(1, len(kept) + 1))
    losses = scalars(tmp_path / "full")["train/loss"]
    assert 2 <= len(losses) < 60 and losses[0] == (1, numpy.float32(kept[0]["loss"]))
