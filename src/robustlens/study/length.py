"""How long a run takes, as far as its recipe says: what puts the longest runs of a study first."""

from robustlens import models, objectives
from robustlens.config import AttackSpec, Recipe
from robustlens.threat import ThreatModel

_IMAGES = 50_000  # of a data set that the recipe takes whole; in a study nearly always the same
_PARAMETERS = 1_000_000  # of a network that only its own code knows
_TRAINING, _ATTACK = 3, 2  # passes of a step: forward and both gradients; forward and that of the input


def length(recipe: Recipe) -> float:
    """Epochs x images x passes x parameters of a run's training, to compare it with others of a study.

    It is in no unit of time: how fast a network is for its parameters, and the evaluation, do not enter.
    """
    images = (recipe.data.train_limit or _IMAGES) * (1 - recipe.data.validation)
    own = recipe.optimizer.epochs * (images + recipe.data.unlabeled) * passes(recipe)
    monitored = 2 * recipe.optimizer.epochs * recipe.monitor.examples * (1 + _ATTACK * recipe.monitor.steps)
    teacher = None if recipe.pseudo_labels is None else recipe.pseudo_labels.teacher
    taught = 0.0 if teacher is None else teacher.epochs * images * _TRAINING
    options = recipe.model.options
    parameters = models.count_parameters(recipe.model.name, options) or _PARAMETERS
    return (own + monitored + taught) * parameters


def passes(recipe: Recipe) -> int:
    """Passes through the network for each image of a training step; a gradient counts as a pass.

    >>> passes(Recipe(objective="standard")), passes(Recipe(objective="at"))
    (3, 23)
    """
    objective = objectives.get(recipe.objective, **recipe.objective_options)
    threat = ThreatModel.of(recipe.threat)
    build = objective.inner_attack if threat.eps > 0 else None
    if build is not None and recipe.attack.replays > 1:  # one gradient for both
        return recipe.attack.replays * _TRAINING
    steps = 0 if build is None else _steps(build, threat, recipe.attack)
    return _ATTACK * steps + _TRAINING * (1 + _gradients(recipe))


def _steps(build: objectives.InnerAttack, threat: ThreatModel, spec: AttackSpec) -> int:
    try:
        return int(getattr(build(threat, spec), "steps", 1))
    except Exception:  # of code from outside: the run that it belongs to will say what is wrong
        return spec.steps


def _gradients(recipe: Recipe) -> int:
    """Gradients that perturb the weights in each step."""
    if recipe.awp is not None and not recipe.awp.from_attack:
        return recipe.awp.steps * recipe.awp.alternations
    return int(recipe.sam is not None or recipe.weight_perturbation is not None)
