"""The heat map over time, drawn from Parquet parts written by the real writer."""

import time
from itertools import pairwise

import pytest
import torch
from PIL import Image

from mgsrl.obs.surgery_log import read_surgery, write_surgery
from mgsrl.report import heat_map as module
from mgsrl.report.heat_map import draw_heat_map, equal_windows, evenly, heat_map, mean_cosines
from mgsrl.report.style import drawing
from mgsrl.surgery.report import surgery_report

DOMAINS = ("math", "chat", "instruction_following", "code", "tools", "safety")


def write(folder, steps, *, layers=4, domains=DOMAINS[:3]):
    modules = ["embeddings"]
    modules += [f"layers.{i}.{kind}" for i in range(layers) for kind in ("attention", "mlp")]
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        vectors = torch.randn(len(modules), len(domains), 16, generator=generator)
        gram = (vectors @ vectors.mT).double()
        weights = torch.ones(gram.shape[:2])
        write_surgery(folder, step, surgery_report(domains, modules, gram, weights))


def figure_of(folder, windows):
    with drawing():
        return heat_map(read_surgery(folder), windows)


def named(figure):
    """The panels without the colour bar."""
    return [axis for axis in figure.axes if axis.images]


def test_equal_windows_cover_every_step_once():
    for n in range(30):
        windows = equal_windows(list(range(1, n + 1)), 4)
        assert [step for window in windows for step in window] == list(range(1, n + 1))
        assert len(windows) == min(n, 4)
        lengths = [len(window) for window in windows]
        assert max(lengths, default=0) - min(lengths, default=0) <= 1


def test_long_windows_are_thinned_evenly():
    assert evenly([3, 5, 8], 3) == [3, 5, 8]
    assert evenly(range(1000), 4) == [0, 250, 500, 750]


def test_cells_are_means_over_the_steps_and_modules_of_a_place(tmp_path):
    modules = ["layers.0.experts.0", "layers.0.experts.1", "lm_head"]
    angles = {1: (0.1, 0.2, -0.5), 2: (0.3, 0.4, 0.0), 3: (-0.6, -0.8, 0.5)}
    for step, cosines in angles.items():
        gram = torch.eye(2).repeat(3, 1, 1)
        gram[:, 0, 1] = gram[:, 1, 0] = torch.tensor(cosines)
        report = surgery_report(("math", "chat"), modules, gram, torch.ones(3, 2))
        write_surgery(tmp_path, step, report)
    cells = mean_cosines(read_surgery(tmp_path), [[1, 2], [3]])
    experts, head = ("experts", "0"), ("lm_head", "model")
    assert list(cells) == [(0, "math – chat"), (1, "math – chat")]
    assert cells[0, "math – chat"] == pytest.approx({experts: 0.25, head: -0.25})
    assert cells[1, "math – chat"] == pytest.approx({experts: -0.7, head: 0.5})


def test_a_cosine_that_rounds_to_nothing_has_no_minus(tmp_path):
    gram = torch.eye(2)[None].repeat(2, 1, 1)
    gram[:, 0, 1] = gram[:, 1, 0] = torch.tensor([-0.004, -0.2])
    report = surgery_report(("math", "chat"), ["lm_head", "norm"], gram, torch.ones(2, 2))
    write_surgery(tmp_path, 1, report)
    texts = {text.get_text() for axis in named(figure_of(tmp_path, [[1]])) for text in axis.texts}
    assert {"+0.00", "-0.20"} <= texts
    assert "-0.00" not in texts


def test_a_row_per_window_and_a_column_per_pair(tmp_path):
    write(tmp_path, range(1, 9))
    figure = figure_of(tmp_path, [[1, 2], [3, 4], [5, 6], [7, 8]])
    panels = named(figure)
    assert len(panels) == 4 * 3
    titles = [axis.get_title(loc="left") for axis in panels]
    assert titles[0] == "math – chat"
    assert titles[3:] == [""] * 9
    assert [axis.get_ylabel() for axis in panels[::3]] == [
        f"steps {n}–{n + 1}" for n in (1, 3, 5, 7)
    ]
    assert len({axis.images[0].get_clim() for axis in panels}) == 1
    low, high = panels[0].images[0].get_clim()
    assert low == -high < 0
    assert [label.get_text() for label in panels[0].get_yticklabels()] == [
        "attention",
        "mlp",
        "embeddings",
    ]
    assert [label.get_text() for label in panels[9].get_xticklabels()] == [*"0123", "model"]


def test_a_pair_that_a_window_lacks_is_grey(tmp_path):
    write(tmp_path, [1])
    write(tmp_path, [2], domains=DOMAINS[:2])
    panels = named(figure_of(tmp_path, [[1], [2]]))
    assert [bool(axis.images[0].get_array().mask.all()) for axis in panels] == [
        *(False, False, False),
        *(False, True, True),
    ]
    assert panels[0].images[0].cmap.get_bad()[:3] == pytest.approx((0xD3 / 255,) * 3)


def test_of_many_pairs_those_that_conflict_most_are_drawn(tmp_path):
    write(tmp_path, [1], domains=DOMAINS)
    figure = figure_of(tmp_path, [[1]])
    assert len(named(figure)) == 10
    assert figure.get_suptitle() == "The 10 of 15 pairs whose gradients conflict most"
    means = {
        pair: sum(cells.values()) / len(cells)
        for (_, pair), cells in mean_cosines(read_surgery(tmp_path), [[1]]).items()
    }
    drawn = {axis.get_title(loc="left").replace("\n", " ") for axis in named(figure)}
    assert drawn == set(sorted(means, key=means.__getitem__)[:10])


@pytest.mark.parametrize(
    ("layers", "domains"), [(2, 2), (16, 2), (30, 3), (4, 5), (11, 5), (30, 5), (80, 5)]
)
def test_labels_do_not_run_into_each_other(tmp_path, layers, domains):
    write(tmp_path, [1, 2], layers=layers, domains=DOMAINS[:domains])
    figure = figure_of(tmp_path, [[1], [2]])
    figure.draw_without_rendering()
    panels = named(figure)
    lowest = panels[len(panels) // 2 :]
    along_x = [label for axis in lowest for label in axis.get_xticklabels()]
    for group in (along_x, panels[0].get_yticklabels()):
        boxes = [label.get_window_extent() for label in group if label.get_text()]
        assert len(boxes) > 2
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_the_file_is_redrawn_whole(tmp_path):
    write(tmp_path, [1])
    path = draw_heat_map(tmp_path)
    assert path == tmp_path / "surgery" / "heat_map.png"
    one = Image.open(path).size
    write(tmp_path, range(2, 9))
    two = Image.open(draw_heat_map(tmp_path)).size
    assert two[1] > 2 * one[1]  # four windows instead of one
    assert not list((tmp_path / "surgery").glob(".*"))


def test_nothing_to_draw(tmp_path):
    assert draw_heat_map(tmp_path) is None
    write(tmp_path, [1, 2], domains=("math",))
    assert draw_heat_map(tmp_path) is None
    assert not (tmp_path / "surgery" / "heat_map.png").exists()


def test_a_redraw_costs_seconds_however_long_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_STEPS_READ", 5)
    write(tmp_path, range(1, 41), layers=30)
    for step in (2, 12, 22, 40):  # not among the 5 of each 10 that are read
        (tmp_path / "surgery" / f"step_{step:06d}.parquet").write_bytes(b"damaged")
    begin = time.process_time()
    draw_heat_map(tmp_path)
    assert time.process_time() - begin < 10
