"""Text: adversarial training and attacks on the embeddings of a tiny transformer, with AWP.

Tokens cannot move a little, their embeddings can (Miyato, Dai and Goodfellow 2017). The lines of Python's own
library are the data: code, or prose of its docstrings?

Run: python examples/robust_text.py
"""

import ast
import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import nn

import robustlens as rl

LENGTH, WIDTH = 32, 16  # characters of a line, numbers of an embedding


def lines(count: int) -> tuple[list[str], torch.Tensor]:
    """So many lines of the standard library, half of them code (0) and half prose (1)."""
    kinds: tuple[list[str], list[str]] = ([], [])
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef):
                kinds[0].extend(ast.unparse(node.body[-1]).splitlines())
                kinds[1].extend((ast.get_docstring(node) or "").splitlines())
    code, prose = ([line.strip() for line in kind if len(line.strip()) >= 16] for kind in kinds)
    half = count // 2
    return code[:half] + prose[:half], torch.arange(2).repeat_interleave(half)


class Classifier(nn.Module):
    """What attacks take: embeddings (n, length, width) in, logits (n, 2) out."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=64, dropout=0.0, batch_first=True
        )
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits of the mean over the characters."""
        return self.head(self.layer(embeddings + self.places).mean(1))


def main(count: int = 2000, epochs: int = 4) -> float:
    """Train on embeddings and attack them; returns the robust accuracy on a fifth of the lines."""
    torch.manual_seed(0)
    texts, y = lines(count)
    tokens = torch.tensor([[min(ord(c), 127) for c in text[:LENGTH].ljust(LENGTH)] for text in texts])
    table = F.normalize(torch.randn(128, WIDTH), dim=1)  # stays as it is: longer embeddings would outgrow eps
    order = torch.randperm(len(y))
    train, test = order[len(y) // 5 :], order[: len(y) // 5]

    model = Classifier()
    box = (float(table.min()), float(table.max()))
    threat = rl.ThreatModel("L2", eps=1.0, bounds=box)  # all of a line together; a letter for another is 1.4
    attack = rl.attacks.PGD(threat, steps=5, keep="last")
    awp = rl.AdversarialWeightPerturbation(model, gamma=5e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train))].split(32):
            x_adv = attack(model, table[tokens[rows]], y[rows])

            def loss_fn(x_adv: torch.Tensor = x_adv, rows: torch.Tensor = rows) -> torch.Tensor:
                return F.cross_entropy(model(x_adv), y[rows])

            optimizer.zero_grad()
            with awp.perturbed(loss_fn):
                loss_fn().backward()
            optimizer.step()

    evaluation = rl.evaluate(model, table[tokens[test]], y[test], threat, attacks=["pgd-20", "apgd-ce"])
    print(f"clean {evaluation.interval('clean').value:.1%}, robust {evaluation.interval().value:.1%}")
    for flag in evaluation.flags:
        print(flag.name, flag.message)
    return evaluation.interval().value


if __name__ == "__main__":
    main()
