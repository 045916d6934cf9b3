"""One fitted network and its images for the whole run; each test gets a copy that it may spoil."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compiler import networks, pictures, workshop
from tests.compiler.workshop import Workshop

SHAPES_PREPROCESSING = """\
width = 32
height = 32
color = "rgb"
layout = "nchw"
resize = "stretch"
interpolation = "area"
scale = 0.00392156862745098
mean = [0.4, 0.4, 0.4]
std = [0.25, 0.25, 0.25]
"""


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Shapes: a tiny network, 24 calibration and 90 evaluation images."""
    path = tmp_path_factory.mktemp("shapes") / "pristine"
    pictures.save_all(pictures.shape, range(1000, 1024), path / "calibration")
    labels = pictures.save_all(pictures.shape, range(90), path / "evaluation")
    (path / "model.onnx").write_bytes(networks.fitted_shapes().SerializeToString())
    return workshop.make(
        path, model="shapes", classes=pictures.SHAPES, preprocessing=SHAPES_PREPROCESSING, labels=labels
    )


@pytest.fixture
def shapes(pristine: Workshop, tmp_path: Path) -> Workshop:
    return pristine.copy_to(tmp_path / "shapes")


@pytest.fixture(scope="session")
def compiled(pristine: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The same with its package in ``out``; not to be changed."""
    built = pristine.copy_to(tmp_path_factory.mktemp("shapes") / "compiled")
    assert built.compile() == 0
    return built
