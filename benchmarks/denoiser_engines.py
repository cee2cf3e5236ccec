"""The bundled denoiser through OpenVINO against dpclean's own engine: is it worth an extra?

    pip install openvino
    python benchmarks/denoiser_engines.py [--rounds 7]

The network as diffusers has it, converted with its timestep fixed, bf16 where OpenVINO takes the hint, one thread each;
64 images of 32 x 32 and a batch of tiles of photos. The time is the process's own; the two take turns.
"""

from __future__ import annotations

import argparse
import time

import openvino
import torch
from machine_facts import spread, write_results
from torch import Tensor, nn

from dpclean.denoise.loading import find_denoiser, load_network, load_through_diffusers
from dpclean.denoise.network import FixedLevelNetwork
from dpclean.device import keep_memory

TIMESTEP = 250.0
SHAPES = {"64 images of 32 px": (64, 3, 32, 32), "8 tiles of 128 px": (8, 3, 128, 128)}


class AtTimestep(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        prediction: Tensor = self.network(x, torch.tensor(TIMESTEP)).sample
        return prediction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep_memory()
    files = find_denoiser("natural")
    ours = FixedLevelNetwork(load_network(files), TIMESTEP, torch.bfloat16, torch.device("cpu"))
    theirs = AtTimestep(load_through_diffusers(files)).eval()
    options = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    rows = {}
    for name, shape in SHAPES.items():
        x = torch.randn(shape)
        half = x.bfloat16().contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            converted = openvino.convert_model(theirs, example_input=x, input=list(shape))
            request = openvino.Core().compile_model(converted, "CPU", options).create_infer_request()
            expected, ratios = theirs(x), []
            for _ in range(rounds + 1):
                begun = time.process_time()
                found = ours(half)
                between = time.process_time()
                other = request.infer({0: x.numpy()})[0]
                ratios.append((time.process_time() - between) / (between - begun))
        for result in (found.float(), torch.from_numpy(other)):
            assert (result - expected).norm() < 0.05 * expected.norm()
        rows[name] = spread(ratios[1:])
        print(f"{name:20} OpenVINO takes {rows[name]['median']:.2f} times as long")
    print(write_results("denoiser_engines", {"openvino": openvino.__version__, "openvino_over_ours": rows}))


if __name__ == "__main__":
    main()
