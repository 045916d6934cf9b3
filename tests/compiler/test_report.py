"""The report: a page that needs nothing else, a record that programs read, a bill of materials; all from one record."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cyclonedx.model.bom import Bom
from hypothesis import given
from hypothesis import strategies as st

from fleet_protocol.detect import Boxes
from fleet_protocol.tasks import Classification, Detection
from model_compiler import metrics
from model_compiler.cli import run
from model_compiler.errors import MalformedRecord
from model_compiler.images import UNLABELLED, Image, LabelledImage
from model_compiler.report import charts, documents, findings, page, record, sbom
from model_compiler.report.charts import Point
from model_compiler.report.findings import Panel
from model_compiler.report.markup import Markup, tag
from model_compiler.stages.evaluate import Answers
from tests.compiler import networks, pictures, records
from tests.compiler.workshop import Workshop

Capture = pytest.CaptureFixture[str]


class Elements(HTMLParser):
    """Names, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


def answers(*top1: int) -> Answers:
    return Answers(
        np.array(top1, np.int32), np.linspace(1, 2, len(top1), dtype=np.float32), tuple((each,) for each in top1)
    )


def panel(labels: list[int], baseline: Answers, **others: Answers) -> Panel:
    """Answers to images of three classes, judged by whether they are right."""
    task = Classification(labels=("a", "b", "c"), activation="none")
    samples = [LabelledImage(Image(f"{index}.png", Path("absent")), label) for index, label in enumerate(labels)]
    return Panel(metrics.metric_of(task, networks.PREPROCESSING), samples, labels, task.labels, baseline, others)


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    found = Elements(page.render(records.full()))
    assert "script" not in found.names
    assert not any(name.startswith("on") for name, _ in found.attributes)
    assert "link" not in found.names
    loaded = [value or "" for name, value in found.attributes if name in {"src", "href", "action", "data", "srcset"}]
    assert loaded
    assert all(value.startswith("data:image/jpeg;base64,") for value in loaded)
    assert "url(" not in page.render(records.full())


def test_labels_and_file_names_are_shown_as_they_are_and_never_become_markup() -> None:
    found = Elements(page.render(records.full()))
    assert records.LABELS[1] in found.text
    assert ("title", "a/<b>.png") in found.attributes


def test_the_page_shows_every_part_of_the_record() -> None:
    shown = Elements(page.render(records.full())).text
    for told in (
        "ort-int8",
        "ov-fp16",
        "a note",
        "0.9400",
        "+0.0100",
        "Conv_3",
        "18.2 dB",
        "1 of 70",
        "0.6500",
        "p99.9",
        "one CPU",
        records.DIGEST,
    ):
        assert told in shown


def test_a_record_without_flips_and_layers_says_so() -> None:
    bare = msgspec.structs.replace(records.full(), flips=(), flips_seen=0, layers=(), confusions=())
    shown = Elements(page.render(bare)).text
    assert "every variant answers as fp32 does" in shown
    assert "before any layer had to be looked at" in shown


def test_the_charts_are_well_formed_and_inside_their_frame() -> None:
    for drawn in re.findall(r"<svg.*?</svg>", page.render(records.full()), re.DOTALL):
        picture = ET.fromstring(drawn)
        _, _, width, height = map(float, picture.attrib["viewBox"].split())
        for each in picture.iter("circle"):
            assert 0 <= float(each.attrib["cx"]) <= width
            assert 0 <= float(each.attrib["cy"]) <= height
        for each in picture.iter("rect"):
            assert float(each.attrib["x"]) >= 0
            assert float(each.attrib["x"]) + float(each.attrib["width"]) <= width


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 1)), min_size=1, max_size=30))
def test_nothing_beats_a_point_of_the_front_in_both(found: list[tuple[float, float]]) -> None:
    points = [Point(str(i), p50, accuracy, 1, 0, is_packaged=False) for i, (p50, accuracy) in enumerate(found)]
    front = charts.pareto(points)
    assert front
    for each in front:
        assert not any(p.p50_ms <= each.p50_ms and p.accuracy > each.accuracy for p in points)
    left_out = [p for p in points if p not in front]
    assert all(any(f.p50_ms <= p.p50_ms and f.accuracy >= p.accuracy for f in front) for p in left_out)


def test_text_is_escaped_in_content_and_attributes() -> None:
    assert tag("p", "<b>", Markup("<i>"), title='"&') == '<p title="&quot;&amp;">&lt;b&gt;<i></p>'


def test_changes_are_told_apart() -> None:
    (change,) = findings.changes(panel([0, 0, 1, 2], answers(0, 1, 1, 0), v=answers(1, 0, 1, 1)))
    assert (change.broken, change.mended, change.otherwise) == (1, 1, 1)


def test_confusions_are_counted_and_the_most_frequent_come_first() -> None:
    found = findings.confusions(panel([0, 0, 1], answers(0, 0, 1), v=answers(2, 2, 0)))
    assert [(each.label, each.baseline, each.answer, each.images) for each in found] == [
        ("a", "a", "c", 2),
        ("b", "b", "a", 1),
    ]


def test_flips_that_fp32_was_surest_of_come_first() -> None:
    found = panel([0, 0, 0, 0], answers(0, 1, 2, 0), v=answers(1, 1, 0, 0), w=answers(0, 1, 2, 1))
    assert findings.flipped(found) == [3, 2, 0]


def test_agreement_is_the_share_of_equal_answers() -> None:
    found = findings.agreement(panel([0, 0], answers(0, 1), v=answers(0, 2)))
    assert found.names == ("fp32", "v")
    assert found.shares == ((1.0, 0.5), (0.5, 1.0))


