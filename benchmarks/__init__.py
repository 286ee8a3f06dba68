"""What is measured and how it is summarised: lmms-eval tasks and model, records, statistics, tables."""
