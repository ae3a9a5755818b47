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


def bernoulli_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The mean over rows and labels of T^2 * KL(teacher || student), a scalar.

    Of each label the distributions are those of "yes" and "no", with the sigmoid of the logit
    divided by T as the probability of "yes". The mean is over the same items as that of the binary
    cross entropy.

    student, teacher: logits [rows, labels]. temperature: T, as in `kl_divergence`.
    """
    softened = student.float() / temperature, teacher.float() / temperature
    probabilities = softened[1].sigmoid()
    cross_entropy, entropy = (
        F.binary_cross_entropy_with_logits(logits, probabilities) for logits in softened
    )
    return (cross_entropy - entropy) * temperature**2
