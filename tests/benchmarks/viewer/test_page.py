"""The viewer in a browser: addresses, filters, keys, texts of models, and both widths."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import Results


@pytest.fixture(scope="module")
def file(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "view.html"
    path.write_text(html, encoding="utf-8")
    return path


class Viewer:
    """The page in a window of its own; whatever it complains about or asks for is kept."""

    def __init__(self, browser: Any, file: Path, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url.partition(":")[0]))
        self.address = file.as_uri()

    def open(self, fragment: str = "") -> "Viewer":
        # From elsewhere, so that the page is read again and not only its address.
        self.page.goto("about:blank")
        self.page.goto(self.address + fragment)
        return self

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def fragment(self) -> str:
        return self.page.url.partition("#")[2]

    @property
    def count(self) -> str:
        return self.page.inner_text("#count")

    @property
    def ids(self) -> list[str]:
        return self.page.locator("#rows tbody .id").all_inner_texts()

    @property
    def current(self) -> int:
        return int(self.page.locator("#rows tr[aria-current=true]").get_attribute("data-row"))

    def signs(self, method: str) -> list[str]:
        """The signs of a column's answers."""
        return self.page.locator(f"#rows td[data-method={method}] p:first-child .sign").all_inner_texts()


@pytest.fixture
def viewer(browser: Any, file: Path) -> Iterator[Viewer]:
    shown = Viewer(browser, file)
    yield shown
    shown.page.close()


def test_a_cell_of_the_table_opens_its_questions(viewer: Viewer, results: Results) -> None:
    viewer.open("#set=charxiv&method=iapo")
    assert viewer.count == "80 rows: 40 questions, 2 seeds"
    assert all(name.startswith("test-charxiv") for name in viewer.ids) and len(viewer.ids) == 20
    heads = viewer.page.locator("#rows thead th").all_inner_texts()
    accuracy = results.scores("iapo", "charxiv").mean()
    assert [head.split() for head in heads] == [["Question"], ["iapo", "✓", f"{100 * accuracy:.1f}", "%", "of", "80"]]
    assert viewer.complaints == [] and set(viewer.requests) <= {"file", "data", "about"}


def test_a_start_that_two_seeds_share_is_counted_once(viewer: Viewer) -> None:
    viewer.open("#set=h_bar")
    heads = " ".join(viewer.page.locator("#rows thead th").all_inner_texts())
    # Two cold starts of the student, one of the teacher, and a teacher that was not evaluated.
    assert heads.count("of 80") == 3 and heads.count("of 40") == 1 and "– of 0" in heads
    # It is right on every second question.
    assert viewer.page.inner_text("thead [data-method=teacher_untrained] .share") == "✓ 50.0 % of 40"
    assert viewer.page.locator("td[data-method=teacher] .missing").count() == 20


def test_filters_write_the_address_and_the_address_filters(viewer: Viewer) -> None:
    viewer.open()
    viewer.page.select_option("[name=set]", "h_bar")
    viewer.page.select_option("[name=seed]", "5")
    viewer.page.select_option("[name=of]", "iapo")
    viewer.page.select_option("[name=answer]", "wrong")
    assert viewer.fragment == "set=h_bar&seed=5&of=iapo&answer=wrong"
    assert viewer.count == "20 rows: 20 questions, 1 seed"
    assert set(viewer.signs("iapo")) == {"✗"} and set(viewer.signs("vtool_r1")) == {"✓"}
    before = viewer.ids
    viewer.open(f"#{viewer.fragment}")
    assert viewer.ids == before and viewer.page.input_value("[name=answer]") == "wrong"
    viewer.page.uncheck("#methods [value=untrained]")
    assert viewer.page.locator("td[data-method=untrained]").count() == 0 and "method=vtool_r1,iapo" in viewer.fragment
    viewer.page.click("button[type=reset]")
    assert viewer.fragment == "" and viewer.count.startswith("160 rows")


