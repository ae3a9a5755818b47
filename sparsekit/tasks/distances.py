"""How far a student's outputs are from its teacher's: pure functions of tensors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The mean over rows of T^2 * KL(teacher || student) of the softened distributions, a scalar.

    student, teacher: logits [rows, labels].
    temperature: T, which divides the logits. The factor T^2 keeps the size of the gradient
        independent of it (Hinton et al., 2015, section 2).
    """
    divergence = F.kl_div(
        F.log_softmax(student.float() / temperature, dim=-1),
        F.log_softmax(teacher.float() / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return divergence * temperature**2 / max(student.numel() / student.shape[-1], 1)
