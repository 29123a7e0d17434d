"""k-medoids on one or many ranks: the same medoids, labels, loss and swaps, bit for bit, on any number of them."""

from hpckit.cluster._alternate import alternate
from hpckit.cluster._sampling import clarans
from hpckit.cluster.kmedoids import Result, fasterpam, pam

__all__ = ["Result", "alternate", "clarans", "fasterpam", "pam"]
