"""The denoiser: uint8 images in, noise added and removed, uint8 images out."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from dpclean.denoise import schedule
from dpclean.denoise.cuda_graphs import Replayed
from dpclean.denoise.loading import DenoiserFiles, load_network, load_schedule
from dpclean.denoise.mean_correction import corrected, correction_of
from dpclean.denoise.methods import Evaluation, Noise, find_method
from dpclean.denoise.network import FixedLevelNetwork
from dpclean.denoise.tiling import Blend, Edges, Place, Shapes, merged, mirror_pad, tile_for
from dpclean.device import choose_device, first_line, give_back_memory, has_bf16, keep_memory, refusing
from dpclean.errors import InputError, SetupError, UsageError
from dpclean.kernels import kernel_name
from dpclean.noise import to_model_input, to_uint8
from dpclean.noise.normal import standard_normal

if TYPE_CHECKING:
    import diffusers

    from dpclean.denoise.unet import UNet2DModel

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# pixels in a batch that keep the device busy; found to be too many, they are halved
PREFERRED_BATCH_PIXELS = {"cpu": 128 * 32 * 32, "cuda": 1024 * 32 * 32}
# pixels that are denoised in the time that a batch of another shape takes beside them
BATCH_COST_PIXELS = {"cpu": 2 * 32 * 32, "cuda": 256 * 32 * 32}
# batches that the device is given before the results of one are taken: a GPU computes while the host does other work
AHEAD = {"cpu": 0, "cuda": 1}
MOST_WAITING = 32  # full batches
LEAST_STRIDE = 4
PROBED = 2  # evaluations of a method that tell how much memory it takes: all of them take as much

T = TypeVar("T")


class Denoised(msgspec.Struct, frozen=True):
    """One image's result: uint8 [H, W, C]; retried in float32, and False in finite if even that failed."""

    index: int
    pixels: np.ndarray
    retried: bool
    finite: bool
    run: int = 0


@dataclass(frozen=True, slots=True)
class _Draw:
    """Which noise an image gets: the address of noise.md without the image's index."""

    key: bytes
    run: int
    test: bool


class _Image(msgspec.Struct, frozen=True):
    """An image that waits for its batch."""

    index: int
    pixels: np.ndarray | Tensor  # uint8 [H, W, C]
    draw: _Draw

    @property
    def tensor(self) -> Tensor:
        return torch.from_numpy(self.pixels) if isinstance(self.pixels, np.ndarray) else self.pixels


@dataclass(slots=True)
class _Pending:
    """An image whose tiles are under way: its model input whole, its tiles' predictions coming in."""

    index: int
    draw: _Draw
    pixels: Tensor  # uint8 [1, H, W, C]
    noised: Tensor  # [1, C, H, W]
    blend: Blend


@dataclass(slots=True)
class _Tile:
    image: _Pending
    place: Place


@dataclass(slots=True)
class _Queues:
    """What waits for a full batch: whole images and tiles of larger ones, by the shape that they take."""

    whole: dict[Edges, list[_Image]] = field(default_factory=dict)
    tiles: dict[Edges, list[_Tile]] = field(default_factory=dict)
    pixels: int = 0

    def add(self, queue: dict[Edges, list[T]], shape: Edges, item: T) -> None:
        queue.setdefault(shape, []).append(item)
        self.pixels += shape[0] * shape[1]

    def full(self, queue: dict[Edges, list[T]], shape: Edges, size: int) -> list[T] | None:
        """A batch of so many of a shape that wait, taken out."""
        if len(waiting := queue[shape]) < size:
            return None
        batch, waiting[:size] = waiting[:size], []
        self.pixels -= size * shape[0] * shape[1]
        return batch

    def clear(self) -> None:
        self.whole.clear()
        self.tiles.clear()
        self.pixels = 0


