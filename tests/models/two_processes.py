"""One process of a group that trains together: `python two_processes.py RANK WORLD FOLDER`."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from eke.collectives import local_slice, world_size
from eke.models.norm import constant_statistics, sync_batch_norm


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 6, 3, 2), nn.BatchNorm2d(6, affine=False, momentum=None)
        self.dense, self.norm3 = nn.Linear(6, 5), nn.BatchNorm1d(5, momentum=0.3)

    def forward(self, x):
        features = F.softplus(self.norm1(self.conv1(x) + 3))
        hidden = F.softplus(self.norm2(self.conv2(features))).mean((2, 3))
        return features, self.norm3(self.dense(hidden))


def train():
    """Take three steps with a loss on gradients; return what happened."""
    torch.manual_seed(0)
    net = Net().double()
    generator = torch.Generator().manual_seed(1)
    if world_size() > 1:
        net = sync_batch_norm(net)
    result = {"losses": [], "grads": []}
    for _ in range(3):
        x = local_slice(torch.randn(6, 2, 7, 8, generator=generator, dtype=torch.float64))
        y = local_slice(torch.randint(0, 5, (6,), generator=generator))
        features, logits = net(x)
        score = logits.gather(1, y[:, None]).sum()
        (alpha,) = torch.autograd.grad(score, features, create_graph=True)
        cam = F.softplus((alpha.mean((2, 3), keepdim=True) * features).sum(1))
        loss = F.cross_entropy(logits, y) + cam.square().mean()
        grads = torch.autograd.grad(loss, list(net.parameters()))
        grads = [_mean(grad) for grad in grads]
        result["losses"].append(_mean(loss.detach()))
        result["grads"].append(torch.cat([grad.flatten() for grad in grads]))
        with torch.no_grad():
            for parameter, grad in zip(net.parameters(), grads, strict=True):
                parameter.sub_(0.1 * grad)
    result["buffers"] = {name: buffer.clone() for name, buffer in net.named_buffers()}
    features, logits = net(x)
    score = logits.gather(1, y[:, None]).sum()
    with constant_statistics():
        (result["constant"],) = torch.autograd.grad(score, features)
    result["x"], result["y"], result["state"] = x, y, net.state_dict()
    return result


def _mean(x):
    if world_size() > 1:
        dist.all_reduce(x)
    return x / world_size()


if __name__ == "__main__":
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.save(train(), folder / f"{rank}.pt")
    dist.destroy_process_group()