@pytest.mark.parametrize(
    ("fragment", "rows"),
    [
        # Of 80 questions and two seeds, both methods are right on one half each.
        ("method=iapo,vtool_r1&differs=vtool_r1", 160),
        ("method=iapo,vtool_r1&differs=vtool_r1&answer=right&seed=3", 40),
        ("of=vtool_r1&differs=untrained", 0),
        # iapo is right on even questions; every fourth is right without tools.
        ("of=iapo&tool=helped&seed=3", 20),
        ("of=vtool_r1&tool=harmed&seed=3", 20),
        ("of=iapo&edit=helped&seed=3", 40),
        # Five kinds of turn.
        ("of=iapo&call=malformed", 32),
        ("of=iapo&call=none", 32),
        ("of=iapo&call=failed", 32),
        ("of=iapo&labels=right", 32),
        ("of=iapo&labels=other", 32),
        ("text=test-h_bar-0007", 2),
    ],
)
def test_rows_of_each_filter_by_hand(viewer: Viewer, fragment: str, rows: int) -> None:
    viewer.open(f"#{fragment}")
    assert viewer.count.startswith(f"{rows} rows" if rows else "No question passes")
    assert viewer.complaints == []


def test_an_address_of_another_file_says_what_it_could_not_show(viewer: Viewer) -> None:
    viewer.open("#set=charxiv&method=iapo,nobody&seed=99&colour=red")
    assert viewer.page.inner_text("#note").endswith("left out: seed=99, method=nobody, colour")
    assert viewer.count.startswith("80 rows")


def test_keys_move_between_questions_and_pages(viewer: Viewer) -> None:
    viewer.open("#set=h_bar&seed=3")
    assert viewer.current == 0
    viewer.press("j", "ArrowDown", "j", "k", "ArrowUp")
    assert viewer.current == 1 and viewer.fragment.endswith("at=3.test-h_bar-0001")
    assert viewer.page.evaluate("document.activeElement.dataset.row") == "1"
    viewer.press(*["j"] * 20)
    assert viewer.current == 21 and viewer.ids[0].startswith("test-h_bar-0020")
    viewer.open(f"#{viewer.fragment}")
    assert viewer.current == 21
    viewer.press(*["k"] * 30)
    assert viewer.current == 0 and viewer.ids[0].startswith("test-h_bar-0000")


def test_a_question_opens_larger_with_every_turn(viewer: Viewer) -> None:
    viewer.open("#set=h_bar&seed=3&method=iapo")
    viewer.press("j", "j", "Enter")
    detail = viewer.page.locator("#detail")
    assert "test-h_bar-0002 · seed 3" in detail.inner_text()
    assert detail.locator(".turns li").all_inner_texts()[1] == "<image>"
    viewer.press("j")
    assert "test-h_bar-0003 · seed 3" in detail.inner_text()
    viewer.press("Escape")
    assert not detail.is_visible() and viewer.current == 3


def test_the_slash_searches_as_one_types(viewer: Viewer) -> None:
    viewer.open("#set=h_bar")
    viewer.press("/")
    viewer.page.keyboard.type("0012 h_bar")
    assert viewer.count == "2 rows: 1 questions, 2 seeds" and "text=0012+h_bar" in viewer.fragment
    # A letter that moves elsewhere is a letter here.
    viewer.page.keyboard.type("j")
    assert viewer.count.startswith("No question passes")
    viewer.press("Backspace", "Enter", "j")
    assert viewer.current == 1


def test_focus_is_visible(viewer: Viewer) -> None:
    viewer.open()
    viewer.press("j")
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert viewer.page.evaluate(style) == "solid"


def test_a_hostile_answer_stays_text(viewer: Viewer, hostile: str) -> None:
    viewer.open("#method=iapo&answer=wrong&call=executed")
    viewer.press("Enter")
    assert "onerror=" in viewer.page.locator("#detail .answer").first.inner_text()
    assert hostile[:40] in viewer.page.locator("#detail .turns li").last.inner_text()
    assert viewer.page.title() == "Rollouts: mini"
    assert viewer.page.locator("img[src=x]").count() == 0 and viewer.complaints == []


def test_figures_are_decoded_and_layers_lie_over_them(viewer: Viewer) -> None:
    viewer.open("#set=charxiv&method=iapo&call=executed")
    viewer.page.wait_for_function("[...document.images].every((each) => each.complete)")
    assert viewer.page.evaluate("[...document.images].every((each) => each.naturalWidth > 0)")
    layer = viewer.page.locator("td .figure img:nth-child(2)").first
    assert layer.bounding_box()["width"] <= layer.locator("xpath=..").bounding_box()["width"]


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_sticks_out_at_either_width(browser: Any, file: Path, width: int) -> None:
    viewer = Viewer(browser, file, width).open()
    assert viewer.page.evaluate("document.documentElement.scrollWidth") == width
    viewer.press("Enter")
    assert viewer.page.evaluate("document.querySelector('#detail').scrollWidth") <= width
    viewer.page.close()
