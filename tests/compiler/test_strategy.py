"""What the search asks for, and in which order, on landscapes that are written down."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from model_compiler.search.strategy import MAX_SCANNED, Landscape, explore
from model_compiler.stages.quantize import Scheme

LAYERS = {"Conv_0": 100, "Conv_1": 100, "Conv_2": 100, "Conv_3": 700}


class Ground:
    """Noise is a base per clipping times a factor per excluded layer; what is asked for is written down."""

    def __init__(
        self, factors: dict[str, float], clippings: dict[str, float] | None = None, tail: tuple[str, ...] = ()
    ) -> None:
        self.factors, self.clippings = factors, clippings or {"min-max": 0.2, "p99.99": 0.1}
        self.landscape = Landscape(tuple(self.clippings), LAYERS, tail)
        self.measured: list[Scheme] = []
        self.judged: list[Scheme] = []

    def noise(self, scheme: Scheme) -> float:
        self.measured.append(scheme)
        noise = self.clippings[scheme.clipping]
        for layer in scheme.excluded:
            noise *= self.factors.get(layer, 1.0)
        return noise

    def explore(self, suffices: Callable[[Scheme], bool] = lambda _: False) -> list[str]:
        def judge(scheme: Scheme) -> bool:
            self.judged.append(scheme)
            return suffices(scheme)

        return [effect.layer for effect in explore(self.landscape, self.noise, judge)]


def test_a_clipping_that_suffices_ends_the_search_before_any_layer_is_tried() -> None:
    ground = Ground({})
    assert ground.explore(lambda scheme: scheme.clipping == "p99.99") == []
    assert ground.judged == [Scheme("p99.99")]
    assert all(not scheme.excluded for scheme in ground.measured)


def test_layers_are_ranked_by_what_leaving_them_out_gives() -> None:
    assert Ground({"Conv_0": 1.4, "Conv_1": 0.5, "Conv_2": 0.9}).explore() == ["Conv_1", "Conv_2", "Conv_3", "Conv_0"]


def test_helpful_layers_stay_in_float_one_more_at_a_time_until_the_budget_is_met() -> None:
    ground = Ground({"Conv_1": 0.5, "Conv_2": 0.8, "Conv_0": 0.9})
    ground.explore(lambda scheme: len(scheme.excluded) == 2)
    assert ground.judged[-1] == Scheme("p99.99", ("Conv_1", "Conv_2"))
    assert all("Conv_0" not in scheme.excluded for scheme in ground.judged)


def test_a_layer_whose_exclusion_makes_things_worse_is_never_excluded() -> None:
    ground = Ground({"Conv_0": 1.4, "Conv_1": 0.5})
    ground.explore()
    assert all("Conv_0" not in scheme.excluded for scheme in ground.judged)


def test_most_of_the_work_stays_in_integers() -> None:
    ground = Ground({"Conv_3": 0.01})
    ground.explore()
    assert all("Conv_3" not in scheme.excluded for scheme in ground.judged)


def test_a_step_that_does_not_help_beside_those_before_it_is_taken_back() -> None:
    """Each halves the noise alone; together they do no better than one: sums of single effects are not to be trusted."""
    ground = Ground({})

    def noise(scheme: Scheme) -> float:
        return 0.05 if scheme.excluded else 0.1

    judged: list[Scheme] = []
    explore(ground.landscape, noise, lambda scheme: bool(judged.append(scheme)))
    assert max(len(scheme.excluded) for scheme in judged) == 1


def test_the_tail_stays_in_float_where_that_helps() -> None:
    ground = Ground({"Concat_9": 0.5}, tail=("Concat_9",))
    ground.explore(lambda _: True)
    assert ground.judged == [Scheme("p99.99", ("Concat_9",))]


@pytest.mark.parametrize("layers", [1, 30, 300])
def test_noise_is_asked_for_no_more_often_than_promised(layers: int) -> None:
    ground = Ground({}, tail=("Concat_9",))
    ground.landscape = Landscape(ground.landscape.clippings, {f"Conv_{n}": 1 for n in range(layers)}, ("Concat_9",))
    ground.factors = {f"Conv_{n}": 0.9 for n in range(layers)}
    ground.explore()
    assert len(ground.measured) <= ground.landscape.most_steps
    assert len({scheme.excluded for scheme in ground.measured if len(scheme.excluded) == 1}) <= MAX_SCANNED + 1
