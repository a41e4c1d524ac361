"""Networks of transformers by name, from a configuration alone: fresh weights, the data's classes, no network."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from helpers.training_runs import recipe, weights_of
from robustlens import cli, data, models, study, train
from robustlens.config import checked
from robustlens.config.recipe import Recipe
from robustlens.data import Splits
from robustlens.errors import ModelError

transformers = pytest.importorskip("transformers")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def resnet(tmp_path: Path) -> str:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    transformers.ResNetConfig(**sizes).save_pretrained(tmp_path / "resnet")
    return f"hf:{tmp_path / 'resnet'}"


@pytest.fixture
def vit(tmp_path: Path) -> str:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.ViTConfig(**sizes, image_size=224, patch_size=32).save_pretrained(tmp_path / "vit")
    return f"hf:{tmp_path / 'vit'}"


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_configuration_is_a_network_of_the_datas_classes(kind, request):
    name = request.getfixturevalue(kind)
    statistics = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    description = models.describe(name, num_classes=1000, in_channels=3, **statistics)
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(models.build_from(description).eval())
    x = torch.rand(2, 3, 224, 224)
    logits = [network(x) for network in made]
    assert logits[0].shape == (2, 1000)
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    bare = models.get(name, num_classes=1000)  # the normalisation is ours
    bare.load_state_dict(made[0].state_dict(), strict=False)
    shifted = (x - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.2
    torch.testing.assert_close(bare.eval()[1](shifted), logits[0], atol=1e-4, rtol=1e-4)


def test_options_are_fields_of_the_configuration(vit):
    network = models.get(vit, num_classes=7, in_channels=1, image_size=64)
    assert network(torch.rand(2, 1, 64, 64)).shape == (2, 7)
    with pytest.raises(ModelError, match="transformers cannot build it"):
        models.get("hf:/no/such/folder", num_classes=2)
    models.check("hf:someone/net", {})
    with pytest.raises(ModelError, match="found 'resnet50'"):
        models.check("resnet50", {})


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("hidden_sise", "found option 'hidden_sise', expected fields .* did you mean 'hidden_size'?"),
        ("nonsense", "found option 'nonsense', expected fields of its configuration$"),
        ("dtype", "found option 'dtype', expected none: networks are trained in float32"),
        ("torch_dtype", "found option 'torch_dtype', expected none"),
    ],
)
def test_an_option_that_a_configuration_does_not_have_is_refused(vit, option, words):
    with pytest.raises(ModelError, match=words):
        models.get(vit, num_classes=7, **{option: 64})


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_networks_are_in_float32_whatever_their_configuration_says(vit, key, tmp_path):
    folder = Path(vit.removeprefix("hf:"))
    values = json.loads((folder / "config.json").read_text()) | {"dtype": None}
    (folder / "config.json").write_text(json.dumps(values | {key: "float16"}))
    fresh = models.get(vit, num_classes=7, image_size=32)
    assert {parameter.dtype for parameter in fresh.parameters()} == {torch.float32}
    fresh[1].model.half().save_pretrained(tmp_path / "half")
    (tmp_path / "half" / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    saved = models.load(f"hf:{tmp_path / 'half'}")
    assert {parameter.dtype for parameter in saved.parameters()} == {torch.float32}


def with_code(folder: Path) -> str:
    """A configuration whose class is in a file beside it, which leaves a mark where it is run."""
    folder.mkdir()
    places = {"AutoConfig": "code.Config"}
    (folder / "config.json").write_text(json.dumps({"model_type": "unknown-to-all", "auto_map": places}))
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()")
    return f"hf:{folder}"


@pytest.mark.parametrize("build", [partial(models.get, num_classes=2), models.load])
def test_code_beside_a_configuration_is_neither_run_nor_asked_about(build, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked the terminal"))
    monkeypatch.setattr("signal.alarm", lambda *_: pytest.fail("asked the terminal"))
    with pytest.raises(ModelError, match=r"transformers cannot .* contains custom code"):
        build(with_code(tmp_path / "evil"))
    assert not (tmp_path / "evil" / "ran").exists()


@pytest.mark.parametrize("verb", ["train", "study"])
def test_a_file_that_trusts_code_beside_a_configuration_is_refused_before_it_is_looked_at(
    verb, tmp_path, capsys
):
    name = with_code(tmp_path / "evil")
    values = {"model": {"name": name, "options": {"trust_remote_code": True}}}
    (tmp_path / "file.yaml").write_text(
        yaml.safe_dump(values | ({"name": "mine", "methods": [{}]} if verb == "study" else {}))
    )
    file, out = str(tmp_path / "file.yaml"), str(tmp_path / "out")
    arguments = ["train", "--recipe", file] if verb == "train" else ["study", file]
    assert cli.run([*arguments, "--out", out]) == 2
    assert "model.options.trust_remote_code: found 'True', which runs code" in capsys.readouterr().err
    assert not (tmp_path / "evil" / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.fixture
def enlarged(real_cifar10, tmp_path) -> Splits:
    """Real CIFAR-10 images, enlarged to 256 and packed."""
    small = data.load("cifar10", data_dir=real_cifar10, train_limit=180, test_limit=20, validation=0)
    arrays = (small.train.images, small.train.labels, small.test.images, small.test.labels)
    import numpy as np

    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(
        str(tmp_path / "small.npz"),
        allow_pickle=False,
        **{n: a.numpy() for n, a in zip(names, arrays, strict=True)},
    )
    data.pack(f"npz:{tmp_path / 'small.npz'}", tmp_path / "pack", size=256)
    return data.load(f"packed:{tmp_path / 'pack'}?crop=224", validation=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_the_imagenet_example_trains_its_first_20_steps_on_real_images(kind, request, enlarged, tmp_path):
    name = request.getfixturevalue(kind)
    planned = study.plan(study.read(ROOT / "examples" / "imagenet.yaml"))
    chosen = {"resnet": "hf:microsoft/resnet-50", "vit": "hf:WinKawaks/vit-small-patch16-224"}[kind]
    (run,) = [each for each in planned if each.recipe.model.name == chosen and each.recipe.threat.eps > 0]
    values = run.recipe.model_dump()
    values["model"]["name"] = name
    values["optimizer"] |= {"epochs": 1, "batch_size": 8}
    values["monitor"] |= {"examples": 8}
    values["data"] |= {"name": enlarged.name}
    trained = train(checked(Recipe, values, "recipe"), tmp_path / "run", splits=enlarged)
    assert len(enlarged.train) // 8 == 20
    assert trained.record.status == "trained"
    epoch = trained.metrics()[0]
    assert epoch.loss < 2.8  # ten classes at random: 2.3, and 20 steps do not leave the ground
    network = models.load(trained.folder, checkpoint="last")
    assert network(enlarged.test.x(slice(2))).shape == (2, 10)


def test_a_run_of_a_named_network_is_loaded_again_with_its_weights(resnet, tmp_path):
    from robustlens.data import from_tensors

    x, y = torch.rand(48, 3, 32, 32), torch.arange(48) % 3
    splits = from_tensors(x, y, x[:9], y[:9])
    changes = {"model": {"name": resnet, "options": {}}, "optimizer": {"epochs": 1, "batch_size": 16}}
    run = train(recipe(**changes, attack={"steps": 1}), tmp_path / "run", splits=splits)
    loaded = models.load(run.folder, checkpoint="last").state_dict()
    saved = weights_of(run)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)