def boxes(*corners: float) -> Boxes:
    return Boxes(np.array([corners], np.float32), np.array([0.9], np.float32), np.array([0], np.int32))


def test_a_detectors_flips_are_the_images_whose_boxes_are_elsewhere(tmp_path: Path) -> None:
    pictures.save_all(pictures.shape, [0, 1], tmp_path / "p")
    task = Detection(labels=("thing",), decoder="boxes")
    samples = [LabelledImage(Image(each.name, each), UNLABELLED) for each in sorted((tmp_path / "p").iterdir())]
    here, there = boxes(0.1, 0.1, 0.4, 0.4), boxes(0.6, 0.6, 0.9, 0.9)
    top1, margin = np.zeros(2, np.int32), np.zeros(2, np.float32)
    baseline, moved = Answers(top1, margin, (here, here)), Answers(top1, margin, (here, there))
    metric = metrics.metric_of(task, networks.PREPROCESSING)
    found = Panel(metric, samples, [here, here], None, baseline, {"v": moved})
    kept, seen = findings.flips(found)
    assert seen == 1
    assert kept[0].image == "00001.png"
    assert [(each.said, each.is_right) for each in kept[0].sayings] == [("100% right", True), ("0% right", False)]
    assert findings.changes(found)[0].broken == 1
    assert findings.confusions(found) == ()
    assert findings.agreement(found).shares[0][1] == 0.5


def test_a_thumbnail_is_a_small_jpeg(tmp_path: Path) -> None:
    pictures.save_all(pictures.text_line, [3], tmp_path / "lines")
    (path,) = (tmp_path / "lines").iterdir()
    small = findings.thumbnail(Image(path.name, path))
    assert small.startswith("/9j/")
    assert len(small) < 6000


def test_a_record_survives_being_written() -> None:
    assert record.decode(record.encode(records.full())) == records.full()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b'{"schema": 1}', record.encode(records.full()).replace(b'"schema":1', b'"schema":2')],
)
def test_a_file_that_is_no_record_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedRecord, match="compile the model again"):
        record.decode(content)


def test_the_bill_of_materials_names_models_tools_and_digests() -> None:
    written = json.loads(sbom.render(records.full()))
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
    models = [each for each in written["components"] if each["type"] == "machine-learning-model"]
    assert {each["name"] for each in models} == {"shapes/ort-int8", "shapes/ov-fp16"}
    assert all(each["hashes"] == [{"alg": "SHA-256", "content": records.DIGEST}] for each in models)
    assert "pkg:pypi/onnx@1.23.2" in {each.get("purl") for each in written["components"]}
    assert len(Bom.from_json(written).components) == len(written["components"])


def test_the_same_record_gives_the_same_documents() -> None:
    assert documents.all_of(records.full()) == documents.all_of(records.full())


def test_report_writes_three_documents_beside_the_package(compiled: Workshop, tmp_path: Path, capsys: Capture) -> None:
    (package,) = compiled.out.iterdir()
    copy = Path(shutil.copy(package, tmp_path))
    assert run(["report", str(copy), "--cache", str(compiled.path / "cache")]) == 0
    written = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert written == ["shapes-1.0.0.report.html", "shapes-1.0.0.report.json", "shapes-1.0.0.cdx.json"]
    told = record.decode((tmp_path / "shapes-1.0.0.report.json").read_bytes())
    assert [each.variant for each in told.variants] == ["ort-int8", "ort-fp32"]
    assert all(each.timing.resident_bytes > 10_000_000 for each in told.variants)
    assert all(0 < each.timing.p50_ms <= each.timing.p95_ms for each in told.variants)
    assert {each.method for each in told.trials if each.is_chosen} == {each.method for each in told.variants}
    assert told.origin.toolchain["onnxruntime"]


def test_a_record_written_elsewhere_is_taken_if_it_is_the_packages(
    compiled: Workshop, tmp_path: Path, capsys: Capture
) -> None:
    (package,) = compiled.out.iterdir()
    kept = ["--cache", str(compiled.path / "cache")]
    assert run(["report", str(package), "--json", *kept]) == 0
    (tmp_path / "kept.json").write_text(capsys.readouterr().out)
    nowhere = ["--cache", str(tmp_path / "nowhere"), "--out", str(tmp_path)]
    assert run(["report", str(package), *nowhere]) == 3
    assert "give its .report.json with --record" in capsys.readouterr().err
    assert run(["report", str(package), *nowhere, "--record", str(tmp_path / "kept.json")]) == 0
    (tmp_path / "other.json").write_bytes(record.encode(records.full()))
    assert run(["report", str(package), *nowhere, "--record", str(tmp_path / "other.json")]) == 1
    assert "error [malformed-record]" in capsys.readouterr().err


@given(st.lists(st.tuples(st.floats(1, 30), st.floats(0.9, 1), st.integers(10_000, 9_000_000)), min_size=1, max_size=4))
def test_names_of_points_do_not_lie_on_one_another(found: list[tuple[float, float, int]]) -> None:
    points = [Point(f"ort-{i}", *each, 0, is_packaged=True) for i, each in enumerate(found)]
    drawn = ET.fromstring(charts.scatter(points, 0.95, 0.94))
    names = [each for each in drawn.iter("text") if each.attrib["class"] == "name"]
    places = {(each.attrib["x"], each.attrib["y"], each.attrib["text-anchor"]) for each in names}
    assert len(names) == len(places) == len(points)
