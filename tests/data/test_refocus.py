"""ReFocus_Data: both layouts, every oddity, counts to the record, and no figure on two sides."""

import copy
import json
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rehearsal import refocus_fixture
from benchmarks.rehearsal.refocus_fixture import write_fixture
from benchmarks.rehearsal.refocus_oddities import ODDITIES
from benchmarks.rehearsal.refocus_records import Fixture, draw_fixture
from iapo.config.schema import DataConfig
from iapo.config.sources import RefocusConfig, RepositoryConfig
from iapo.data.build import build
from iapo.data.ingest import IngestError
from iapo.data.mini_world.world import RAW_FILES
from iapo.data.prompts import ANSWER_PREFIX, answer_text, open_image
from iapo.data.refocus.layout import TEST_FOLDER, TRAINING
from iapo.data.refocus.reader import INSTRUCTION, Ingested, read_refocus
from iapo.data.splits import SPLITS
from iapo.data.store import DataError, read_split, verify_manifest
from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.tools.drawing import apply
from iapo.types import TEST_SETS, Example, ToolCall

FIGURES, QUESTIONS = 3, 3
RECORDS = FIGURES * QUESTIONS
TABLES = ("vwtq", "vwtq_syn", "vtabfact")
H_BAR, V_BAR, VWTQ, SYN, FACT = (RAW_FILES[name] for name in ("h_bar", "v_bar", *TABLES))
Write = Callable[..., Path]


def config(**changes: Any) -> RefocusConfig:
    source = RepositoryConfig("ReFocus/ReFocus_Data", "6af42739216fd58047121bb51dba683277cfdfe3")
    return RefocusConfig(source, **{"max_missing_figures": 0.4, **changes})


@pytest.fixture(scope="module")
def drawn() -> Fixture:
    return draw_fixture(random.Random(1), FIGURES, QUESTIONS)


