"""The monitor's page in a real Chromium: curves move, filters work, a group opens, a model's text is shown, not run."""

from __future__ import annotations

import json
import re
import shutil
import time

import pytest

from tests.browser import open_browser, serious_issues, wait_for
from tests.monitor_run import make_run, metrics_line, monitor, write_step

pytestmark = [pytest.mark.slow, pytest.mark.browser]


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
    assert "the last line is incomplete" in message.inner_text()
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


def test_a_curve_is_hidden_by_the_legend_or_by_the_keyboard_and_the_link_keeps_it(opened, address):
    page, _ = opened
    page.goto(f"{address}#/overview?runs=one")
    chart = page.locator("#chart-reward")
    chart.scroll_into_view_if_needed()
    chart.locator(".legendtoggle").nth(1).click()
    wait_for(page, "location.hash.endsWith('hide=one:reward/answer/mean')")
    chart.locator("summary").focus()
    page.keyboard.press("Enter")
    head = chart.get_by_role("button", name="answer")
    assert head.get_attribute("aria-pressed") == "false"
    head.focus()
    page.keyboard.press("Enter")
    wait_for(page, "!location.hash.includes('hide')")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # the newest step
    wait_for(page, "/#.episodes.run=one&source=train&step_from=\\d+/.test(location.hash)")
    page.goto(f"{address}#/overview?runs=one&hide=one:reward/mean")
    shown = "document.querySelector('#chart-reward .js-plotly-plot')?.data?.map(curve => curve.visible)"
    wait_for(page, f"JSON.stringify({shown}) === JSON.stringify(['legendonly', true])")


def test_a_table_that_was_read_while_files_were_taken_in_is_read_again(opened, address):
    page, _ = opened
    short = []

    def shorten(route):
        if short:
            return route.continue_()
        short.append(answer := route.fetch().json())
        return route.fulfill(json=answer | {"total": 12, "indexing": {"files": 1, "of": 6}})

    page.route("**/api/episodes?*", shorten)
    page.goto(f"{address}#/episodes?run=one&source=train")
    wait_for(page, "/72 episodes/.test(document.querySelector('[data-testid=result-status]')?.textContent)")
    assert short


def test_filters_and_a_group_with_formulas_and_hostile_text(opened, address):
    page, _ = opened
    page.goto(f"{address}#/episodes?run=one&source=train")
    table = page.get_by_test_id("episodes-table")
    table.wait_for()
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


def test_latex_is_rendered(opened, address):
    page, _ = opened
    page.goto(f"{address}#/group?run=one&source=train&step=5&group=0")
    page.get_by_test_id("cards").wait_for()
    fraction = page.locator("[data-testid=question] math mfrac").first
    fraction.wait_for()
    box = fraction.bounding_box()
    assert box["height"] > 15  # numerator over denominator: taller than a line of text would be
    assert "$5 or $6" in page.get_by_test_id("question").inner_text()  # money is not a formula
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
        assert "is not a run" in page.locator('li[data-run="photos"]').inner_text()
        shutil.rmtree(gone)
        page.locator('li[data-run="gone"] [data-testid=run-message]').wait_for()
        page.goto(f"{address}#/episodes?run=bad&source=train")
        page.get_by_test_id("faults").get_by_text("train_000007.parquet").wait_for()
        write_step(bad / "episodes", tokenizer, 7)  # it is written to its end
        page.get_by_test_id("faults").get_by_text("train_000007.parquet").wait_for(state="detached")
        watch.check()
        process.terminate()  # the page says that it has lost its server
        process.wait(120)
        page.evaluate("location.hash = '#/overview'")
        wait_for(page, "document.querySelector('#status').textContent.length > 5")


