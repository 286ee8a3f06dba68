"""The mini data: no leakage, whole files, boxes where they belong, every gold answer right."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks.tasks.scoring import process_results
from iapo.cold_start.demonstrations import spoken_answer
from iapo.config.schema import DataConfig, load_config
from iapo.data.build import build
from iapo.data.contexts import FAMILY_WORDS
from iapo.data.mini_world.figures import draw, figure_grid
from iapo.data.mini_world.gapminder import split_tables
from iapo.data.mini_world.vocabulary import words
from iapo.data.mini_world.world import FIRST_QUESTIONS, RAW_FILES, draw_samples, write_raw
from iapo.data.prompts import open_image
from iapo.data.store import DataError, read_split, verify_manifest
from iapo.types import TEST_SETS, Example

CHART_FIELDS = {
    "query",
    "answer",
    "figure_path",
    "annotation_path",
    "x_values",
    "y_values",
    "x_bboxes",
    "y_bboxes",
    "figure_bbox",
}
TABLE_FIELDS = {
    "figure_id",
    "query",
    "prompt",
    "answer",
    "figure_path",
    "column_headers",
    "row_starters",
    "columns_bbox",
    "rows_bbox",
    "table_bbox",
}


def test_no_table_is_in_two_splits_and_every_country_is_trained_on() -> None:
    tables = split_tables(DataConfig().seed, unit=10)
    pairs = {
        split: {(table.indicator, country) for table in rows for country in table.values}
        for split, rows in tables.items()
    }
    assert not pairs["train"] & pairs["dev"] and not pairs["train"] & pairs["test"] and not pairs["dev"] & pairs["test"]
    names = {split: {country for _, country in rows} for split, rows in pairs.items()}
    assert names["test"] <= names["train"] and names["dev"] <= names["train"]


def test_the_first_training_questions_ask_for_every_label_that_test_asks_for_and_there_are_many() -> None:
    mini = load_config(yaml.safe_load(Path("config/mini.yaml").read_text()))
    assert mini.train.prompts_per_set >= FIRST_QUESTIONS
    tables, asked = split_tables(mini.data.seed, mini.data.value_unit), {}
    for split, count in (("train", FIRST_QUESTIONS), ("test", mini.data.test_per_set)):
        askable = asked.get("train")
        asked[split] = {
            sample.label
            for name in TEST_SETS
            for sample in draw_samples(random.Random(name), tables[split], name, count, mini.data, askable)  # type: ignore[index]
        }
    assert asked["test"] <= asked["train"] and len(asked["test"]) >= 150


def test_no_request_decides_more_than_half_a_point_of_the_average() -> None:
    config = DataConfig()
    for name in TEST_SETS:
        tables = split_tables(config.seed, config.value_unit)["test"]
        samples = draw_samples(random.Random(name), tables, name, 150, config)
        (_, most), *_ = Counter(sample.query for sample in samples).most_common(1)
        assert most / len(samples) / len(TEST_SETS) <= 0.005, name


def test_smudges_cover_the_configured_share_of_values_and_nothing_shows_them() -> None:
    config = DataConfig(smudge_rate=0.3)
    tables = split_tables(config.seed, config.value_unit)["train"]
    samples = draw_samples(random.Random(0), tables, "h_bar", 200, config)
    smudged = [each for sample in samples for each in sample.smudged]
    assert 0.25 < sum(smudged) / len(smudged) < 0.35
    pictures = [draw(figure_grid("h_bar", ["Chad"], [value], "1997", [True])).tobytes() for value in (10, 90)]
    assert pictures[0] == pictures[1]


def test_records_have_refocus_s_fields(data_root: Path) -> None:
    for test_set, file in RAW_FILES.items():
        expected = CHART_FIELDS if test_set in ("h_bar", "v_bar") else TABLE_FIELDS
        if test_set == "charxiv":
            expected = {"prompt", "figure_path", "answer"}
        for record in json.loads((data_root / "raw/test" / file).read_text()).values():
            assert record.keys() == expected | {"focus_areas"}


def test_two_builds_are_equal_bytes(tmp_path: Path) -> None:
    config = DataConfig(train_per_set=3, dev_per_set=3, test_per_set=3)
    assert build(config, tmp_path / "a") == build(config, tmp_path / "b")


def test_an_altered_or_missing_file_is_named(tmp_path: Path) -> None:
    build(DataConfig(train_per_set=2, dev_per_set=2, test_per_set=2), tmp_path)
    path = tmp_path / "test/h_bar.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"h_bar\.parquet: expected sha256"):
        verify_manifest(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="found no file"):
        verify_manifest(tmp_path)


def test_examples_hang_together(test_examples: list[Example]) -> None:
    assert {e.test_set for e in test_examples} == set(TEST_SETS)
    assert len({(e.image_png, e.request) for e in test_examples}) == len(test_examples)
    for example in test_examples:
        image = open_image(example)
        families = [boxes for boxes in example.figure.boxes.values() if example.focus_labels[0] in boxes]
        assert len(families) == 1
        for left, top, right, bottom in families[0].values():
            assert 0 <= left < right <= image.width and 0 <= top < bottom <= image.height
        assert example.focus_labels[0] in example.request and example.focus_labels[0] in example.context
        assert image.width % 28 == 0 and image.height % 28 == 0


def test_the_prompt_s_text_names_the_family_of_elements_that_holds_the_label_asked_for(
    test_examples: list[Example],
) -> None:
    """Two kinds of chart would read alike, and which tools fit could not be known from the text."""
    for example in test_examples:
        family = next(f for f, boxes in example.figure.boxes.items() if example.focus_labels[0] in boxes)
        assert f" . {FAMILY_WORDS[family]} : " in example.context, example.example_id


def test_statements_are_balanced(data_root: Path) -> None:
    golds = [example.answer for example in read_split(data_root, "test", ["vtabfact"])]
    assert sorted(set(golds)) == ["0", "1"] and abs(golds.count("1") / len(golds) - 0.5) < 0.05


def test_every_gold_answer_scores_one_and_a_wrong_one_nothing(test_examples: list[Example]) -> None:
    for example in test_examples:
        doc = {
            "example_id": example.example_id,
            "figure": json.dumps({"figure_id": "f"}),
            "answer": example.answer,
            "metric": example.metric,
            "test_set": example.test_set,
            "focus_labels": list(example.focus_labels),
        }
        assert process_results(doc, [spoken_answer(example)])["accuracy"]["score"] == 1
        assert process_results(doc, ["FINAL ANSWER: 7"])["accuracy"]["score"] == 0


def test_ones_keep_what_tens_round_and_few_labels_share_a_value() -> None:
    shared = {}
    for unit in (1, 10):
        config = DataConfig(value_unit=unit)
        samples = draw_samples(random.Random(0), split_tables(0, unit)["train"], "h_bar", 200, config)
        assert {value % unit for sample in samples for value in sample.values} == {0}
        assert {str(value) for sample in samples for value in sample.values} <= set(words(config))
        pairs = [(s.values[s.asked], value) for s in samples for i, value in enumerate(s.values) if i != s.asked]
        shared[unit] = sum(asked == other for asked, other in pairs) / len(pairs)
    assert shared[1] < 0.1 < shared[10]


def test_where_the_first_label_is_not_asked_for_only_later_training_questions_ask_for_it(tmp_path: Path) -> None:
    sparse = load_config(yaml.safe_load(Path("config/sparse.yaml").read_text()))
    assert not sparse.data.ask_first_label
    assert max(sparse.train.prompts_per_set, sparse.teacher.train.prompts_per_set) <= FIRST_QUESTIONS
    write_raw(replace(sparse.data, train_per_set=120, dev_per_set=5, test_per_set=20), tmp_path)
    for split in ("train", "dev", "test"):
        for file in ("chartQA_h_bar_wbb.json", "chartQA_v_bar_wbb.json"):
            records = list(json.loads((tmp_path / split / file).read_text()).values())
            first = [[*each["x_values"], *each["y_values"]][0] in each["focus_areas"] for each in records]
            assert not any(first[:FIRST_QUESTIONS])
            assert split != "train" or any(first)
