"""What errors suggest to install: from the checkout where there is one, else from the package index."""

import pytest

from robustlens import extras


@pytest.fixture(params=["checkout", "installed"])
def root(request, tmp_path, monkeypatch):
    package = tmp_path / "src" / "robustlens"
    package.mkdir(parents=True)
    (package / "extras.py").touch()
    if request.param == "checkout":
        (tmp_path / "constraints.txt").touch()
    monkeypatch.setattr(extras, "_ROOT", tmp_path)
    return request.param, tmp_path


def test_an_extra_comes_from_where_the_package_came(root):
    kind, folder = root
    assert extras.install_extra("hub") == {
        "checkout": f'pip install -c constraints.txt -e ".[hub]" in {folder}',
        "installed": 'pip install "robustlens[hub]"',
    }[kind]  # fmt: skip


def test_another_package_comes_in_the_version_that_a_checkout_tests(root):
    kind, folder = root
    assert extras.install_package("transformers") == {
        "checkout": f"pip install -c {folder / 'constraints.txt'} transformers",
        "installed": "pip install transformers",
    }[kind]  # fmt: skip


def test_the_tests_run_in_a_checkout():
    assert extras.install_extra("hub").startswith("pip install -c constraints.txt -e")
