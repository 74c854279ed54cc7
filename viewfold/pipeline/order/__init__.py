"""Which sample comes when: orders of training that are computed for any step, and splits that keep groups whole."""

from viewfold.pipeline.order.balanced import Balanced
from viewfold.pipeline.order.permute import Permutation
from viewfold.pipeline.order.plan import Order, Places, Plan
from viewfold.pipeline.order.some_rows import SomeRows
from viewfold.pipeline.order.split import split_groups

__all__ = ["Balanced", "Order", "Permutation", "Places", "Plan", "SomeRows", "split_groups"]
