"""Evaluation and reporting: the lmms-eval model and tasks, per-item records, statistics, tables and figures."""
