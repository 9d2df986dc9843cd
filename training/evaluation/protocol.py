"""How every figure is measured, in the words that reports carry.

There are two protocols: ``service``, this project's own, and ``paper``, what the published runs'
configuration says. A change here changes what figures mean: raise :data:`VERSION`, and folders of
unfinished evaluations will be refused instead of mixed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from flowmo.imaging.quality import IDENTICAL_PSNR
from flowmo.imaging.reading import Pixels
from flowmo.training.data.images import read_bilinear_square, read_training_square
from flowmo.training.evaluation.errors import EvaluationError

VERSION = 3

NEIGHBOURS = 3
"""k of precision and recall, the usual one."""

FID_PICTURES = 2049
"""Fewer leave the covariance of 2,048 features singular."""

MANIFOLD_PICTURES = 10_000
"""Pictures of a reference that precision and recall are measured against, as in ADM's files."""

INCEPTION, VGG16 = "inception-v3-compat", "vgg16"
"""Features by network: InceptionV3 with TensorFlow's weights and resizing, and VGG-16."""

PYTORCH_FID = "inception-v3-pytorch-fid"
"""The same weights, resized and scaled as the program pytorch-fid does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """One way to measure.

    Attributes:
        name: ``service`` or ``paper``.
        read: An image file's bytes and S to the square that is reconstructed, uint8 [S, S, 3].
        truncates: Whether a reconstruction's values lose their fraction, instead of being rounded.
        psnr_batch: The number of consecutive pictures whose mean squared error gives one PSNR.
        ssim: ``gaussian`` (11 pixels, sigma 1.5) or ``uniform`` (7 x 7 pixels).
        fid: The features that rFID rests on.
        manifold: The features that precision and recall rest on.
        text: What each figure is, in words.
    """

    name: str
    read: Callable[[bytes, int], Pixels]
    truncates: bool
    psnr_batch: int
    ssim: Literal["gaussian", "uniform"]
    fid: str
    manifold: str
    text: Mapping[str, str]


_SHARED = {
    "noise": "a picture's number in the list is the seed of its noise",
    "lpips": "version 0.1 with torchmetrics' layers on torchvision's backbone, images in [-1, 1], "
    "at the pictures' own size, averaged over pictures",
    "reference": "the same distances between reconstructions and other pictures, cut alike, on "
    "TensorFlow's resizing; mean and covariance of all of them, precision and recall against "
    f"{MANIFOLD_PICTURES:,} of them, evenly spaced",
    "bytes": "of the packed tokens without a container; of codecs the whole file, which is the "
    "best PSNR over qualities and over shrinking first, in at most the tokens' bytes",
}

SERVICE = Protocol(
    name="service",
    read=read_training_square,
    truncates=False,
    psnr_batch=1,
    ssim="gaussian",
    fid=INCEPTION,
    manifold=VGG16,
    text={
        "pictures": "read as the service reads an upload: EXIF orientation applied, colours "
        "converted to sRGB, transparency laid over white, JPEGs of at least four times the side "
        "decoded at a reduced scale, the largest centred square resized to S x S (Lanczos), 8 bits "
        "a value. It equals the usual 'resize the shorter side to S, crop S x S from the centre' "
        "up to rounding of the crop's place",
        "rounding": "reconstructions are rounded to 8 bits before any metric",
        "psnr": "dB of the mean squared error over all values 0 ... 255 of a picture, then "
        f"averaged over pictures; an identical picture counts as {IDENTICAL_PSNR:g} dB",
        "ssim": "torchmetrics: Gaussian window of 11 pixels, sigma 1.5, data range 255, float64, "
        "mean over pixels and channels, then over pictures",
        "rfid": "Frechet distance between the Gaussians of torch-fidelity's inception-v3-compat "
        "features (2048) of originals and reconstructions, statistics in float64",
        "precision_recall": f"Kynkaanniemi et al. 2019, k = {NEIGHBOURS}, by torch-fidelity on its "
        "VGG-16 features (fc2_relu, 4096): precision is the share of reconstructions within the "
        "originals' manifold, recall that of originals within the reconstructions'",
        **_SHARED,
    },
)

PAPER = Protocol(
    name="paper",
    read=read_bilinear_square,
    truncates=True,
    psnr_batch=5,
    ssim="uniform",
    fid=PYTORCH_FID,
    manifold=INCEPTION,
    text={
        "pictures": "the shorter side resized to S (bilinear with antialiasing), S x S cropped "
        "from the centre, 8 bits a value; orientation and profile applied as everywhere here, "
        "which few files of ImageNet have",
        "rounding": "values 0 ... 255 of reconstructions lose their fraction before any metric",
        "psnr": "dB of the mean squared error over all values of 5 pictures that follow one "
        "another in the list, then averaged over such batches",
        "ssim": "uniform window of 7 x 7 pixels with the sample covariance (49 / 48), data range "
        "255, float64, over whole windows and channels, averaged over pictures",
        "rfid": "Frechet distance between the Gaussians of InceptionV3's features (2048) of "
        "originals and reconstructions with the resizing of pytorch-fid: bilinear to 299 x 299 "
        "without antialiasing, half-pixel centres, values in [-1, 1]",
        "precision_recall": f"Kynkaanniemi et al. 2019, k = {NEIGHBOURS}, on InceptionV3's "
        "features (2048) with TensorFlow's resizing, as ADM's evaluator has it",
        **_SHARED,
    },
)

PROTOCOLS = {protocol.name: protocol for protocol in (SERVICE, PAPER)}


def find_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        EvaluationError: There is none.
    """
    if name not in PROTOCOLS:
        raise EvaluationError(f"the protocol is {' or '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]
