"""How every figure is measured, in the words that reports carry.

A change here changes what figures mean: raise :data:`VERSION`, and folders of unfinished
evaluations will be refused instead of mixed.
"""

from flowmo.imaging.quality import IDENTICAL_PSNR

VERSION = 2

NEIGHBOURS = 3
"""k of precision and recall, the usual one."""

FID_PICTURES = 2049
"""Fewer leave the covariance of 2,048 features singular."""

PROTOCOL: dict[str, str] = {
    "pictures": "read as the service reads an upload: EXIF orientation applied, colours converted "
    "to sRGB, transparency laid over white, JPEGs of at least four times the side decoded at a "
    "reduced scale, the largest centred square resized to S x S (Lanczos), 8 bits a value. It "
    "equals the usual 'resize the shorter side to S, crop S x S from the centre' up to rounding of "
    "the crop's place",
    "rounding": "reconstructions are rounded to 8 bits before any metric",
    "noise": "a picture's number in the list is the seed of its noise",
    "psnr": "dB of the mean squared error over all values 0 ... 255 of a picture, then averaged "
    f"over pictures; an identical picture counts as {IDENTICAL_PSNR:g} dB",
    "ssim": "torchmetrics: Gaussian window of 11 pixels, sigma 1.5, data range 255, float64, mean "
    "over pixels and channels, then over pictures",
    "lpips": "version 0.1 with torchmetrics' layers on torchvision's backbone, images in [-1, 1], "
    "at the pictures' own size, averaged over pictures",
    "rfid": "Frechet distance between the Gaussians of torch-fidelity's inception-v3-compat "
    "features (2048) of originals and reconstructions, statistics in float64",
    "precision_recall": f"Kynkaanniemi et al. 2019, k = {NEIGHBOURS}, by torch-fidelity on its "
    "VGG-16 features (fc2_relu, 4096): precision is the share of reconstructions within the "
    "originals' manifold, recall that of originals within the reconstructions'",
    "reference": "the same distances between reconstructions and other pictures, cut alike",
    "bytes": "of the packed tokens without a container; of codecs the whole file, which is the "
    "best PSNR over qualities and over shrinking first, in at most the tokens' bytes",
}
