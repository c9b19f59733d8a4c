"""What the server of test processes imports once, so that each of them starts in no time."""

import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo  # optimizers import it, which takes longer than all the rest
import torch.distributed.fsdp
import torch.distributed.tensor.parallel

import tests.layouts
import tests.tiny
import zoo.compose
import zoo.optim.optimizers
import zoo.parallel.gradients
import zoo.parallel.tensor
import zoo.training.job
import zoo.training.trainer

zoo.compose.compose(tests.layouts.MODELS["vit"])  # components and configs are read once

torch.set_num_threads(1)
