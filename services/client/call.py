"""Sends one request to a model and shows the answer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .channel import check_deadline
from .client import Client
from .draw import U8Image, draw_detections
from .errors import InvalidInput, StarlingError
from .models import ModelInfo
from .report import build_json, find_top, get_labels, is_detector, print_prediction
from .specs import build_inputs, read_specs
from .tensors import get_texts
from .tls import Tls
from .values import Array, Prediction

_EXIT_REFUSED = 1
_EXIT_USAGE = 2
_LOOK_S = 5.0  # asking what the model is like is no part of the deadline
_ARRAYS, _DRAWABLE = ".npz", (".png", ".jpg", ".jpeg")
_EPILOG = """examples:
  starling call nanodet --input frame=@photo.jpg --out result.png
  starling call raptor --input obs=zeros:1x22:fp32 --input h=zeros:1x16:fp32 --json
  starling call nanodet --input frame=@photo.jpg --ca ca.crt --cert tls.crt --key tls.key --token-file acme.jwt
  starling call silero-vad --input audio=zeros:1x512:fp32 --sequence-id microphone --sequence-start
"""


def main(argv: Sequence[str]) -> int:
    """Runs `starling call`.

    Returns:
        0 when the model answered, 1 when it did not, 2 when the command line is wrong.
    """
    options = _build_parser().parse_args(argv)
    out = Path(options.out).expanduser() if options.out else None
    try:
        _check_out(out)
        check_deadline(options.deadline_ms / 1e3)
        specs = read_specs(options.input)  # what is wrong with them is known without asking anybody
        with Client(options.target, tls=_read_tls(options)) as client:
            model = _find_model(client, options)
            inputs = build_inputs(specs, model)
            prediction = client.predict(
                options.model,
                inputs,
                deadline_s=options.deadline_ms / 1e3,
                version=options.version,
                sequence_id=options.sequence_id,
                sequence_start=options.sequence_start,
                sequence_end=options.sequence_end,
            )
        _show(prediction, model, as_json=options.json, min_score=options.min_score)
        if out is not None:
            _save(out, inputs, prediction, model, options.min_score)
    except InvalidInput as error:
        print(f"starling call: {error}", file=sys.stderr)
        return _EXIT_USAGE
    except StarlingError as error:
        print(f"starling call: {_explain(error)}", file=sys.stderr)
        return _EXIT_REFUSED
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starling call",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="name of the model, as in its repository")
    add(
        "--input",
        metavar="NAME=SPEC",
        action="append",
        required=True,
        help="one per input: NAME=@photo.jpg, NAME=@array.npy, NAME=zeros:1x3x4:fp32 or NAME=[[1, 2]]",
    )
    add("--target", metavar="HOST:PORT", default="127.0.0.1:50051", help="gateway or node (default: %(default)s)")
    add("--deadline-ms", metavar="MS", type=float, default=1000.0, help="time to wait (default: %(default)g)")
    add("--version", metavar="N", type=int, default=0, help="version of the model (default: the highest loaded)")
    add("--sequence-id", metavar="ID", default="", help="sequence that the request is a step of")
    add("--sequence-start", action="store_true", help="it is the first step: its state begins with zeros")
    add("--sequence-end", action="store_true", help="it is the last step: its state is freed")
    add("--out", metavar="FILE", help=".png or .jpg: the picture with what was found; .npz: the arrays")
    add("--min-score", metavar="X", type=float, default=0.35, help="lowest score shown (default: %(default)g)")
    add("--ca", metavar="FILE", help="authorities to trust, PEM; connects with TLS")
    add("--cert", metavar="FILE", help="own certificate, PEM; connects with TLS")
    add("--key", metavar="FILE", help="private key of the certificate, PEM")
    add("--token-file", metavar="FILE", help="file with the token to send; connects with TLS")
    add("--server-name", metavar="NAME", help="name that the server has to prove (default: the target's host)")
    add("--json", action="store_true", help="print one JSON object instead of tables")
    return parser


def _read_tls(options: argparse.Namespace) -> Tls | None:
    """Returns how to connect securely; None when no flag asks for it."""
    flags = (options.ca, options.cert, options.key, options.token_file, options.server_name)
    if not any(flags):
        return None
    return Tls(
        ca=options.ca,
        cert=options.cert,
        key=options.key,
        token=options.token_file,
        server_name=options.server_name or "",
    )


def _check_out(out: Path | None) -> None:
    """Refuses an output that could not be written, before anything is sent.

    Raises:
        InvalidInput: its ending is unknown or its folder does not exist.
    """
    if out is None:
        return
    if out.suffix.lower() not in (_ARRAYS, *_DRAWABLE):
        raise InvalidInput(f"--out {out} ends in {out.suffix or 'nothing'!r}; expected .png, .jpg or .npz")
    if not out.parent.is_dir():
        raise InvalidInput(f"--out {out}: there is no folder {out.parent}")


def _find_model(client: Client, options: argparse.Namespace) -> ModelInfo | None:
    """Returns what the node says about the model; None where the peer has no model service.

    Raises:
        StarlingError: the node does not have the model, or cannot be reached.
    """
    try:
        deadline_s = max(_LOOK_S, options.deadline_ms / 1e3)
        return client.model(options.model, options.version, deadline_s=deadline_s)
    except StarlingError as error:
        if error.status == "UNIMPLEMENTED":
            return None
        raise


def _show(prediction: Prediction, model: ModelInfo | None, *, as_json: bool, min_score: float) -> None:
    if as_json:
        print(json.dumps(build_json(prediction, model, min_score=min_score)))
        return
    from rich.console import Console

    print_prediction(Console(), prediction, model, min_score=min_score)


def _save(
    out: Path, inputs: Mapping[str, Array], prediction: Prediction, model: ModelInfo | None, min_score: float
) -> None:
    """Writes the arrays, or the first picture with what was found in it.

    Raises:
        InvalidInput: there is no picture among the inputs, or the file cannot be written.
    """
    try:
        if out.suffix.lower() == _ARRAYS:
            arrays: dict[str, Any] = {name: get_texts(array) for name, array in prediction.outputs.items()}
            with out.open("wb") as file:
                np.savez(file, **arrays)
        elif not cv2.imwrite(str(out), _draw(inputs, prediction, model, min_score)):
            raise InvalidInput(f"{out} cannot be written; is there room, and may you?")
    except OSError as error:
        raise InvalidInput(f"{out} cannot be written: {error}") from error
    print(f"wrote {out}", file=sys.stderr)


def _draw(inputs: Mapping[str, Array], prediction: Prediction, model: ModelInfo | None, min_score: float) -> U8Image:
    frame = _find_frame(inputs)
    caption = f"{prediction.model}:{prediction.version}  {prediction.node}  {prediction.round_trip_us / 1e3:.1f} ms"
    if is_detector(prediction):
        return draw_detections(
            frame,
            prediction["boxes"][0],
            prediction["scores"][0],
            prediction["classes"][0],
            get_labels(model, "classes"),
            min_score=min_score,
            caption=caption,
        )
    for name, array in prediction.outputs.items():
        labels = get_labels(model, name)
        if labels and array.ndim and array.shape[-1] == len(labels):
            label, value = find_top(array, labels)[0][0]
            caption = f"{label} {value:.2f}  {caption}"
    return draw_detections(frame, np.zeros((0, 4)), (), (), (), caption=caption)


def _find_frame(inputs: Mapping[str, Array]) -> U8Image:
    for array in inputs.values():
        if array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] == 3 and len(array):
            return np.asarray(array[0], np.uint8)
    raise InvalidInput("--out draws on the picture that is sent, and none of the inputs is one; use .npz")


def _explain(error: StarlingError) -> str:
    """Returns an error as one line, with its reason and what it asks for."""
    reason = f" [{error.reason}]" if error.reason else ""
    retry = "" if error.retry_delay_s is None else f"; try again in {error.retry_delay_s:g} s"
    hint = ""
    if error.status == "UNAVAILABLE" and not error.reason:
        # A port that speaks TLS ends a plain connection in more than one way.
        hint = "; `starling up` starts a mesh on this machine, one with TLS wants --ca, --cert and --key"
    message = error.message.removesuffix("; try again") if retry else error.message
    return f"{message}{reason}{retry}{hint}"