@pytest.fixture
def write(drawn: Fixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """``write(*oddities, layout="hub")``: the fixture's folder. Drawn once for all tests."""
    monkeypatch.setattr(refocus_fixture, "draw_fixture", lambda *_: copy.deepcopy(drawn))

    def written(*oddities: str, layout: Any = "hub") -> Path:
        root = tmp_path / "-".join([layout, *oddities])[:200]
        write_fixture(root, layout=layout, oddities=oddities)
        return root

    return written


@pytest.fixture(scope="module")
def clean(drawn: Fixture, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    """What a copy without oddities gives."""
    root = tmp_path_factory.mktemp("clean") / "copy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refocus_fixture, "draw_fixture", lambda *_: copy.deepcopy(drawn))
        write_fixture(root)
    return read_refocus(root, config())


def everything(data: Ingested) -> dict[str, Example]:
    return {e.example_id: e for sets in data.examples.values() for examples in sets.values() for e in examples}


def read(write: Write, *oddities: str, **changes: Any) -> tuple[dict[str, Example], dict[str, Any]]:
    data = read_refocus(write(*oddities), config(**changes))
    return everything(data), dict(data.report)


def test_a_clean_copy_is_read_to_the_record(clean: Ingested) -> None:
    data = clean
    assert data.report["layout"] == "hub"
    assert {name: file["records"] for name, file in data.report["files"].items()} == {
        **dict.fromkeys(RAW_FILES.values(), RECORDS),
        TRAINING: 2 * RECORDS,
    }
    for file in data.report["files"].values():
        assert file["used"] == file["records"]
        assert not file["left_out"] and not file["oddities"] and not file["repeated_ids"] and not file["unknown_fields"]
    charts, tables = dict.fromkeys(("h_bar", "v_bar"), RECORDS), dict.fromkeys(TABLES, QUESTIONS)
    held_out = {"h_bar": QUESTIONS, "v_bar": QUESTIONS, **tables}
    assert data.report["counts"] == {
        "train": {"charxiv": 0, "h_bar": RECORDS - QUESTIONS, "v_bar": RECORDS - QUESTIONS}
        | dict.fromkeys(TABLES, RECORDS - 2 * QUESTIONS),
        "dev": {"charxiv": 0, **held_out},
        "test": {"charxiv": RECORDS, **charts, **tables},
    }
    found = {split: {name: len(each) for name, each in sets.items()} for split, sets in data.examples.items()}
    assert found == data.report["counts"]
    assert len(everything(data)) == 8 * RECORDS


def test_pictures_have_the_sizes_of_refocus_s_and_panels_are_found_in_them(clean: Ingested) -> None:
    examples = everything(clean)
    for example in examples.values():
        width, height = open_image(example).size
        assert 600 <= width <= 940 and 440 <= height <= 740
        for labels in example.figure.boxes.values():
            assert all(0 <= x < right <= width and 0 <= y < low <= height for x, y, right, low in labels.values())
    panels = [len(e.figure.boxes["subfigures"]) for e in examples.values() if e.test_set == "charxiv"]
    assert set(panels) <= {2, 4, 6} and len(panels) == RECORDS


@pytest.mark.parametrize("change", ["flat", "stripped", "unpacked", "packed twice"])
def test_other_layouts_give_the_same_examples(write: Write, clean: Ingested, change: str) -> None:
    root = write(layout="flat" if change == "flat" else "hub")
    if change == "stripped":
        (root / TEST_FOLDER).rename(root / TEST_FOLDER.strip())
    for archive in (root / "images").glob("*.zip") if "packed" in change else ():
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(root / "images")
        if change == "unpacked":
            archive.unlink()
    data = read_refocus(root, config())
    assert data.report["layout"] == ("flat" if change == "flat" else "hub")
    assert data.examples == clean.examples


def test_no_figure_is_on_two_sides_and_the_order_of_records_does_not_matter(write: Write, clean: Ingested) -> None:
    root, data = write(), clean
    sides: dict[str, set[str]] = {}
    for example in everything(data).values():
        sides.setdefault(example.figure.figure_id, set()).add(example.split)
    assert len(sides) == 8 * FIGURES and all(len(each) == 1 for each in sides.values())
    for path in (root / TEST_FOLDER).iterdir():
        pairs = list(json.loads(path.read_text()).items())
        random.Random(2).shuffle(pairs)
        path.write_text(json.dumps(dict(pairs)))
    archive = root / "train_raw_data" / TRAINING
    with zipfile.ZipFile(archive) as opened:
        lines = opened.read("chartqa_vcot/train.jsonl").decode().splitlines()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("chartqa_vcot/train.jsonl", "\n".join(reversed(lines)))
    assert read_refocus(root, config()).examples == data.examples
    again = read_refocus(root, config(seed=1))
    assert everything(again) != everything(data)
    assert again.examples["test"]["charxiv"] != data.examples["test"]["charxiv"]


def test_a_figure_that_is_also_tested_is_not_trained_on(write: Write) -> None:
    examples, report = read(write, "tested_in_training")
    left_out = report["files"][TRAINING]["left_out"]
    assert left_out == {"figure is also in test": [f"train-multi_col_h0000-{i}" for i in range(QUESTIONS)]}
    assert not any(e.example_id.startswith("h_bar/train-multi_col_h0000") for e in examples.values())


def test_a_table_under_another_rendering_is_on_the_same_side(write: Write) -> None:
    # The rate deals one table a set to test, so that by chance alone the two would part for some seed.
    for seed in range(4):
        examples, report = read(write, "shared_ids", seed=seed)
        assert report["ids_in_several_files"] == {"nt-0-0": [SYN, VWTQ]}
        assert examples["vwtq/nt-0-0"].split == examples["vwtq_syn/nt-0-0"].split


def test_units_are_told_apart_and_converted_once(write: Write, clean: Ingested) -> None:
    expected = everything(clean)
    examples, report = read(write, "other_unit")
    assert examples == expected
    unit = "boxes in the other unit"
    assert report["files"][H_BAR]["oddities"] == {unit: {"two_col_h0000-0": []}}
    assert report["files"][TRAINING]["oddities"] == {unit: {"train-multi_col_h0000-0": []}}


@pytest.mark.parametrize("form", ["keyed_boxes", "later_records"])
def test_other_forms_of_records_give_the_same_examples(write: Write, clean: Ingested, form: str) -> None:
    expected = everything(clean)
    examples, report = read(write, form)
    assert examples == expected
    assert not any(file["oddities"] or file["unknown_fields"] for file in report["files"].values())


def test_missing_figures_are_left_out_and_too_many_stop_the_run(write: Write) -> None:
    examples, report = read(write, "missing_figure", "unreadable_figure")
    ids = {V_BAR: [f"two_col_v0000-{i}" for i in range(QUESTIONS)], FACT: [f"1-0-{i}" for i in range(QUESTIONS)]}
    assert report["files"][V_BAR]["left_out"] == {"missing figure": ids[V_BAR]}
    assert report["files"][FACT]["left_out"] == {"unreadable figure": ids[FACT]}
    assert report["counts"]["test"]["v_bar"] == RECORDS - QUESTIONS
    assert not {f"v_bar/{name}" for name in ids[V_BAR]} & examples.keys()
    with pytest.raises(IngestError, match=rf"no figure for {QUESTIONS} of {RECORDS} .*two_col_v0000-0.*at most 1\.0%"):
        read(write, "missing_figure", max_missing_figures=0.01)


def test_a_path_that_fits_two_figures_is_left_out(write: Write) -> None:
    root = write(layout="flat")
    for split in ("val", "dev"):
        copy_of = root / f"images/other/{split}/test/png/two_col_v0000.png"
        copy_of.parent.mkdir(parents=True)
        copy_of.write_bytes(b"")
    (root / "images/ChartQA/ChartQA Dataset/test/png/two_col_v0000.png").unlink()
    report = read_refocus(root, config()).report
    assert set(report["files"][V_BAR]["left_out"]) == {"ambiguous figure"}


def test_repeated_keys_keep_what_differs(write: Write, clean: Ingested) -> None:
    examples, report = read(write, "repeated_keys")
    file = report["files"][VWTQ]
    assert (file["records"], file["used"]) == (RECORDS + 2, RECORDS + 1)
    assert file["repeated_ids"] == {"nt-0-0": 2, "nt-0-1": 2}
    assert file["left_out"] == {"repeats another record": ["nt-0-1"]}
    assert {examples["vwtq/nt-0-0"].request, examples["vwtq/nt-0-0#2"].request} == {
        everything(clean)[f"vwtq/{name}"].request for name in ("nt-0-0", "nt-0-2")
    }


def test_unknown_fields_are_reported(write: Write) -> None:
    _, report = read(write, "extra_field")
    assert {name: file["unknown_fields"] for name, file in report["files"].items() if file["unknown_fields"]} == {
        H_BAR: ["caption"]
    }


@pytest.mark.parametrize("oddity", ["truth_forms", "number_answers"])
def test_answers_are_text_in_whatever_form_they_come(write: Write, clean: Ingested, oddity: str) -> None:
    expected = everything(clean)
    examples, _ = read(write, oddity)
    assert {name: e.answer for name, e in examples.items()} == {name: e.answer for name, e in expected.items()}
    assert {e.answer for e in examples.values() if e.test_set == "vtabfact"} == {"0", "1"}


def test_unusable_answers_are_left_out(write: Write) -> None:
    _, report = read(write, "unusable_answers")
    assert report["files"][FACT]["left_out"] == {"no truth value": ["1-0-0"]}
    assert report["files"][VWTQ]["left_out"] == {"no answer": ["nt-0-0"]}


def test_every_gold_answer_scores_one_and_a_wrong_one_nothing(write: Write) -> None:
    examples, _ = read(write, "truth_forms", "number_answers", "repeated_keys")
    assert any("|||" in e.answer for e in examples.values())
    for e in examples.values():
        said = {"0": "false", "1": "true"}[e.answer] if e.metric == "fact" else e.answer.replace("|||", "||")
        assert score(extract(answer_text(said)), e.answer, e.metric) == 1
        assert score(extract(answer_text("none of these")), e.answer, e.metric) == 0


def test_repeated_and_blank_labels_can_be_named(write: Write, clean: Ingested) -> None:
    expected = everything(clean)
    examples, report = read(write, "repeated_labels")
    rows, before = (dict(each["vwtq/nt-0-0"].figure.boxes["rows"]) for each in (examples, expected))
    twice = list(before)[1]
    assert list(rows)[1:4] == [twice, f"{twice} (2)", "(blank)"] and list(rows.values()) == list(before.values())
    odd = report["files"][VWTQ]["oddities"]
    assert odd["repeated label"]["nt-0-0"] == [twice] and odd["blank label"].keys() == {f"nt-0-{i}" for i in range(3)}
    assert report["files"][H_BAR]["oddities"].keys() == {"repeated label"}


def test_a_label_without_a_box_and_a_box_without_a_label_are_dropped(write: Write, clean: Ingested) -> None:
    expected = everything(clean)
    examples, report = read(write, "label_without_box")
    for name, file, oddity in (
        ("vwtq_syn/nu-0-0", SYN, "label without a box"),
        ("v_bar/two_col_v0000-0", V_BAR, "box without a label"),
    ):
        kept, before = (max(each[name].figure.boxes.values(), key=len) for each in (examples, expected))
        assert list(kept.items()) == list(before.items())[:-1]
        assert len(report["files"][file]["oddities"][oddity]) == QUESTIONS


def test_boxes_are_clipped_to_the_picture_and_empty_ones_dropped(write: Write, clean: Ingested) -> None:
    expected = everything(clean)
    examples, report = read(write, "boxes_outside")
    table, before = (each["vwtq/nt-0-0"] for each in (examples, expected))
    assert list(table.figure.boxes["columns"].values())[-1][2] == open_image(table).width
    assert list(table.figure.boxes["rows"]) == list(before.figure.boxes["rows"])[:-1]
    assert {name: len(ids) for name, ids in report["files"][VWTQ]["oddities"].items()} == {
        "box clipped": QUESTIONS,
        "box without area": QUESTIONS,
    }
    assert report["files"][TRAINING]["oddities"]["box clipped"].keys() == {"train-multi_col_h0000-0"}


def test_a_table_without_boxes_is_kept_and_a_figure_without_panels_is_not(write: Write) -> None:
    examples, report = read(write, "no_boxes", "no_panels")
    assert examples["vtabfact/1-0-0"].figure.boxes == {}
    assert report["files"][FACT]["oddities"]["no boxes"].keys() == {f"1-0-{i}" for i in range(QUESTIONS)}
    assert report["files"][RAW_FILES["charxiv"]]["left_out"] == {"no panel": [f"0-{i}" for i in range(QUESTIONS)]}


def test_annotated_boxes_become_the_labels_that_the_demonstration_names(clean: Ingested, drawn: Fixture) -> None:
    examples = everything(clean)
    named = 0
    for record in drawn.training:
        named_labels = re.search(r"\(image_1, (\[.*?\])", record["conversations"][0]["response"])
        labels = tuple(json.loads(named_labels[1])) if named_labels else ()
        assert examples[f"{record['source']}/{record['id']}"].focus_labels == labels
        named += bool(labels)
    assert named == 4 * FIGURES


def test_the_plain_text_has_every_label_and_the_request_is_the_bare_question(clean: Ingested, drawn: Fixture) -> None:
    examples = everything(clean)
    for example in examples.values():
        labels = [label for boxes in example.figure.boxes.values() for label in boxes]
        assert labels and all(label in example.context for label in labels)
        assert example.context.endswith("\n" + INSTRUCTION) and f"{ANSWER_PREFIX}<answer>" in INSTRUCTION
    name, record = drawn.tests["vwtq"][0]
    assert examples[f"vwtq/{name}"].request == record["query"]
    assert examples[f"vwtq/{name}"].context.startswith("table . rows : ")


def test_masking_rows_leaves_the_header(clean: Ingested) -> None:
    example = everything(clean)["vwtq/nt-0-0"]
    image, rows = open_image(example), example.figure.boxes["rows"]
    assert "Country" not in rows and "Country" in example.figure.boxes["columns"]
    masked = apply(image, example.figure, [ToolCall("focus_on_rows_with_mask", (list(rows)[1],))]).image
    first = next(iter(rows.values()))
    header = (0, 0, image.width, first[1])
    assert masked.crop(header).tobytes() == image.crop(header).tobytes()
    assert set(masked.crop(first).getdata()) == {(255, 255, 255)}


def test_every_wrong_count_is_listed(write: Write) -> None:
    right = {"test/h_bar": RECORDS, "train/charxiv": 0, H_BAR: RECORDS, "train_chartqa_vcot": 2 * RECORDS}
    read(write, expected=right)
    wrong = right | {"test/h_bar": 444, "chartQA_v_bar_wbb": 382, "test/pie": 1}
    with pytest.raises(IngestError) as error:
        read(write, expected=wrong)
    for part in (
        f"test/h_bar: found {RECORDS}, expected 444",
        f"chartQA_v_bar_wbb: found {RECORDS}, expected 382",
        "test/pie: found no such set or file, expected 1",
        "data.refocus.expected",
    ):
        assert part in str(error.value)


def cut(content: bytes) -> bytes:
    return content[:-100]


@pytest.mark.parametrize(
    ("path", "change", "says"),
    [
        (f"{TEST_FOLDER}/{SYN}", None, rf"not found: .*{SYN}; expected the files of ReFocus_Data"),
        (f"{TEST_FOLDER}/{SYN}", cut, rf"{SYN}, line 1: not JSON"),
        (f"{TEST_FOLDER}/{SYN}", lambda old: b"[]", rf"{SYN}, line 1: found list; expected an object"),
        (f"{TEST_FOLDER}/{SYN}", lambda old: old.replace(b'"query"', b'"querry"'), "'nu-0-0': field 'query' not found"),
        (f"{TEST_FOLDER}/{SYN}", lambda old: old.replace(b'"x1"', b'"x_1"'), "expected x1, y1, x2 and y2"),
        (f"{TEST_FOLDER}/{SYN}", lambda old: b"\xff" + old, "found bytes that are not UTF-8"),
        ("images/charxiv.zip", cut, r"charxiv\.zip: not a whole zip"),
        ("images/charxiv.zip", lambda old: old[:100] + bytes(20) + old[120:], "member .* is damaged"),
    ],
)
def test_damage_is_named(write: Write, path: str, change: Callable[[bytes], bytes] | None, says: str) -> None:
    file = write() / path
    content = file.read_bytes()
    file.unlink()
    if change is not None:
        file.write_bytes(change(content))
    with pytest.raises(IngestError, match=says):
        read_refocus(file.parents[1], config())


@pytest.mark.parametrize("member", ["../../outside.png", "/outside.png", "a\\..\\..\\outside.png", ".", "bomb.png"])
def test_an_unsafe_zip_is_refused(write: Write, member: str) -> None:
    root = write()
    with zipfile.ZipFile(root / "images/charxiv.zip", "a") as archive:
        archive.writestr(member, bytes(10**7 if "bomb" in member else 0), zipfile.ZIP_DEFLATED)
    with pytest.raises(IngestError, match=r"found the member .*do not unpack this file"):
        read_refocus(root, config())


def test_every_oddity_together_is_ingested(write: Write) -> None:
    names = [name for name in ODDITIES if name not in ("other_unit", "keyed_boxes")]
    examples, report = read(write, *names, max_missing_figures=1.0)
    for name, file in report["files"].items():
        assert file["records"] == file["used"] + sum(map(len, file["left_out"].values())), name
    assert sum(file["used"] for file in report["files"].values()) == len(examples)


def test_a_build_stores_every_set_with_report_and_hashes(write: Write, tmp_path: Path) -> None:
    settings, raw, root = DataConfig(refocus=config()), write("no_panels"), tmp_path / "built"
    manifest = build(settings, root, raw=raw)
    assert verify_manifest(root) == json.loads((root / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    assert manifest["raw_sha256"].keys() == {
        *(f"{TEST_FOLDER}/{name}" for name in RAW_FILES.values()),
        f"train_raw_data/{TRAINING}",
        *(f"images/{name}.zip" for name in ("ChartQA", "charxiv", "tablevqabench")),
    }
    assert "report.json" in manifest["sha256"]
    data = read_refocus(raw, config())
    assert json.loads((root / "report.json").read_text()) == json.loads(json.dumps(data.report))
    for split in SPLITS:
        stored = read_split(root, split, TEST_SETS)
        assert stored == [example for name in TEST_SETS for example in data.examples[split][name]]
    assert build(settings, tmp_path / "again", raw=raw) == manifest
    with pytest.raises(DataError, match="no folder is given"):
        build(settings, tmp_path / "none")
