"""The training methods by name: the only registry."""

from eke.methods.autoencoder import Autoencoder
from eke.methods.barlow_twins import BarlowTwins
from eke.methods.byol import BYOL
from eke.methods.comatch import CoMatch
from eke.methods.contract import Method
from eke.methods.fixmatch import FixMatch
from eke.methods.flexmatch import FlexMatch
from eke.methods.freematch import FreeMatch
from eke.methods.gradcam_consistency import GradCAMConsistency
from eke.methods.harmonize import Harmonize
from eke.methods.mean_teacher import MeanTeacher
from eke.methods.mixmatch import MixMatch
from eke.methods.pseudo_label import PseudoLabel
from eke.methods.simclr import SimCLR
from eke.methods.simmatch import SimMatch
from eke.methods.simsiam import SimSiam
from eke.methods.softmatch import SoftMatch
from eke.methods.supervised import Supervised
from eke.methods.swav import SwAV
from eke.methods.uda import UDA
from eke.methods.vicreg import VICReg

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
    "comatch": CoMatch,
    "simmatch": SimMatch,
    "gradcam_consistency": GradCAMConsistency,
    "harmonize": Harmonize,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "byol": BYOL,
    "barlow_twins": BarlowTwins,
    "vicreg": VICReg,
    "swav": SwAV,
    "autoencoder": Autoencoder,
}
