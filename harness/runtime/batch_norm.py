"""Batch normalisation over the global batch of all ranks. Torch comes in as an argument, not an import."""

from __future__ import annotations

from typing import Any


def synchronize_batch_norm(torch: Any, network: Any, device: Any) -> Any:
    """``network`` with every BatchNorm2d taking mean and variance over the batches of all ranks.

    On a GPU that is torch's own SyncBatchNorm. It refuses the CPU, so there it is the few lines below.
    """
    if device.type == "cuda":
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    layer = _cpu_layer(torch)
    for module in network.modules():
        if type(module) is torch.nn.BatchNorm2d:
            module.__class__ = layer  # same parameters, same buffers, another forward
    return network


def _cpu_layer(torch: Any) -> Any:
    normalize = _cpu_function(torch)

    class SyncedBatchNorm2d(torch.nn.BatchNorm2d):  # type: ignore[misc]
        """BatchNorm2d whose statistics are those of the global batch; ranks may hold different numbers of rows."""

        def forward(self, images: Any) -> Any:
            if not self.training:
                return super().forward(images)
            output, mean, variance, count = normalize.apply(images, self.weight, self.bias, self.eps)
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            return output

    return SyncedBatchNorm2d


def _cpu_function(torch: Any) -> Any:
    class Normalize(torch.autograd.Function):  # type: ignore[misc]
        """(images, weight, bias, eps) -> (normalised images, mean, variance, values per channel)."""

        @staticmethod
        def forward(ctx: Any, images: Any, weight: Any, bias: Any, eps: float) -> Any:
            variance, mean = torch.var_mean(images, dim=(0, 2, 3), correction=0)
            values = images.numel() // images.shape[1]
            parts = mean.new_zeros(torch.distributed.get_world_size(), 2 * len(mean) + 1)
            parts[torch.distributed.get_rank()] = torch.cat([mean, variance, mean.new_full((1,), values)])
            torch.distributed.all_reduce(parts)  # each rank adds its row to zeros
            counts = parts[:, -1:]
            means, variances = parts[:, :-1].chunk(2, dim=1)
            total = counts.sum()
            mean = (means * counts).sum(0) / total
            # the variance of all is that within the parts and that between them (Chan, Golub, LeVeque 1979)
            variance = ((variances + (means - mean).square()) * counts).sum(0) / total
            scale = (variance + eps).rsqrt()
            normal = (images - _per_channel(mean)) * _per_channel(scale)
            ctx.save_for_backward(normal, weight, scale, total)
            ctx.mark_non_differentiable(mean, variance, total)
            return normal * _per_channel(weight) + _per_channel(bias), mean, variance, total

        @staticmethod
        def backward(ctx: Any, gradient: Any, *_: Any) -> Any:
            normal, weight, scale, total = ctx.saved_tensors
            for_bias = gradient.sum((0, 2, 3))
            for_weight = (gradient * normal).sum((0, 2, 3))
            sums = torch.stack([for_bias, for_weight])
            torch.distributed.all_reduce(sums)
            of_bias, of_weight = sums / total
            for_images = gradient - _per_channel(of_bias) - normal * _per_channel(of_weight)
            return for_images * _per_channel(scale * weight), for_weight, for_bias, None

    return Normalize


def _per_channel(values: Any) -> Any:
    return values[:, None, None]
