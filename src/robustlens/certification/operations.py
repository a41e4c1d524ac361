"""The rule of every operation that networks may be made of: an interval of its result, and linear bounds."""

from collections.abc import Callable, Mapping

from torch import Tensor

from robustlens.certification import linear, nonlinear
from robustlens.certification.affine import Affine
from robustlens.certification.arguments import NoRuleError
from robustlens.certification.graph import Graph, Operation
from robustlens.certification.nonlinear import Maximum, Rectifier
from robustlens.errors import ModelError

Rule = Affine | Rectifier | Maximum

RULES: dict[str, Callable[[Operation, Mapping[int, Tensor]], Rule]] = {
    "convolution": linear.convolution,
    "addmm": linear.matrix,
    "mm": linear.matrix,
    "native_batch_norm": linear.batch_norm,
    "_native_batch_norm_legit_no_training": linear.batch_norm,
    "mul": linear.scaling,
    "div": linear.scaling,
    "add": linear.addition,
    "sub": linear.addition,
    "rsub": linear.addition,
    "neg": linear.negation,
    "constant_pad_nd": linear.padding,
    **dict.fromkeys(
        (
            "view",
            "_unsafe_view",
            "reshape",
            "clone",
            "alias",
            "detach",
            "permute",
            "transpose",
            "squeeze",
            "unsqueeze",
            "slice",
            "select",
            "cat",
            "mean",
            "sum",
            "avg_pool2d",
            "_adaptive_avg_pool2d",
            "reflection_pad2d",
            "replication_pad2d",
            "upsample_nearest2d",
        ),
        linear.structure,
    ),
    "relu": nonlinear.relu,
    "leaky_relu": nonlinear.leaky_relu,
    "max_pool2d_with_indices": nonlinear.max_pool,
}
"""Rules by the name that torch gives an operation. To add one: the rule, and a line here."""


def rules_of(graph: Graph, constants: Mapping[int, Tensor]) -> dict[int, Rule]:
    """The rule of each operation of a graph, by its number.

    Raises:
        ModelError: an operation has none; the module that calls it is in the line.
    """
    rules = {}
    for operation in graph.operations:
        rule = RULES.get(operation.kind)
        if rule is None:
            raise _refusal(operation, f"has no rule for {operation.kind}")
        try:
            rules[operation.number] = rule(operation, constants)
        except NoRuleError as error:
            raise _refusal(operation, f"{operation.kind} {error}") from error
    return rules


def _refusal(operation: Operation, why: str) -> ModelError:
    return ModelError(
        f"certify: {operation.module}: {why}; expected convolution, linear, BatchNorm in eval mode, ReLU, "
        "pooling, sums and reshapes, or method 'smoothing', which takes any network"
    )
