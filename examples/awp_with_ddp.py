"""Adversarial weight perturbation with DistributedDataParallel: each process has a share of every batch.

Run: torchrun --nproc-per-node 2 examples/awp_with_ddp.py
"""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch.nn.parallel import DistributedDataParallel

import robustlens as rl


def main(images: int = 2000, epochs: int = 2, batch_size: int = 64) -> float:
    """Train a small CNN with AT and AWP; returns its robust accuracy on 200 test images."""
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, count = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    torch.manual_seed(0)
    splits = rl.data.load("fashion-mnist-10k", train_limit=images, test_limit=200)
    network = rl.models.get("small-cnn", num_classes=10, in_channels=1, mean=[0.29], std=[0.35]).to(device)
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    attack = rl.attacks.PGD(rl.ThreatModel("Linf", eps=0.05), steps=5, keep="last")
    awp = rl.AdversarialWeightPerturbation(network, gamma=5e-3)

    for epoch in range(epochs):
        order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(epoch))
        for step, batch in enumerate(order.split(batch_size)):
            rows = batch[rank::count]
            x, y = splits.train.x(rows).to(device), splits.train.labels[rows].to(device)
            draws = torch.Generator().manual_seed(step * count + rank)
            x_adv = attack(network, x, y, generator=draws)

            # The ascent looks at the bare network: AWP averages over the processes by itself, in one message.
            def ascended(x_adv: torch.Tensor = x_adv, y: torch.Tensor = y) -> torch.Tensor:
                return F.cross_entropy(network(x_adv), y)

            optimizer.zero_grad()
            with awp.perturbed(ascended):
                F.cross_entropy(model(x_adv), y).backward()
            optimizer.step()

    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    of_first = weights.clone()
    dist.broadcast(of_first, src=0)
    assert torch.equal(weights, of_first), "the processes have different weights"
    x, y = splits.test.x().to(device), splits.test.labels.to(device)
    evaluation = rl.evaluate(network, x, y, attack.threat, attacks=["pgd-10"])
    if rank == 0:
        print(f"clean {evaluation.interval('clean').value:.1%}, robust {evaluation.interval().value:.1%}")
    dist.destroy_process_group()
    return evaluation.interval().value


if __name__ == "__main__":
    main()
