"""The study with hints on its page: the differences that are checked in, in points."""

from pathlib import Path

from benchmarks.hints_page import hints_block

PAGE = """- Share R: r = +0.50 over 61 policies.

| condition | seeds | score |
|:----------|:------|:------|
| iapo      | 3     | 0.5   |

| condition | control  | of      | difference              | verdict             |
|:----------|:---------|:--------|:------------------------|:--------------------|
| iapo      | vtool_r1 | score   | -0.028 [-0.052, +0.003] | no difference found |
| iapo      | vtool_r1 | share_R | -0.061 [-0.113, -0.008] | less                |
| turn      | vtool_r1 | score   | -0.100 [-0.150, -0.050] | less                |
"""


def test_accuracies_are_in_points_a_processor_a_column(tmp_path: Path) -> None:
    (tmp_path / "mechanism.md").write_text(PAGE)
    (tmp_path / "mechanism_amd.md").write_text(PAGE.replace("-0.028", "+0.013"))
    lines = [" ".join(line.split()) for line in hints_block("mechanism", tmp_path).splitlines()]
    assert lines[0] == "| condition | against | Intel | AMD |"
    assert lines[2:4] == [
        "| iapo | vtool_r1 | -2.8 [-5.2, +0.3] | +1.3 [-5.2, +0.3] |",
        "| turn | vtool_r1 | -10.0 [-15.0, -5.0] **less** | -10.0 [-15.0, -5.0] **less** |",
    ]
    assert lines[4:] == ["", *(f"- {name}: Share R: r = +0.50 over 61 policies." for name in ("Intel", "AMD"))]
