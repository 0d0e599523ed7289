"""Finds things in a picture: `python tests/examples/detect.py photo.jpg [HOST:PORT]`.

Needs a gateway or a node with the model `nanodet`; `starling up` starts both on this machine.
"""

import sys

import cv2

from services.client import Client, StarlingError


def main(path: str, target: str = "127.0.0.1:50051") -> int:
    """Prints one line per thing in the first frame of a picture or a video."""
    read, frame = cv2.VideoCapture(path).read()
    if not read:
        print(f"{path} is neither a picture nor a video", file=sys.stderr)
        return 2
    with Client(target) as client:
        try:
            labels = client.model("nanodet").labels_by_output["classes"]
            found = client.predict("nanodet", {"frame": frame[None]}, deadline_s=0.5)
        except StarlingError as error:
            print(f"no answer: {error!r}", file=sys.stderr)
            return 1
    for i in range(int(found["count"][0])):
        if found["scores"][0, i] >= 0.35:
            box = found["boxes"][0, i].round().astype(int)
            print(f"{labels[found['classes'][0, i]]:<12} {found['scores'][0, i]:.2f}  {box}")
    print(f"{found.node} answered in {found.round_trip_us / 1000:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) in (2, 3) else __doc__)
