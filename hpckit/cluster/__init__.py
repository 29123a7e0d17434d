"""k-medoids on any number of ranks: the same medoids, labels, loss and swaps, bit for bit.

From data to medoids, in the order in which a search goes through the files:

    inputs        what users pass, checked on all ranks alike: a `Problem`; `data` reads arrays,
                  `matrix` is a given matrix of distances, `ranks` is what ranks say to each other
    metrics       the list of all metrics; `pairs` computes distances between points
    quantization  distances and weights become whole numbers, whose sums are exact
    distances     the distances of all objects to this rank's candidates: kept in memory or in a
                  file (`ticks_file`), computed when asked for, or read where they lie (`inplace`)
    initial       the first medoids; `initial_points` where they are given as points
    state         the nearest and second medoid of each object, and the loss
    swaps         candidates are judged, the best proposal of all ranks is done; `progress` says
                  where the search is, and ends it
    result        medoids, labels, loss, and the trace of swaps; `assignment` labels all objects
                  after a search among some of them

`kmedoids` is FasterPAM and PAM in these words, and the best file to begin with; `sampling`,
`alternating` and `silhouettes` are the other searches, `estimators` those of scikit-learn. Rows
that kernels and Python share are in `tables`, the mathematics and its symbols in `kernels`.
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
