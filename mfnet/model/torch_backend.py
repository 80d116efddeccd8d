"""A PyTorch network as a backend of the runtime, so that one pipeline scores both."""

from __future__ import annotations

import torch

from mfnet.model.network import MFNet
from mfnet_runtime.backends.base import Arrays, Batches, Feed, check_feed, specs_of
from mfnet_runtime.contract import Contract


class TorchBackend:
    """Run a network in eval mode, in float32; leaving the context restores its mode.

    Args:
        network: On any device.
        contract: The network's contract.
    """

    name, precision = "torch", "fp32"

    def __init__(self, network: MFNet, contract: Contract) -> None:
        self.contract = contract
        self.inputs, self.outputs = specs_of(contract)
        self.batches = Batches()
        self._network = network
        self._place = next(network.parameters()).device
        self.device = f"{device_name(self._place)}, PyTorch {torch.__version__}"
        self.threads = torch.get_num_threads()

    def infer(self, feed: Feed) -> Arrays:
        """Run one batch."""
        check_feed(feed, self.inputs)
        with torch.inference_mode():
            image, dsm = (torch.from_numpy(feed[name]).to(self._place) for name in ("image", "dsm"))
            return {"logits": self._network(image, dsm).float().cpu().numpy()}

    def __enter__(self) -> TorchBackend:
        self._training = self._network.training
        self._network.eval()
        return self

    def __exit__(self, *raised: object) -> None:
        self._network.train(self._training)


def device_name(device: torch.device) -> str:
    """Return a GPU's product name, or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
