"""What the server of test processes imports once, so that each of them starts in no time."""

import torch
import torch._dynamo  # optimizers import it, which takes longer than all the rest

import tests.tiny  # noqa: F401
import zoo.optim.optimizers
import zoo.parallel.gradients
import zoo.training.trainer  # noqa: F401

torch.set_num_threads(1)
