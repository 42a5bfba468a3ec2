"""The monitor's page in a real Chromium: curves move, filters work, a group opens, a model's text is shown, not run."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.browser import open_browser, serious_issues, wait_for
from tests.monitor_run import make_run, metrics_line, monitor, write_step


@pytest.fixture(scope="module")
def home(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("home")
    make_run(folder / "one", tokenizer)
    make_run(folder / "two", tokenizer, steps=4)
    return folder


@pytest.fixture(scope="module")
def address(home):
    with monitor(home) as (address, _):
        yield address


@pytest.fixture
def opened(address):
    with open_browser() as (page, watch):
        yield page, watch
        watch.check()


def points(page, chart):
    """Of the longest curve of a chart, as Plotly has drawn it."""
    node = f"document.querySelector('#chart-{chart} .js-plotly-plot')"
    return page.evaluate(f"Math.max(0, ...({node}?.data ?? []).map(curve => curve.x?.length ?? 0))")


def test_curves_move_while_a_run_goes_on(opened, address, home):
    page, _ = opened
    page.goto(f"{address}#/overview?runs=one")
    page.get_by_test_id("run").first.wait_for()
    chart = page.locator("#chart-accuracy")
    chart.scroll_into_view_if_needed()
    wait_for(page, "document.querySelector('#chart-accuracy .js-plotly-plot')?.data?.length > 0")
    before = points(page, "accuracy")
    assert before >= 6
    with (home / "one" / "metrics.jsonl").open("a") as file:
        file.write(metrics_line(before + 1) + metrics_line(before + 2)[:40])
    longer = "document.querySelector('#chart-accuracy .js-plotly-plot').data.some(curve => curve.x?.length > %d)"
    wait_for(page, longer % before)
    message = page.get_by_test_id("run-message").first
    message.wait_for()
    assert "half-written" in message.inner_text()
    with (home / "one" / "metrics.jsonl").open("a") as file:
        file.write(metrics_line(before + 2)[40:])
    message.wait_for(state="detached")


def test_several_runs_smoothing_log_axis_range_and_a_link_that_keeps_them(opened, address):
    page, _ = opened
    page.goto(address)
    page.get_by_test_id("run").nth(1).wait_for()
    chart = page.locator("#chart-accuracy")
    chart.scroll_into_view_if_needed()
    wait_for(page, "document.querySelector('#chart-accuracy .js-plotly-plot')?.data?.length >= 2")
    page.locator("#log").check()
    page.locator("#smoothing").fill("0.6")
    page.locator("#from").fill("2")
    page.locator("#to").fill("4")
    page.locator("#to").press("Enter")
    wait_for(page, "document.querySelector('#chart-accuracy .js-plotly-plot').layout.yaxis.type === 'log'")
    wait_for(
        page,
        "location.hash.includes('from=2') && location.hash.includes('to=4') && location.hash.includes('smooth=0.6')",
    )
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    chart.scroll_into_view_if_needed()
    wait_for(page, "document.querySelector('#chart-accuracy .js-plotly-plot')?.layout?.yaxis?.type === 'log'")
    assert page.locator("#from").input_value() == "2" and page.locator("#smoothing").input_value() == "0.6"
    page.locator('input[data-run="two"]').uncheck()
    wait_for(page, "location.hash.includes('runs=one')")


def test_filters_and_a_group_with_formulas_and_hostile_text(opened, address):
    page, _ = opened
    page.goto(f"{address}#/episodes?run=one&source=train")
    table = page.get_by_test_id("episodes-table")
    table.wait_for()
    status = page.get_by_test_id("result-status")
    wait_for(page, "/72 episodes/.test(document.querySelector('[data-testid=result-status]').textContent)")
    page.locator("#filter-correct").select_option("right")
    page.locator("#filter-question").fill("frac")
    wait_for(page, "/\\b6 episodes/.test(document.querySelector('[data-testid=result-status]').textContent)")
    page.locator("#filter-text").fill("needle 0")
    page.get_by_test_id("searching").get_by_text(re.compile("searched", re.I)).wait_for()
    wait_for(page, "document.querySelectorAll('[data-testid=episodes-table] tbody tr').length === 6")
    page.locator("#clear-filters").click()
    wait_for(page, "/72 episodes/.test(document.querySelector('[data-testid=result-status]').textContent)")
    assert "correct" not in page.url
    page.locator("#filter-question").fill("<script>")
    wait_for(page, "/24 episodes/.test(document.querySelector('[data-testid=result-status]').textContent)")
    assert "<script>window.hacked" in table.inner_text()
    first = table.locator("a.row-link").first
    first.focus()
    first.press("Enter")
    page.get_by_test_id("cards").wait_for()
    assert page.get_by_test_id("episode").count() == 4
    assert "<script>window.hacked = 1</script> <img src=x" in page.get_by_test_id("question").inner_text()
    episode = page.get_by_test_id("episode").first
    thinking = episode.locator("details[data-part=thinking]").first
    thinking.locator("summary").click()
    thinking.get_by_test_id("thinking").wait_for()
    assert "<script>window.hacked = 3</script><img src=" in thinking.inner_text()
    prompt = episode.locator("details[data-part=prompt]").nth(1)
    prompt.locator("summary").click()
    prompt.locator("mark.history").wait_for()
    assert "<history>" in prompt.locator("mark.history").inner_text()
    episode.locator("details[data-part=logprobs]").first.locator("summary").click()
    episode.locator(".toggle-changes").first.click()
    assert "m=9" in episode.locator("ins").first.inner_text()
    assert episode.locator("svg").count() >= 1  # the saw
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main img, main iframe").count() == 0
    assert "malformed" in page.get_by_test_id("episode").nth(3).inner_text().lower()
    assert status is not None


def test_latex_is_rendered(opened, address):
    page, _ = opened
    page.goto(f"{address}#/group?run=one&source=train&step=5&group=0")
    page.get_by_test_id("cards").wait_for()
    fraction = page.locator("[data-testid=question] math mfrac").first
    fraction.wait_for()
    box = fraction.bounding_box()
    assert box["height"] > 15  # numerator over denominator: taller than a line of text would be
    assert "$5 or $6" in page.get_by_test_id("question").inner_text()  # money is no formula
    page.get_by_test_id("over-training").click()
    page.get_by_test_id("question-row").first.wait_for()
    assert page.get_by_test_id("question-row").count() >= 6
    page.get_by_test_id("question-row").first.locator("a").first.click()
    page.get_by_test_id("cards").wait_for()


def test_two_checkpoints_are_compared(opened, address):
    page, _ = opened
    page.goto(f"{address}#/compare?a=one:train:0-1&b=one:train:4-5")
    page.get_by_test_id("compare-row").first.wait_for()
    assert page.get_by_test_id("compare-row").count() == 3
    assert re.search(r"3\s*solved|solved\D*3", page.get_by_test_id("compare-result").inner_text(), re.I)


def test_a_run_that_vanishes_and_files_that_are_broken_are_said(tmp_path, tokenizer):
    home = tmp_path / "runs"
    gone = make_run(home / "gone", tokenizer, steps=2)
    bad = make_run(home / "bad", tokenizer, steps=2)
    (bad / "episodes" / "train_000007.parquet").write_bytes(b"PAR1 half")
    (tmp_path / "photos").mkdir()
    with monitor(home, tmp_path / "photos") as (address, process), open_browser() as (page, watch):
        page.goto(f"{address}#/overview")
        page.get_by_test_id("run").nth(2).wait_for()
        assert "is no run" in page.locator('li[data-run="photos"]').inner_text()
        shutil.rmtree(gone)
        page.locator('li[data-run="gone"] [data-testid=run-message]').wait_for()
        page.goto(f"{address}#/episodes?run=bad&source=train")
        page.get_by_test_id("faults").get_by_text("train_000007.parquet").wait_for()
        write_step(bad / "episodes", tokenizer, 7)  # it is written to its end
        page.get_by_test_id("faults").get_by_text("train_000007.parquet").wait_for(state="detached")
        watch.check()
        process.terminate()  # the page says that it has lost its server
        process.wait(10)
        page.evaluate("location.hash = '#/overview'")
        wait_for(page, "document.querySelector('#status').textContent.length > 5")


VIEWS = ["overview", "overview?stage=sft", "episodes?run=one&source=train", "episodes?run=one&text=needle",
         "group?run=one&source=train&step=5&group=2", "question?run=one&qid=QID",
         "compare?a=one:train:0-1&b=one:train:4-5", "nowhere"]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_issue(address, scheme):
    with open_browser(color_scheme=scheme, reduced_motion="reduce") as (page, watch):
        page.goto(f"{address}#/group?run=one&source=train&step=5&group=0")
        link = page.get_by_test_id("over-training")
        link.wait_for()
        qid = re.search(r"qid=(\w+)", link.get_attribute("href"))[1]
        for view in VIEWS:
            page.goto(f"{address}#/{view.replace('QID', qid)}")
            page.wait_for_load_state("networkidle") if "overview" not in view else page.wait_for_timeout(1500)
            page.evaluate("for (const fold of [...document.querySelectorAll('details')].slice(0, 8)) fold.open = true")
            page.wait_for_timeout(300)
            assert serious_issues(page) == [], view
        watch.check()


def test_all_of_it_by_keyboard(opened, address):
    page, _ = opened
    page.goto(f"{address}#/episodes?run=one&source=train")
    page.get_by_test_id("episodes-table").locator("tbody tr").first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('row-link')"):
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.get_by_test_id("cards").wait_for()
    wait_for(page, "document.activeElement.tagName === 'H1'")
