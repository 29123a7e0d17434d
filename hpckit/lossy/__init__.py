"""Sums over ranks that travel in fewer bytes, and steps that need fewer of them."""

from hpckit.lossy.lgreco import LayerWise
from hpckit.lossy.local import LocalUpdates
from hpckit.lossy.names import compressed
from hpckit.lossy.powersgd import PowerSGD
from hpckit.lossy.quantised import Quantised
from hpckit.lossy.topk import TopK

__all__ = ["LayerWise", "LocalUpdates", "PowerSGD", "Quantised", "TopK", "compressed"]
