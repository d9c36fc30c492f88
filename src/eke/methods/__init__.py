"""The training methods by name: the only registry."""

from eke.methods.contract import Method
from eke.methods.fixmatch import FixMatch
from eke.methods.flexmatch import FlexMatch
from eke.methods.freematch import FreeMatch
from eke.methods.mean_teacher import MeanTeacher
from eke.methods.mixmatch import MixMatch
from eke.methods.pseudo_label import PseudoLabel
from eke.methods.softmatch import SoftMatch
from eke.methods.supervised import Supervised
from eke.methods.uda import UDA

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "pseudo_label": PseudoLabel,
    "mean_teacher": MeanTeacher,
    "mixmatch": MixMatch,
    "uda": UDA,
    "fixmatch": FixMatch,
    "flexmatch": FlexMatch,
    "freematch": FreeMatch,
    "softmatch": SoftMatch,
}
