"""From download to table: snakemake --cores all results/table.csv"""

from snakemake.utils import min_version

min_version("9.27")


configfile: "config/mini.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/teacher.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/mechanism.smk"


if workflow.is_main_process:
    keep_facts()
    settled = settle_future_files(RESULTS)
    if settled:
        print(settled, file=sys.stderr)
    age_other_table(RESULTS)
    try:
        restore_metadata(RESULTS)
        # Another revision of a repository is asked for by its params alone.
        restore_metadata(Path(CONFIG.hub.downloads))
    except RecordError as error:
        sys.exit(f"error: {error}")


rule all:
    default_target: True
    input:
        "results/table.csv",
        parts_of_table(),
        rules.make_tables.output,


rule table_and_pages:
    """What `make table` makes: the table, the pages to look at rollouts, and a card beside each policy."""
    input:
        "results/table.csv",
        RESULTS / "view.html",
        RESULTS / "view_training.html",
        RESULTS / "cards.run.json",
        parts_of_table(),
        rules.make_tables.output,