def write_log(folder, steps: int, **values) -> None:
    """A run of `steps` log lines, each with `values`; "accuracy/mean" is 0 at every second step."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(f"name: {folder.name}\nprotocol: {{name: inftythink, max_rounds: 3}}\n")
    lines = [json.loads(metrics_line(step + 1)) | {"accuracy/mean": 0.5 * (step % 2)} for step in range(steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line | values) + "\n" for line in lines))


BAD = {"episode/stop/answered": 0.0, "episode/stop/malformed": 0.5, "episode/stop/truncated": 0.5,
       "group/frac_zero_std": 1.0, "mismatch/logprob_diff/mean": 1.0}  # fmt: skip


def test_serious_warnings_stand_open_and_are_told_once(opened, tmp_path):
    page, _ = opened
    names = ["a", "b", "c"]
    for name in names:
        write_log(tmp_path / name, 30, **BAD)
    with monitor(*(tmp_path / name for name in names)) as (address, _):
        page.goto(f"{address}#/overview")
        strip = page.get_by_test_id("warnings")
        strip.locator("details").wait_for()
        assert strip.locator(".serious").count() == 6 and strip.locator("details .serious").count() == 0
        assert strip.locator("details .warning").count() == 6
        malformed = strip.locator("[data-kind=malformed]").first.get_by_role("link")
        assert malformed.inner_text() == "Episodes sampled at step 29"
        assert re.search("step_from=29&step_to=29&stop=malformed$", malformed.get_attribute("href"))
        assert "stop=truncated" in strip.locator("[data-kind=truncated] a").first.get_attribute("href")
        news = page.get_by_test_id("warning-news")
        told = news.inner_text()
        assert "Serious" in told and "And 7 more." in told
        strip.locator("summary").click()
        line = json.loads(metrics_line(31)) | BAD
        with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        strip.get_by_text("Episodes sampled at step 30").first.wait_for()
        assert strip.locator("details").evaluate("fold => fold.open") and news.inner_text() == told
        write_log(tmp_path / "a", 31, time=time.time())  # begun anew: its signs are gone
        wait_for(page, "/left/.test(document.querySelector('[data-testid=warning-news]').textContent)")


def test_a_log_axis_says_what_it_leaves_out(opened, tmp_path):
    page, _ = opened
    write_log(tmp_path / "zeros", 9)
    with monitor(tmp_path / "zeros") as (address, _):
        page.goto(f"{address}#/overview?log=1")
        notes = {"accuracy": "5 values at or below 0 are not shown", "clip": "needs values above 0", "stops": "Linear"}
        types = {"accuracy": "log", "clip": "linear", "stops": "linear"}
        for chart, words in notes.items():
            figure = page.locator(f"#chart-{chart}")
            figure.scroll_into_view_if_needed()
            figure.get_by_test_id("axis-note").get_by_text(words).wait_for()
            plot = f"document.querySelector('#chart-{chart} .js-plotly-plot')"
            wait_for(page, f"{plot}?.layout?.yaxis?.type === '{types[chart]}'")
        kept = "document.querySelector('#chart-accuracy .js-plotly-plot').data.at(-1).y.filter(y => y !== null).length"
        assert page.evaluate(kept) == 4
        page.locator("#log").uncheck()
        page.locator("#chart-stops").get_by_test_id("axis-note").wait_for(state="hidden")


def test_back_undoes_a_filter_and_finds_the_row_that_was_opened(opened, address):
    page, _ = opened
    page.goto(f"{address}#/episodes?run=one&source=train")
    page.get_by_test_id("row").nth(40).wait_for()
    page.locator("#filter-correct").select_option("right")
    page.locator("input[name=stop][value=answered]").check()
    wait_for(page, "location.hash.includes('stop=answered')")
    page.go_back()
    wait_for(page, "!document.querySelector('input[name=stop]:checked')")
    assert page.locator("#filter-correct").input_value() == "right"
    page.go_back()
    wait_for(page, "document.querySelector('#filter-correct')?.value === ''")
    link = page.locator("a.row-link").nth(40)
    link.click()
    page.get_by_test_id("cards").wait_for()
    page.get_by_test_id("back").click()
    wait_for(page, "[...document.querySelectorAll('a.row-link')].indexOf(document.activeElement) === 40")
    assert page.evaluate("scrollY") > 0


def test_a_copied_link_names_what_is_shown(opened, address):
    page, _ = opened
    page.goto(f"{address}#/overview")
    page.locator("#chart-accuracy").wait_for()
    page.locator("#copy-link").click()
    wait_for(page, "location.hash.includes('runs=one,two') && location.hash.includes('stage=rl')")


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
