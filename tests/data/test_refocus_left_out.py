"""Records of ReFocus_Data that hold what models cannot take: read where there is a right reading, else named by id."""

import json
from pathlib import Path

import pytest

from benchmarks.rehearsal.refocus_fixture import write_fixture
from iapo.config.sources import RefocusConfig, RepositoryConfig
from iapo.data.mini_world.world import RAW_FILES
from iapo.data.refocus.reader import RefocusData
from iapo.data.splits import SPLITS
from iapo.data.store import read_examples, write_examples
from iapo.types import TEST_SETS

PLANTED = ("lists_of_sources", "missing_answers", "odd_texts", "odd_figures", "boxes_not_finite")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy") / "refocus"
    write_fixture(root, figures_per_file=2, questions_per_figure=2, oddities=PLANTED)
    return root


def test_each_is_read_or_named_and_what_is_read_can_be_stored(copy: Path, tmp_path: Path) -> None:
    source = RepositoryConfig("ReFocus/ReFocus_Data", "6af42739216fd58047121bb51dba683277cfdfe3")
    with RefocusData(copy, RefocusConfig(source)) as data:
        examples = {
            example.example_id: example
            for split in SPLITS
            for test_set in TEST_SETS
            for example in data.examples(split, test_set)
        }
        files = data.report["files"]
    assert json.loads(json.dumps(files, allow_nan=False)) == files
    left_out = {test_set: files[name]["left_out"] for test_set, name in RAW_FILES.items()}
    assert left_out == {
        "charxiv": {},
        "h_bar": {"no answer": ["two_col_h0000-1"], "figure too narrow": ["two_col_h0001-0", "two_col_h0001-1"]},
        "v_bar": {
            "special token": ["two_col_v0000-1"],
            "boxes of a turned figure": ["two_col_v0001-0", "two_col_v0001-1"],
        },
        "vwtq": {},
        "vwtq_syn": {"lone surrogate": ["nu-0-0"], "no answer": ["nu-0-1"]},
        "vtabfact": {"special token": ["1-1-1"]},
    }
    assert examples["h_bar/two_col_h0000-0"].answer == examples["vwtq/nt-0-0"].answer == "Kenya|||22"
    assert examples["charxiv/0-0"].answer == "[0, 1]"
    odd = files[RAW_FILES["vwtq"]]["oddities"]
    assert odd.keys() == {"box not finite", "box clipped"} and all(len(ids) == 2 for ids in odd.values())
    path = tmp_path / "all.parquet"
    write_examples(path, examples.values())
    assert read_examples(path) == list(examples.values())
