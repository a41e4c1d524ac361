"""Operations in the forward pass of a module, such as x.round(), where torch.fx can trace it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustlens.errors import StoppedError


@dataclass(frozen=True, eq=False)
class FunctionCall:
    """A call of a function or method with one tensor, which it turns into another of the same shape.

    Attributes:
        name: of its node in the traced graph, e.g. "round_1".
        function: the call, its other arguments as they are. x: an input that it was observed at.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    x: Tensor


class _Shallow(fx.Tracer):
    """Traces the forward pass of one module and none of those that it calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class _CallRecorder(fx.Interpreter):
    """Runs a graph and keeps the operations in it."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.operations: list[FunctionCall] = []

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node."""
        value = super().run_node(n)
        if n.op in ("call_function", "call_method") and isinstance(value, Tensor):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            x = args[0] if args else None
            if isinstance(x, Tensor) and x.is_floating_point() and x.shape == value.shape:
                function = _call(n, args[1:], kwargs)
                if len(n.all_input_nodes) == 1 and value.is_floating_point():
                    self.operations.append(FunctionCall(n.name, function, x.detach().clone()))
        return value


def operations_of(module: nn.Module, x: Tensor) -> list[FunctionCall]:
    """The operations of one tensor in a module's own forward pass; none where it cannot be traced.

    Control flow that depends on values cannot.
    """
    try:
        recorder = _CallRecorder(_traced(module))
        with torch.no_grad():
            recorder.run(x.clone())
    except StoppedError:
        raise
    except Exception:  # of any type: a tracer runs the module's code on things that are no tensors
        return []
    return recorder.operations


def with_replaced(module: nn.Module, name: str, surrogate: nn.Module) -> fx.GraphModule:
    """A traced module in which a surrogate takes the place of an operation."""
    traced = module if isinstance(module, fx.GraphModule) else _traced(module)
    place = f"surrogate_{name}"
    traced.add_submodule(place, surrogate)
    node = next(each for each in traced.graph.nodes if each.name == name)
    with traced.graph.inserting_after(node):
        new = traced.graph.call_module(place, (node.args[0],))
    node.replace_all_uses_with(new)
    traced.graph.erase_node(node)
    traced.recompile()
    return traced


def _traced(module: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(module, _Shallow().trace(module))


def _call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The call of a node as a function of its first argument."""
    if node.op == "call_method":
        return lambda x: getattr(x, str(node.target))(*args, **kwargs)
    target: Any = node.target
    return lambda x: target(x, *args, **kwargs)
