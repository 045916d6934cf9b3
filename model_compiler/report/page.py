"""The report as one HTML page that needs nothing else: no network, no script, light or dark as the reader's system is."""

from __future__ import annotations

from importlib import resources
from typing import Final

from model_compiler.report import charts
from model_compiler.report.charts import Point
from model_compiler.report.markup import Markup, join, table, tag
from model_compiler.report.record import Flip, Layer, Made, Record, Trial

_LAYERS: Final = 24
_KINDS: Final = ("onnxruntime", "openvino", "litert", "tflite-runtime")


def render(record: Record) -> str:
    """The page; the same record gives the same page."""
    style = (resources.files(__package__ or "") / "page.css").read_text()
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # Nothing may be loaded: what is not inside the page is not shown.
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        ),
        tag("title", f"{record.model} {record.version}: compilation report"),
        tag("style", Markup(style)),
    )
    sections = (_variants, _scatter, _layers, _noise, _changes, _flips, _agreement, _trials, _origin)
    body = tag("body", _header(record), tag("main", *(section(record) for section in sections)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _header(record: Record) -> Markup:
    preferred = record.variants[0]
    tiles = [
        ("fp32 " + record.metric, f"{record.baseline:.4f}", f"{record.samples} images"),
        (preferred.variant, f"{preferred.accuracy:.4f}", f"{preferred.accuracy - record.baseline:+.4f} against fp32"),
        ("latency", f"{preferred.timing.p50_ms:.2f} ms", f"p95 {preferred.timing.p95_ms:.2f} ms, one thread"),
        ("file", f"{preferred.model_bytes / 1e6:.2f} MB", f"{preferred.timing.resident_bytes / 1e6:.0f} MB resident"),
        ("gate", "passed", f"at most {record.max_drop:.4g} below fp32"),
    ]
    drawn = [
        tag("div", tag("p", name), tag("p", value, class_="large"), tag("p", more, class_="quiet"), class_="tile")
        for name, value, more in tiles
    ]
    title = tag("h1", record.model, " ", tag("span", record.version, class_="quiet"))
    return tag("header", title, *(_note(each) for each in record.notes), tag("div", *drawn, class_="tiles"))


def _note(text: str) -> Markup:
    return tag("p", text, class_="note")


def _section(title: str, explained: str, *content: Markup) -> Markup:
    return tag("section", tag("h2", title), tag("p", explained, class_="quiet"), *content)


def _wide(chart: Markup) -> Markup:
    return tag("div", chart, class_="wide")


def _variants(record: Record) -> Markup:
    head = ["variant", "runtime", "made by", record.metric, "drop", "p50 ms", "p95 ms", "file MB", "RAM MB"]
    rows: list[list[str | Markup]] = [_variant(each, record.baseline) for each in record.variants]
    explained = "In the order in which devices prefer them. Latency on one thread of the compiling machine, in a process of its own."
    return _section("Variants", explained, table(head, rows, numbers_from=3))


def _variant(made: Made, baseline: float) -> list[str | Markup]:
    name = tag("span", tag("i", class_=f"swatch kind{_kind(made.runtime)}"), made.variant)
    second = "" if made.share_second is None else f" (second model asked on {made.share_second:.1%})"
    numbers = (made.timing.p50_ms, made.timing.p95_ms, made.model_bytes / 1e6)
    return [
        name, made.runtime, made.method + second, f"{made.accuracy:.4f}", f"{baseline - made.accuracy:+.4f}",
        *(f"{each:.2f}" for each in numbers), f"{made.timing.resident_bytes / 1e6:.0f}",
    ]  # fmt: skip


def _scatter(record: Record) -> Markup:
    points = [_packaged(each) for each in record.variants]
    runtimes = {each.variant: each.runtime for each in record.variants}
    points += [_tried(each, runtimes) for each in record.trials if each.p50_ms is not None and not each.is_chosen]
    explained = (
        "Up and left is better; area is file size; outlined are in the package, faint was tried. The line joins what nothing "
        "else beats in both."
    )
    return _section(
        "Accuracy, latency, size",
        explained,
        _wide(charts.scatter(points, record.baseline, record.baseline - record.max_drop)),
    )


def _packaged(made: Made) -> Point:
    return Point(
        made.variant, made.timing.p50_ms, made.accuracy, made.model_bytes, _kind(made.runtime), is_packaged=True
    )


def _tried(trial: Trial, runtimes: dict[str, str]) -> Point:
    name, kind = f"{trial.variant} {trial.method}", _kind(runtimes.get(trial.variant, ""))
    return Point(name, trial.p50_ms or 0.0, trial.accuracy, trial.model_bytes, kind, is_packaged=False)


def _kind(runtime: str) -> int:
    return _KINDS.index(runtime) if runtime in _KINDS else len(_KINDS)


def _layer(each: Layer) -> str:
    return each.name if each.name.startswith(each.operator) else f"{each.operator} {each.name}"


def _noise(record: Record) -> Markup:
    parts: list[Markup] = []
    for name, layers in record.layer_noise.items():
        worst = sorted(layers.items(), key=lambda item: item[1])[:_LAYERS]
        rows = [(layer, decibel, f"{decibel:.1f} dB", False) for layer, decibel in worst]
        chart = _wide(charts.bars(rows, f"Signal over noise at the noisiest layers of {name}"))
        parts.append(tag("details", tag("summary", f"{name}: the noisiest of {len(layers)} layers"), chart))
    if not parts:
        parts = [tag("p", "No variant of this package is a quantized graph that can be looked into.")]
    return _section(
        "Signal over noise per layer", "What has gathered at each layer, against fp32; more is better.", *parts
    )


def _layers(record: Record) -> Markup:
    parts: list[Markup] = []
    for name in dict.fromkeys(each.variant for each in record.layers):
        found = sorted((each for each in record.layers if each.variant == name), key=lambda each: -each.effect)[
            :_LAYERS
        ]
        rows = [(_layer(each), each.effect, f"{each.effect:+.4g} {each.unit}", each.is_excluded) for each in found]
        parts += [tag("h3", name), _wide(charts.bars(rows, f"Effect of leaving single layers of {name} in float"))]
    if not parts:
        parts = [tag("p", "The accuracy budget was met before any layer had to be looked at.")]
    return _section(
        "Sensitive layers", "What one layer left in float brings back; strong bars were left in float.", *parts
    )


def _changes(record: Record) -> Markup:
    rows: list[list[str | Markup]] = [
        [each.variant, str(each.broken), str(each.mended), str(each.otherwise)] for each in record.changes
    ]
    summary = table(["variant", "broken", "mended", "wrong in another way"], rows, numbers_from=1)
    confused: list[list[str | Markup]] = [
        [each.variant, each.label, each.baseline, each.answer, str(each.images)] for each in record.confusions
    ]
    details = table(["variant", "image of", "fp32 said", "now said", "images"], confused, numbers_from=4)
    parts = [summary, *([details] if confused else [])]
    return _section("What changed against fp32", "Broken: only fp32 was right. Mended: only the variant is.", *parts)


def _flips(record: Record) -> Markup:
    if not record.flips:
        return _section("Images that flipped", f"None of {record.samples}: every variant answers as fp32 does.")
    cards = [_flip(each) for each in record.flips]
    shown = (
        f"{len(record.flips)} of {record.flips_seen}"
        if record.flips_seen > len(record.flips)
        else str(record.flips_seen)
    )
    explained = f"{shown} of {record.samples} images, those that fp32 was surest of first."
    return _section("Images that flipped", explained, tag("div", *cards, class_="cards"))


def _flip(flip: Flip) -> Markup:
    first, *others = flip.sayings
    told = [
        tag("p", tag("span", each.name, class_="quiet"), " ", each.said, class_="right" if each.is_right else "wrong")
        for each in (first, *(other for other in others if other.said != first.said))
    ]
    picture = tag("img", src=f"data:image/jpeg;base64,{flip.thumbnail}", alt=flip.image)
    truth = [tag("p", flip.truth, class_="truth")] if flip.truth else []
    return tag("figure", picture, tag("figcaption", *truth, *told), title=flip.image)


def _agreement(record: Record) -> Markup:
    names = record.agreement.names
    rows: list[list[str | Markup]] = [
        [name, *(_share(share) for share in row)] for name, row in zip(names, record.agreement.shares, strict=True)
    ]
    explained = "Share of the evaluation images on which two files, each on its own runtime, answer alike."
    return _section("Parity between variants", explained, table(["", *names], rows, numbers_from=1))


def _share(share: float) -> Markup:
    # Everything of interest happens close to 1: 0.9 and below is the strongest shade.
    heat = min(1.0, max(0.0, (1.0 - share) / 0.1))
    return tag("span", f"{share:.4f}", class_="heat", style=f"--heat: {heat:.3f}")


def _trials(record: Record) -> Markup:
    head = ["variant", "method", record.metric, "agrees with fp32", "p50 ms", "file MB", ""]
    rows: list[list[str | Markup]] = [
        [
            each.variant, each.method, f"{each.accuracy:.4f}", f"{each.agreement:.4f}",
            "-" if each.p50_ms is None else f"{each.p50_ms:.2f}", f"{each.model_bytes / 1e6:.2f}",
            "packaged" if each.is_chosen else "",
        ]
        for each in record.trials
    ]  # fmt: skip
    shown = tag("details", tag("summary", f"{len(rows)} candidates"), table(head, rows, numbers_from=2))
    return _section("Everything that was tried", "Each candidate on its own runtime, on all evaluation images.", shown)


def _origin(record: Record) -> Markup:
    origin = record.origin
    digests = [
        ("package", record.package_sha256), ("source model", origin.source_sha256),
        (f"calibration set ({origin.calibration_images} images)", origin.calibration_sha256),
        (f"evaluation set with labels ({record.samples} images)", origin.evaluation_sha256),
        ("recipe, classes, boards", origin.settings_sha256), ("toolchain and compiler", origin.toolchain_sha256),
        *((f"manifest of {each.variant}", each.digest) for each in record.variants),
    ]  # fmt: skip
    rows: list[list[str | Markup]] = [[name, tag("code", digest)] for name, digest in digests]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(origin.toolchain.items()))
    return _section(
        "Origin",
        "The same inputs and tools give the same package, to the byte.",
        table(["SHA-256 of", ""], rows, numbers_from=9),
        tag("p", f"Made with {versions}."),
        tag("p", join("Timed on ", origin.machine, ".")),
    )