class _Leaving:
    """Results on their way to the host: uint8 [N, H, W, C] and bool [N], which a GPU copies when it comes to them."""

    def __init__(self, pixels: Tensor, finite: Tensor) -> None:
        self._there = [pixels, finite]
        self._copied: torch.cuda.Event | None = None
        if pixels.is_cuda:
            self._there = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (pixels, finite)]
            for there, tensor in zip(self._there, (pixels, finite), strict=True):
                there.copy_(tensor, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    @refusing("the denoiser")
    def arrived(self) -> tuple[np.ndarray, list[bool]]:
        """Waits for them. The pixels' memory is the caller's."""
        if self._copied is not None:
            self._copied.synchronize()
            return self._there[0].numpy().copy(), self._there[1].tolist()  # page-locked memory is scarce
        return self._there[0].numpy(), self._there[1].tolist()


class _Part(NamedTuple):
    """Images of one shape and draw in a batch, or a tile of one: whose noise a method may draw."""

    place: slice  # in the batch
    indices: list[int]
    draw: _Draw
    shape: tuple[int, int, int]  # [H, W, C], whole
    corner: tuple[int, int] = (0, 0)  # top and left of a tile


_Drawn = tuple[slice, list[int], _Draw]  # images of a batch with one draw: where they are, and their indices


def _shape(images: Tensor) -> tuple[int, int, int]:
    """(H, W, C) of [N, H, W, C]."""
    return images.shape[1], images.shape[2], images.shape[3]


def _stacked(images: Sequence[_Image]) -> Tensor:
    """uint8 [N, H, W, C] of images of one shape."""
    arrays = [image.pixels for image in images if isinstance(image.pixels, np.ndarray)]
    if len(arrays) == len(images):  # several times as fast as stack, for small ones
        return torch.from_numpy(np.concatenate(arrays).reshape(len(images), *arrays[0].shape))
    return torch.stack([image.tensor for image in images])


def _drawn_together(images: Sequence[_Image]) -> Iterator[_Drawn]:
    """(where they are, their indices, their draw) of neighbours with one draw."""
    start = 0
    for draw, together in itertools.groupby(images, lambda image: image.draw):
        indices = [image.index for image in together]
        yield slice(start, start + len(indices)), indices, draw
        start += len(indices)


def choose_dtype(name: str, device: torch.device) -> str:
    """The compute type of `auto`, `bf16`, `fp16` or `fp32`: bf16 where the device has it, else fp16 or fp32."""
    if name != "auto":
        if name not in DTYPES:
            raise UsageError(f"dtype {name!r} is not known", "give auto, bf16, fp16 or fp32")
        return name
    if has_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


class Denoiser:
    """A denoiser at one noise level on one device.

    sigma is on the [0, 1] pixel scale. The result for an image depends on its pixels, (key, run, index, test), the
    shapes, the dtype and the kind of device, and in its last bits on the number of threads, never on the other images.
    On the CPU it makes the process keep memory that it frees (device.py).
    """

    def __init__(
        self,
        files: DenoiserFiles,
        sigma: float,
        *,
        device: str = "auto",
        dtype: str = "auto",
        method: str = "one-step",
        batch_pixels: int | None = None,
    ) -> None:
        self.id = files.id
        self._method = find_method(method)
        self.device = choose_device(device)
        if self.device.type == "cpu":
            keep_memory()
        self.dtype = choose_dtype(dtype, self.device)
        self.schedule = load_schedule(files)
        self.level = schedule.match(self.schedule.alphas_cumprod, sigma)
        self._levels = self._method.levels(self.level, self.schedule)
        self._model: UNet2DModel | diffusers.UNet2DModel = load_network(files)
        networks = self._at_levels(DTYPES[self.dtype])
        self._network = networks[0]
        self._evaluations = self._launched = self._evaluated(networks)
        if self.device.type == "cuda":
            pool = torch.cuda.graph_pool_handle()
            self._launched = self._evaluated([Replayed(network, self.device, pool) for network in networks])
        self.ahead = AHEAD[self.device.type]
        stride = max(LEAST_STRIDE, self._network.stride)
        tile = tile_for(self._network.sample_size, stride)
        self.shapes = Shapes(self._find_batch_pixels(batch_pixels), tile, stride)

    def _at_levels(self, dtype: torch.dtype) -> list[FixedLevelNetwork]:
        networks: list[FixedLevelNetwork] = []
        for level in self._levels:
            like = networks[0] if networks else None
            networks.append(FixedLevelNetwork(copy.deepcopy(self._model), level.timestep, dtype, self.device, like))
        return networks

    def _evaluated(self, networks: Sequence[Callable[[Tensor], Tensor]]) -> list[Evaluation]:
        return [Evaluation(level, network) for level, network in zip(self._levels, networks, strict=True)]

    @property
    def method(self) -> str:
        """Its name, as --method has it."""
        return self._method.name

    @property
    def evaluations_a_sample(self) -> int:
        """How often the method evaluates the network."""
        return len(self._levels)

    @property
    def device_kind(self) -> str:
        """What results in half precision depend on: the processor's instruction set, or the GPU's name."""
        if self.device.type == "cpu":
            return torch.backends.cpu.get_cpu_capability()
        return torch.cuda.get_device_name(self.device)

    @property
    def engine(self) -> dict[str, Any]:
        """What the bytes of a result depend on beside the image and its noise: device kind, kernel, type, shapes."""
        return {
            "device": self.device.type,
            "device_kind": self.device_kind,
            "kernel": kernel_name(),
            "dtype": self.dtype,
            "batch_pixels": self.shapes.batch_pixels,
            "tile": self.shapes.tile,
            "overlap": self.shapes.overlap,
        }

    @cached_property
    def _exact(self) -> list[Evaluation]:
        """The same networks in float32, for what was not finite in half precision."""
        return self.evaluations(torch.float32)

    def evaluations(self, dtype: torch.dtype) -> list[Evaluation]:
        """The networks of the method in this type, made anew."""
        return self._evaluated(self._at_levels(dtype))

    def _find_batch_pixels(self, asked: int | None) -> int:
        """The batch asked for, else the preferred one, halved until random tensors of its shape fit into memory.

        Once something failed, what fits is halved once more: the job needs memory too. Raises SetupError where nothing
        runs.
        """
        pixels, failed, spare = asked or PREFERRED_BATCH_PIXELS[self.device.type], False, False
        while True:
            try:
                self._predict(self._blank(max(1, pixels // 1024), 32, 32).normal_(), self._launched[:PROBED])
                if spare or not failed:
                    return pixels
                spare = True
            except (MemoryError, RuntimeError) as error:  # each library has its own words for too little memory
                if asked or pixels <= 1024:
                    raise SetupError(
                        f"the denoiser does not run on {self.device}: {first_line(error)}",
                        "free some memory, or give a smaller --batch-size, or run 'dpclean doctor'",
                    ) from error
                failed = True
            pixels = max(1024, pixels // 2)
            give_back_memory()

    def _blank(self, batch: int, height: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
        shape = (batch, height, width, self._network.in_channels)
        return torch.zeros(shape, dtype=dtype or DTYPES[self.dtype], device=self.device).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def _predict(
        self, noised: Tensor, evaluations: Sequence[Evaluation] | None = None, noise: Noise | None = None
    ) -> Tensor:
        """Of the method's result type; overwritten by the next prediction where the device is a GPU.

        noise: torch's own where no image's is given, to find out what runs.
        """
        noise = noise or (lambda _: torch.randn_like(noised, dtype=torch.float32))
        return self._method.denoise(noised, evaluations or self._launched, self.schedule, noise)

    def _noise(self, batch: Tensor, parts: Iterable[_Part]) -> Noise:
        """What a random method draws for a batch: of whole images, cut and padded as these are."""
        height, width = batch.shape[2:]

        def drawn(step: int) -> Tensor:
            out = torch.zeros_like(batch, dtype=torch.float32)
            for place, indices, draw, shape, (top, left) in parts:
                window = standard_normal(
                    shape, (top, left), (min(height, shape[0] - top), min(width, shape[1] - left)),
                    device=self.device, key=draw.key, purpose=f"sde/{step}",
                    run=draw.run, indices=indices, test=draw.test,
                )  # fmt: skip
                out[place] = mirror_pad(window, height, width)
            return out

        return drawn

    def _for(self, batch: Tensor) -> Sequence[Evaluation]:
        """What runs a batch: on a GPU, full ones are captured, as those come again."""
        full = len(batch) == self.shapes.batch(*batch.shape[2:])
        return self._launched if full else self._evaluations

    def denoise(
        self,
        images: Iterable[tuple[int, np.ndarray | Tensor]],
        *,
        key: bytes,
        run: int = 0,
        test: bool = False,
        on_batch: Callable[[float], None] = lambda pixels: None,
    ) -> Iterator[Denoised]:
        """Noise and denoise (index, uint8 [H, W, C]) pairs, C 1 or 3; results come as their batches fill.

        Batches hold images and tiles of one padded shape. What is left at the end runs in smaller ones, and shapes that
        few images have are padded to others, so an image's result depends also on how many images of which sizes come
        in which order, never on what is in them. An index's
        noise is that of `dpclean.noise.add_noise` with the same key, run, index and test.
        A GPU has the first batch when this returns; results are waited for where they are taken.
        on_batch is called after every batch, also in the middle of a large image, with how many of the images' pixels
        it has done (of a tile its share of the image). What it raises ends the work there: to stop, raise.
        Raises InputError for a colour image where the denoiser takes grey ones only.
        """
        draw = _Draw(key, run, test)
        waiting = (_Image(index, pixels, draw) for index, pixels in images)
        batches = self._batches(waiting, full=False)
        return self._taken(deque(itertools.islice(batches, self.ahead)), batches, on_batch)

    def denoise_runs(
        self, images: Iterable[tuple[int, int, np.ndarray | Tensor]], *, key: bytes, test: bool = False
    ) -> Iterator[Denoised]:
        """The same of (run, index, uint8 [H, W, C]), each with the noise of its run, in batches that are always full.

        Blank images fill the last ones, so that no batch has another shape where fewer images or runs come together.
        """
        draws: dict[int, _Draw] = {}
        waiting = (_Image(index, pixels, draws.setdefault(run, _Draw(key, run, test))) for run, index, pixels in images)
        batches = self._batches(waiting, full=True)
        return self._taken(deque(itertools.islice(batches, self.ahead)), batches, lambda _: None)

    def _taken(
        self,
        begun: deque[tuple[float, Iterator[Denoised]]],
        batches: Iterator[tuple[float, Iterator[Denoised]]],
        on_batch: Callable[[float], None],
    ) -> Iterator[Denoised]:
        """The results of what has been begun and of what follows, so many batches behind."""
        for batch in itertools.chain(batches, [None] * len(begun)):
            if batch is not None:
                begun.append(batch)
            pixels, results = begun.popleft()
            yield from results
            on_batch(pixels)

    @property
    def in_channels(self) -> int:
        return self._network.in_channels

    def check_channels(self, index: int, channels: int) -> None:
        """Raises InputError for a colour image where the denoiser takes grey ones only."""
        if channels > self._network.in_channels:
            raise InputError(
                f"image {index} has {channels} channels, denoiser {self.id!r} takes grey images only",
                "give --denoiser one that takes 3 channels",
            )

    def _batches(self, images: Iterable[_Image], *, full: bool) -> Iterator[tuple[float, Iterator[Denoised]]]:
        """(pixels of images that a batch has done, what it completes), as they fill; a GPU is not waited for."""
        queues = _Queues()
        size: tuple[int, ...] = ()  # of the image before: neighbours are often of one size
        for image in images:
            if image.pixels.shape != size:
                size = height, width, channels = image.pixels.shape
                self.check_channels(image.index, channels)
                shape = self.shapes.lengths(height)[0], self.shapes.lengths(width)[0]
                most = self.shapes.batch(*shape)
            if self.level.sigma == 0:  # no noise to take away: the image as it is, whatever a network says
                pixels = image.tensor.cpu().numpy().copy()
                untouched = Denoised(image.index, pixels, retried=False, finite=True, run=image.draw.run)
                yield float(height * width), iter([untouched])
            elif max(height, width) <= self.shapes.tile:
                queues.add(queues.whole, shape, image)
                if whole := queues.full(queues.whole, shape, most):
                    yield self._run_whole(whole, shape)
            else:
                tiles = self._tiles(image)
                for tile in tiles:
                    queues.add(queues.tiles, tile.place[2:], tile)
                for edges in dict.fromkeys(tile.place[2:] for tile in tiles):
                    while some := queues.full(queues.tiles, edges, self.shapes.batch(*edges)):
                        yield self._run_tiles(some, edges)
            if queues.pixels > MOST_WAITING * self.shapes.batch_pixels:
                yield from self._rest(queues, full=full)
        yield from self._rest(queues, full=full)

    def _rest(self, queues: _Queues, *, full: bool) -> Iterator[tuple[float, Iterator[Denoised]]]:
        """All that waits, in as few batches as it takes; full: each shape by itself, the last batch filled up."""
        cost = -1 if full else BATCH_COST_PIXELS[self.device.type]
        for shape, whole in merged(queues.whole, cost):
            for start in range(0, len(whole), size := self.shapes.batch(*shape)):
                yield self._run_whole(whole[start : start + size], shape, size if full else None)
        for shape, tiles in merged(queues.tiles, cost):
            for start in range(0, len(tiles), size := self.shapes.batch(*shape)):
                yield self._run_tiles(tiles[start : start + size], shape, size if full else None)
        queues.clear()

    def _noised(self, images: Tensor, indices: list[int], draw: _Draw, dtype: str, out: Tensor | None = None) -> Tensor:
        """uint8 [N, H, W, C] to the model's input [N, C, H, W], in one fused pass."""
        return to_model_input(
            images,
            self.level.sigma,
            self.level.alphas_cumprod,
            key=draw.key,
            run=draw.run,
            indices=np.array(indices, np.int64),
            test=draw.test,
            dtype=DTYPES[dtype],
            out=out,
        )

    def _finish(self, noised: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """(uint8 [N, H, W, C], finite bool [N]) of model inputs and predictions of the same size."""
        level, kind = self.level, self._method.result_type(self.schedule.prediction_type)
        prediction = prediction[:, : self._network.in_channels]
        pixels, finite = to_uint8(noised, prediction, level.alphas_cumprod, prediction_type=kind)
        correction = correction_of(noised, prediction, level, kind)
        some: Tensor | slice = slice(None)
        if not self.ahead:  # where looking costs a wait, what is zero is added: the same bits
            some = correction.flatten(1).any(1).nonzero()[:, 0]
        if self.ahead or len(correction[some]) > 0:
            taken_back = corrected(correction[some], prediction[some], level, kind)
            pixels[some], finite[some] = to_uint8(noised[some], taken_back, level.alphas_cumprod, prediction_type=kind)
        return pixels, finite

    def _noised_each(self, images: Tensor, drawn: Sequence[_Drawn], out: Tensor | None) -> Tensor:
        """_noised of images that may have several draws."""
        parts = [
            self._noised(images[place], indices, draw, self.dtype, out=None if out is None else out[place])
            for place, indices, draw in drawn
        ]
        if out is not None:
            return out
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @refusing("the denoiser")
    @torch.inference_mode()
    def _run_whole(
        self, queue: list[_Image], shape: tuple[int, int], size: int | None = None
    ) -> tuple[float, Iterator[Denoised]]:
        """One batch of images that fit into a tile, grouped by their exact shape; size: of the batch, if it has more
        places than there are images.
        """
        batch = self._blank(size or len(queue), *shape)
        groups: list[tuple[slice, list[_Image], Tensor, Tensor]] = []
        parts: list[_Part] = []
        start = 0
        by_shape: dict[tuple[int, ...], list[_Image]] = {}
        for image in queue:
            by_shape.setdefault(image.pixels.shape, []).append(image)
        for (height, width, channels), members in by_shape.items():
            images, drawn = self._on_device(_stacked(members)), list(_drawn_together(members))
            place = slice(start, start + len(members))
            if (height, width, channels) == (*shape, batch.shape[1]):
                noised = self._noised_each(images, drawn, batch[place])
            else:  # padding and the replication of grey act on the noised image
                noised = self._noised_each(images, drawn, None)
                batch[place] = mirror_pad(noised, *shape)
            groups.append((place, members, images, noised))
            parts += [
                _Part(slice(start + part.start, start + part.stop), indices, draw, (height, width, channels))
                for part, indices, draw in drawn
            ]
            start = place.stop
        prediction = self._predict(batch, self._for(batch), self._noise(batch, parts))
        results: list[Iterator[Denoised]] = []
        for place, members, images, noised in groups:
            height, width = noised.shape[2:]
            leaving = _Leaving(*self._finish(noised, prediction[place, :, :height, :width]))
            results.append(self._results(members, images, leaving))
        pixels = float(sum(height * width * len(members) for (height, width, _), members in by_shape.items()))
        return pixels, itertools.chain.from_iterable(results)

    def _on_device(self, images: Tensor) -> Tensor:
        if self.device.type == "cuda" and not images.is_cuda:
            return images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.device)

    def _results(self, members: Sequence[_Image], images: Tensor, leaving: _Leaving) -> Iterator[Denoised]:
        """The results of members, which are images on the device."""
        results, finite = leaving.arrived()
        for position, (image, pixels, good) in enumerate(zip(members, results, finite, strict=True)):
            if good:
                yield Denoised(image.index, pixels, False, True, image.draw.run)
            else:
                yield self._retry(_Image(image.index, images[position], image.draw))

    @refusing("the denoiser")
    @torch.inference_mode()
    def _tiles(self, image: _Image, dtype: str | None = None) -> list[_Tile]:
        """The tiles of one image, noised as a whole."""
        pixels = self._on_device(image.tensor[None])
        noised = self._noised(pixels, [image.index], image.draw, dtype or self.dtype)
        height, width, _ = image.pixels.shape
        blend = Blend(self.shapes, height, width, self.device)
        pending = _Pending(image.index, image.draw, pixels, noised, blend)
        return [_Tile(pending, place) for place in blend.places()]

    def _fill(self, batch: Tensor, tiles: list[_Tile]) -> Tensor:
        height, width = batch.shape[2:]
        for position, tile in enumerate(tiles):
            top, left = tile.place[:2]
            window = tile.image.noised[0, :, top : top + height, left : left + width]
            batch[position] = mirror_pad(window, height, width)
        return batch

    def _noise_of_tiles(self, batch: Tensor, tiles: list[_Tile]) -> Noise:
        parts = [
            _Part(slice(i, i + 1), [tile.image.index], tile.image.draw, _shape(tile.image.pixels), tile.place[:2])
            for i, tile in enumerate(tiles)
        ]
        return self._noise(batch, parts)

    @refusing("the denoiser")
    @torch.inference_mode()
    def _run_tiles(
        self, tiles: list[_Tile], shape: tuple[int, int], size: int | None = None
    ) -> tuple[float, Iterator[Denoised]]:
        """One batch of tiles; gives the images that it completes. size: as for _run_whole."""
        results: list[Iterator[Denoised]] = []
        batch = self._fill(self._blank(size or len(tiles), *shape), tiles)
        prediction = self._predict(batch, self._for(batch), self._noise_of_tiles(batch, tiles))
        for tile, predicted in zip(tiles, prediction[: len(tiles)], strict=True):
            whole = tile.image.blend.add(predicted, tile.place)
            if whole is not None:
                image = tile.image
                leaving = _Leaving(*self._finish(image.noised, whole[None]))
                whole_image = _Image(image.index, image.pixels[0], image.draw)
                results.append(self._results([whole_image], image.pixels, leaving))
        return sum(tile.image.blend.share for tile in tiles), itertools.chain.from_iterable(results)

    @refusing("the denoiser")
    @torch.inference_mode()
    def _retry(self, image: _Image) -> Denoised:
        """One image again in float32, tile by tile, with the same noise."""
        index, run = image.index, image.draw.run
        if self.dtype == "fp32":
            return Denoised(index, np.zeros(image.pixels.shape, np.uint8), retried=False, finite=False, run=run)
        tiles = self._tiles(image, "fp32")
        whole: Tensor | None = None
        for tile in tiles:
            batch = self._fill(self._blank(1, *tile.place[2:], dtype=torch.float32), [tile])
            prediction = self._predict(batch, self._exact, self._noise_of_tiles(batch, [tile]))
            whole = tile.image.blend.add(prediction[0], tile.place)
        assert whole is not None
        pixels, finite = self._finish(tiles[0].image.noised, whole[None])
        return Denoised(index, pixels[0].cpu().numpy(), retried=True, finite=bool(finite[0]), run=run)
