"""The tables that `eke reproduce` knows: one file each, which lists the cells and says what the figures answer."""

TABLES: dict[str, str] = {
    "comatch-table2": "eke.tables.comatch_table2",
    "label-request": "eke.tables.label_request",
    "unseen-classes": "eke.tables.unseen_classes",
    "gradcam-table2": "eke.tables.gradcam_table2",
}
"""Name on the command line -> module with `make_table`."""
