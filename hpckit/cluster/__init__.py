"""k-medoids on one or many ranks: the same medoids, labels, loss and swaps, bit for bit, on any
number of them.
"""

from hpckit.cluster.alternating import alternate
from hpckit.cluster.kmedoids import fasterpam, pam
from hpckit.cluster.progress import Progress
from hpckit.cluster.result import Result
from hpckit.cluster.sampling import clara, clarans, onebatch
from hpckit.cluster.silhouettes import DynResult, dynmsc, fastermsc, medoid_silhouette, silhouette

__all__ = [
    "DynResult",
    "Progress",
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
