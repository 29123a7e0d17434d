"""k-medoids on one or many ranks: the same medoids, labels, loss and swaps, bit for bit, on any
number of them.
"""

from hpckit.cluster._alternate import alternate
from hpckit.cluster._sampling import clara, clarans, onebatch
from hpckit.cluster._silhouette import DynResult, dynmsc, fastermsc, medoid_silhouette, silhouette
from hpckit.cluster.kmedoids import Result, fasterpam, pam

__all__ = [
    "DynResult",
    "Result",
    "alternate",
    "clara",
    "clarans",
    "dynmsc",
    "fastermsc",
    "fasterpam",
    "medoid_silhouette",
    "onebatch",
    "pam",
    "silhouette",
]
