"""The network of a recipe as it is before the first step, and what perturbs its weights."""

from typing import Any

import torch
from torch import nn

from robustlens import data, models, weights
from robustlens.config import Recipe
from robustlens.data import Splits
from robustlens.factories import is_factory


def describe_model(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """Arguments of `models.build_from`.

    The normalisation is that of the training images, or the network's own where it has one.
    """
    name, options = recipe.model.name, recipe.model.options
    sizes = {"num_classes": splits.num_classes, "in_channels": splits.train.images.shape[1]}
    models.check(name, options, **sizes)
    if is_factory(name) and _normalises(models.describe(name, **sizes, **options)):
        return models.describe(name, **sizes, **options)
    mean, std = data.channel_statistics(splits.train.images)
    return models.describe(name, **sizes, mean=mean, std=std, **options)


def _normalises(description: dict[str, Any]) -> bool:
    """Whether a network has a `Normalize` of its own: behind another one it would see other images."""
    with torch.random.fork_rng(devices=[]):
        network = models.build_from(description)
    return any(isinstance(module, models.Normalize) for module in network.modules())


def starting_network(recipe: Recipe, description: dict[str, Any]) -> nn.Module:
    """The network of a description, with weights drawn from the recipe's seed or those that `init` names.

    Raises:
        ModelError: it cannot be built, or is no function's; `init` names another architecture.
        ConfigError: its layers have no weights whose singular values `capacity` could hold.
    """
    models.refuse_network(recipe.model.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = models.build_from(description)
    if recipe.init is not None:
        spec, checkpoint = recipe.init.model, recipe.init.checkpoint
        other = models.load(spec, checkpoint=checkpoint, trust_code=recipe.names_code)
        models.start_from(model, other, new_head=recipe.init.new_head)
    if recipe.capacity is not None:
        weights.layer_matrices(model)
    return model


def perturbation_of(recipe: Recipe, model: nn.Module) -> weights.WeightPerturbation | None:
    """The perturbation of the weights of `model` that a recipe asks for, if any.

    Raises:
        ConfigError: it is not there, its options are wrong, or the model has no weight for it.
    """
    for field, spec in recipe.perturbations.items():
        name, options = spec.entry(field)
        where = field if name == field else f"{field}.options"
        return weights.PERTURBATIONS.build(name, model, options=options, where=where)
    return None
