"""The tables that `eke reproduce` knows: one file each, which lists the cells and says what the figures answer."""

TABLES: dict[str, str] = {
    "comatch-table2": "eke.tables.comatch_table2",
    "label-request": "eke.tables.label_request",
    "unseen-classes": "eke.tables.unseen_classes",
    "gradcam-table1": "eke.tables.gradcam_table1",
    "gradcam-table2": "eke.tables.gradcam_table2",
    "gradcam-fig3": "eke.tables.gradcam_fig3",
    "gradcam-adjustability": "eke.tables.gradcam_adjustability",
    "gradcam-boxes": "eke.tables.gradcam_boxes",
    "harmonizing-stop": "eke.tables.harmonizing_stop",
    "harmonizing-table1": "eke.tables.harmonizing_table1",
    "harmonizing-table2": "eke.tables.harmonizing_table2",
    "harmonizing-table3": "eke.tables.harmonizing_table3",
    "harmonizing-table4": "eke.tables.harmonizing_table4",
    "harmonizing-noise": "eke.tables.harmonizing_noise",
    "harmonizing-strategies": "eke.tables.harmonizing_strategies",
    "harmonizing-elsewhere": "eke.tables.harmonizing_elsewhere",
    "eba-mnist": "eke.tables.eba_mnist",
    "eba-svhn": "eke.tables.eba_svhn",
}
"""Name on the command line -> module with `make_table`."""
