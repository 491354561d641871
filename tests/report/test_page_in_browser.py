"""The page for the trials of search_spaces/strategies.yaml, as a reader uses it, in a real browser."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: pip install 'selgen-ray[test]'")
from browser import Watched, chromium, started
from fake_sweep import fake_result, publish
from like_strategies import write_sweep

from selgen_ray.report import write_report


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    chromium()
    folder = tmp_path_factory.mktemp("page") / "strategies"
    write_sweep(folder)
    write_report(str(folder))
    return folder / "report" / "index.html"


@pytest.fixture(scope="module")
def browser():
    chromium()
    with started() as found:
        yield found


@pytest.fixture
def watched(browser, written):
    """A page of its own, for what a reader changes on it."""
    yield from opened(browser, written)


@pytest.fixture(scope="module")
def read(browser, written):
    """One page for all that only look at it: to draw it anew takes seconds."""
    yield from opened(browser, written)


def opened(browser, written):
    found = Watched(browser, written)
    yield found
    assert found.complaints == []
    assert found.requests == [], "nothing is asked of anybody"
    assert found.page.title() != "owned"
    found.page.context.close()


def summary(written: Path) -> dict:
    return json.loads((written.parent / "summary.json").read_text())


def labels(page) -> list[str]:
    return page.locator("#settings-table tbody td.label a").all_inner_texts()


def test_the_plot_shows_the_means_that_python_computes(read, written):
    shown = read.page.evaluate(
        "summaries().map((one, s) => [data.settings[s].label, one.x && one.x.mean, one.x && one.x.half, one.front])"
    )
    settings = {s["label"]: s for s in summary(written)["settings"]}
    assert len(shown) == len(settings) == 52
    for label, mean, half, front in shown:
        assert mean == pytest.approx(settings[label]["x"]["mean"], abs=5e-5)
        assert half == pytest.approx(settings[label]["x"]["half_width"], abs=5e-5)
        assert front == settings[label]["on_front"]


def test_hover_tells_the_setting_and_a_click_opens_the_trial(watched):
    page = watched.page
    spot = page.evaluate(
        """() => {
          const place = document.getElementById("pareto-plot");
          place.scrollIntoView({ block: "center" });
          const layout = place._fullLayout;
          const trace = place.data.findIndex((one) => one.name === "kl_divergence" && one.error_x);
          const { x, y } = place.data[trace], box = place.getBoundingClientRect();
          const [across, up] = [layout.xaxis, layout.yaxis];
          return [box.left + across._offset + across.d2p(x[0]), box.top + up._offset + up.d2p(y[0])];
        }"""
    )
    page.mouse.move(spot[0] - 3, spot[1])
    page.mouse.move(*spot)
    page.wait_for_selector("#pareto-plot .hoverlayer .hovertext")
    told = page.locator("#pareto-plot .hoverlayer").text_content()
    assert "kl_divergence β=" in told and "capability 0." in told and "±" in told
    page.mouse.click(*spot)
    page.wait_for_selector("#trial[data-trial]")
    assert re.search(r"#trial/[0-9a-f]{16}$", page.url)
    assert "kl_divergence β=" in page.locator("#trial h1").inner_text()
    assert page.locator("#trial table").first.inner_text().count("\n") > 4
    assert page.locator("#trial-losses .plot .main-svg").count() > 0
    text = page.locator("#trial").inner_text()
    assert "finetune_config.beta_kl" in text and "gradient_cosine" in page.locator("#trial-metrics").inner_text()
    page.go_back()
    page.wait_for_selector("#overview:not([hidden])")


def test_the_axes_can_be_changed(watched):
    page = watched.page
    before = labels(page)
    watched.page.select_option("#axis-y", "align_test/loss")
    page.wait_for_selector('#pareto-plot[data-drawn="capability align_test/loss"]')
    low, high = page.evaluate("document.getElementById('pareto-plot')._fullLayout.yaxis.range")
    assert low > high, "less is better: it is at the top"
    heads = page.locator("#settings-table thead th").all_inner_texts()
    assert any("align_test/loss" in head for head in heads)
    assert labels(page) == before
    page.reload()
    page.wait_for_selector('#pareto-plot[data-drawn="capability align_test/loss"]')  # the choice is kept
    page.click("#axis-reset")
    page.wait_for_selector('#pareto-plot[data-drawn="capability alignment"]')


def test_the_table_sorts_and_filters(watched, written):
    page = watched.page
    watched.reach("settings")
    assert len(labels(page)) == 52
    heading = page.locator("#settings-table thead th button", has_text="alignment")
    heading.click()
    means = {s["label"].strip(): s["y"]["mean"] for s in summary(written)["settings"]}
    assert [means[label] for label in labels(page)] == sorted(means.values(), reverse=True)
    heading = page.locator("#settings-table thead th button", has_text="alignment")
    heading.click()
    assert [means[label] for label in labels(page)] == sorted(means.values())
    page.fill("#table-filter", "kl_ β=10")
    assert labels(page) == ["kl_divergence β=10"]
    page.fill("#table-filter", "")
    page.check("#table-front")
    assert set(labels(page)) == {s["label"].strip() for s in summary(written)["settings"] if s["on_front"]}
    page.uncheck("#table-front")
    page.click(".chip:has-text('dpo')")
    assert not any(label.startswith("dpo") for label in labels(page))


def test_diverged_trials_are_listed_and_never_plotted(read, written):
    page = read.page
    lost = [trial for trial in summary(written)["left_out"] if trial["status"] in ("diverged", "failed")]
    assert len(lost) == 2
    text = page.locator("#failures").inner_text()
    assert "1 diverged" in text and "total at step 12 is NaN" in text and "<script>" in text
    plotted = page.evaluate(
        "document.getElementById('pareto-plot').data.flatMap((one) => one.customdata || []).filter(Number.isInteger)"
        ".map((trial) => data.trials[trial].status)"
    )
    assert set(plotted) == {"completed"}


def test_every_part_is_drawn(read):
    page = read.page
    for part in ("strategies", "strengths", "training", "cost", "samples"):
        read.reach(part)
    page.wait_for_selector("#training[data-drawn]")
    page.wait_for_selector("#sample-list[data-drawn]")
    assert page.locator("#standings-table tbody tr").count() == 22
    page.select_option("#family", "naive")
    assert page.locator("#family-table tbody tr").count() == 21
    assert page.locator("#strength-plots .plot .main-svg").count() >= 11
    assert page.locator("#loss-plots .plot").count() == 3
    assert page.locator("#cost-table tbody tr").count() == 22
    page.select_option("#course-of", "kl_divergence")
    page.wait_for_selector('#training[data-drawn="kl_divergence"]')
    assert "Not averaged" in page.locator("#believe").inner_text()


LEGENDS = """() => Object.fromEntries([...document.querySelectorAll(".plot.js-plotly-plot")].map((place) => {
  const block = place.closest(".grid, .pair") || place;
  const near = [block.previousElementSibling, block.nextElementSibling, block.nextElementSibling?.nextElementSibling];
  const legend = near.filter((one) => one?.matches(".legend, .chips"));
  const named = legend.map((one) => one.textContent).join(" ");
  const drawn = place.data.map(({ name }) => name).filter((name) => name in data.strategies);
  return [place.id || place.textContent.slice(0, 40), legend.length && drawn.every((name) => named.includes(name))];
}))"""


def test_every_plot_has_a_legend(read):
    """Case 15 of the verdicts."""
    page = read.page
    for part in ("strategies", "strengths", "training"):
        read.reach(part)
    page.wait_for_selector("#training[data-drawn]")
    found = page.evaluate(LEGENDS)
    assert len(found) > 15 and all(found.values()), found
    for legend, words in (("loss", "kl_divergence β="), ("path", "the end of training"), ("strength", "alignment")):
        assert words in page.locator(f"#{legend}-legend").inner_text()
    page.evaluate("location.hash = `#trial/${data.trials[0].id}`")
    page.wait_for_selector("#trial[data-trial]")
    assert page.locator("#trial .legend li").count() == 3 and all(page.evaluate(LEGENDS).values())
    page.go_back()
    page.wait_for_selector("#overview:not([hidden])")


MODES_OF_CATEGORIES = """() => {
  const names = data.strengths.filter(({ joined }) => !joined).map(({ strategy }) => `${strategy} `);
  return [...document.querySelectorAll("#strength-plots .plot")]
    .filter((place) => names.some((name) => place.data[0].name.startsWith(name)))
    .flatMap((place) => place.data.map(({ mode }) => mode));
}"""


def test_the_top_of_the_page(watched, written):
    """Case 15 of the verdicts: what controls look like, where the axes start, what no line joins."""
    page = watched.page
    assert page.locator("#sentence").inner_text().replace("\xa0", " ") == summary(written)["answer"]
    assert page.locator("#next").inner_text() == f"Next: {summary(written)['next']}"
    roles = page.locator("#top-table tbody tr").evaluate_all("rows => rows.map((row) => row.dataset.role)")
    assert roles == ["base model", "task alone", "leader", "runner-up", "diverged"]
    assert page.locator("#top-table .swatch").count() == 4
    order = ["sentence", "top-table", "next", "pareto-plot", "believe"]
    tops = [page.locator(f"#{name}").bounding_box()["y"] for name in order]
    assert tops == sorted(tops)
    plot = "document.getElementById('pareto-plot')"
    (low, high), star = page.evaluate(
        f"[{plot}._fullLayout.xaxis.range, {plot}.data.find(({{ name }}) => name === 'base model')]"
    )
    means = [s["x"]["mean"] for s in summary(written)["settings"]]
    base = summary(written)["base_models"][0]["x"]["mean"]
    assert base < low < min(means) < max(means) < high, "the axis starts where the trained settings are"
    assert low < star["x"][0] < min(means) and star["marker"]["symbol"] == "star-open"
    assert "base model ← capability 0.1" in star["text"][0]
    page.check("#show-base")
    assert page.evaluate(f"{plot}._fullLayout.xaxis.range[0]") < base
    looks = page.evaluate("Object.values(data.strategies).map(({ light, dark, symbol }) => [light, dark, symbol])")
    # colours come back after the twelfth strategy, never with the same symbol
    assert all(len({(one[i], one[2]) for one in looks}) == len(looks) == 22 for i in (0, 1))
    watched.reach("strengths")
    page.wait_for_selector("#strength-plots .main-svg")
    joined = page.evaluate(MODES_OF_CATEGORIES)
    assert joined and not any("lines" in mode for mode in joined)


def test_a_printed_page_is_light_and_whole(browser, written):
    found = Watched(browser, written, width=718, scheme="dark")
    page = found.page
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.wait_for_selector("#training[data-drawn]")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.locator("#strength-plots .plot .main-svg").count() >= 11
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.locator("#settings-table thead th", has_text="alignment").is_visible()
    assert not page.locator("#theme").is_visible() and found.complaints == []
    page.context.close()


def test_answers_of_models_stay_text(read):
    page = read.page
    read.reach("samples")
    page.wait_for_selector("#sample-list[data-drawn]")
    assert "<script>document.title" in page.locator("#sample-list").inner_text()
    assert page.locator("#sample-list script, #sample-list img").count() == 0
    assert page.locator("#sample-list .replies h4").first.inner_text() == "base model"
    assert page.title() != "owned"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_in_both_colour_schemes_nothing_sticks_out(browser, written, scheme):
    found = Watched(browser, written, width=400, scheme=scheme)
    for part in ("settings", "strategies", "strengths", "training", "cost", "samples", "provenance"):
        found.reach(part)
    found.page.wait_for_selector("#training[data-drawn]")
    assert found.page.evaluate("document.documentElement.scrollWidth") <= 400
    ground = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 28)")
    assert found.complaints == [] and found.requests == []
    found.page.context.close()


def test_an_open_page_follows_a_watched_sweep_and_stays_where_it_was(browser, tmp_path):
    def write(seconds: float) -> Path:
        return Path(write_report(str(tmp_path), watch_s=seconds).paths["index.html"])

    publish(tmp_path, fake_result("naive", 1, 0.9, 0.5), fake_result("naive", 2, 0.8, 0.5))
    found = Watched(browser, write(0.2))
    page = found.page
    page.fill("#table-filter", "d")
    page.evaluate("window.scrollTo(0, 700)")
    publish(tmp_path, fake_result("dpo", 1, 0.7, 0.7), fake_result("dpo", 2, 0.7, 0.8))
    write(0)
    page.wait_for_selector(".chip:has-text('dpo')")
    page.wait_for_timeout(300)
    assert page.evaluate("window.scrollY") > 400  # the browser itself keeps what is read in its place
    assert page.input_value("#table-filter") == "d" and labels(page) == ["dpo"]
    assert found.complaints == []
    assert all(re.match(r"file:.*/report/version\.js\?\d+$", url) for url in found.requests)
    page.context.close()


def test_the_front_of_equal_means_is_that_of_the_summary(browser, tmp_path):
    """Three seeds in one order and in another have means that differ in the last digit, where one sums them up."""
    values = (0.5, 0.58, 0.6)
    orders = [sum(order) / 3 for order in itertools.permutations(values)]
    (_, low), *_, (_, high) = sorted(zip(orders, itertools.permutations(values), strict=True))
    assert sum(low) / 3 < sum(high) / 3
    for i, seed in enumerate((1, 2, 3)):
        for strategy, y, knobs in (
            ("naive", 0.4, {"top": {"train_on_proxy": False}}),
            ("kl_divergence", low[i], {"beta_kl": 1.0}),
            ("dpo", high[i], {"lambda_dpo": 1.0}),
        ):
            evals = {"align_test": {"balanced_accuracy": [0.9, y], "other": [0.9, y]}}
            publish(tmp_path, fake_result(strategy, seed, 0.9, y, evals=evals, **knobs))
    page = Path(write_report(str(tmp_path)).paths["index.html"])
    front = [s["label"] for s in summary(page)["settings"] if s["on_front"]]
    assert front == ["kl_divergence", "dpo"]
    for found in opened(browser, page):
        for y in ("alignment", "align_test/other"):
            marked = f"summaries('capability', '{y}').flatMap((one, s) => (one.front ? [data.settings[s].label] : []))"
            assert found.page.evaluate(marked) == front
