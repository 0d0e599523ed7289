"""Tests of reading and writing `config.pbtxt`."""

import string
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import InvalidConfig
from engines.config import Autopilot, DataType, ModelConfig, Postprocess, StateConfig, TensorConfig
from engines.config_complete import Graph
from engines.config_render import render_config
from engines.config_text import parse_config, read_config
from engines.textformat import Scalar, parse_text, quote

DETECTOR = """
# A detector.
name: "nanodet"
backend: "openvino"
max_batch_size: 8
input [ { name: "frame" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
output [
  { name: "boxes" data_type: TYPE_FP32 dims: [ 100, 4 ] },
  { name: "scores" data_type: TYPE_FP32 dims: [ 100 ] },
  { name: "classes" data_type: TYPE_INT32 dims: [ 100 ] label_filename: "labels.txt" },
  { name: "count" data_type: TYPE_INT32 dims: [ ] }
]
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching {
  preferred_batch_size: [ 2, 4 ]
  max_queue_delay_microseconds: 500
  default_queue_policy { max_queue_size: 32 default_timeout_microseconds: 100000 }
}
version_policy: { latest: { num_versions: 2 } }
parameters { key: "starling.postprocess" value { string_value: "nms" } }
parameters { key: "starling.nms_score_threshold" value { string_value: "0.4" } }
parameters { key: "starling.nms_iou_threshold" value { string_value: "0.6" } }
parameters { key: "starling.threads" value { string_value: "2" } }
parameters { key: "starling.queue_bytes_max" value { string_value: "1048576" } }
"""

ECHO = """
name: "echo" backend: "identity" max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 64 }
output { name: "y" data_type: TYPE_FP32 dims: 64 }
"""


def problem(text: str) -> str:
    with pytest.raises(InvalidConfig) as caught:
        parse_config(text)
    return str(caught.value)


def test_every_field_of_the_subset_is_read() -> None:
    config = parse_config(DETECTOR, folder="nanodet")
    assert config.inputs == (TensorConfig("frame", DataType.UINT8, (-1, -1, 3)),)
    assert config.outputs[2].label_filename == "labels.txt"
    assert config.outputs[3].dims == ()
    assert config.buckets == (1, 2, 4, 8)
    assert (config.instance_count, config.version_count, config.threads) == (2, 2, 2)
    assert (config.batch_delay_us, config.queue_max, config.default_timeout_us) == (
        500,
        32,
        100_000,
    )
    assert config.postprocess is Postprocess.NMS
    assert (config.nms_score_threshold, config.nms_iou_threshold) == (0.4, 0.6)
    assert config.queue_bytes_max == 1 << 20


def test_defaults_fill_what_is_absent() -> None:
    config = parse_config(ECHO)
    assert config.buckets == (1, 4)
    assert config.queue_max == 64
    assert config.batch_delay_us == 0


def test_unknown_field_is_refused_with_name_and_line() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_config(
            DETECTOR.replace("KIND_CPU", "KIND_CPU gpus: [ 0 ]"),
            "repo/nanodet/config.pbtxt",
        )
    assert "repo/nanodet/config.pbtxt:13: unknown field `instance_group.gpus`" in str(caught.value)
    assert caught.value.facts == {
        "path": "repo/nanodet/config.pbtxt",
        "line": 13,
        "field": "instance_group.gpus",
    }


def test_every_problem_is_listed_at_once() -> None:
    text = problem('platform: "tensorrt_plan"\nname: 7\nmax_batch_size: 4097\nensemble_scheduling { }\n')
    for part in (
        ':1: `platform` is "tensorrt_plan"; expected one of onnxruntime_onnx, openvino',
        ":4: unknown field `ensemble_scheduling`",
        ":2: `name` is `7`; expected a string in quotes",
        ":3: `max_batch_size` is `4097`; expected an integer from 0 to 4096",
        "`input` is missing",
        "`output` is missing",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[ 2, 4 ]", "[ 2, 16 ]", "16 exceeds `max_batch_size` 8"),
        ("[ 2, 4 ]", "[ 2, 2 ]", "expected each size once"),
        ("TYPE_UINT8", "TYPE_BYTES", "`input.data_type` is `TYPE_BYTES`; expected one of TYPE_BOOL"),
        ('"openvino"', '"pytorch"', "expected one of identity, onnxruntime, openvino"),
        ("KIND_CPU", "KIND_GPU", "this node runs models on the CPU alone; use KIND_CPU or KIND_AUTO"),
        ("KIND_CPU", "KIND_TPU", "expected one of KIND_CPU, KIND_AUTO"),
        ("[ -1, -1, 3 ]", "[ 1 ] reshape { shape: [ ] }", "give `dims` the shape that the model itself has"),
        ("[ -1, -1, 3 ]", "[ 1 ] optional: true", "a request sends every input here; remove it"),
        ("[ -1, -1, 3 ]", "[ 1 ] format: FORMAT_CHW", "expected one of FORMAT_NONE, FORMAT_NHWC, FORMAT_NCHW"),
        ("max_queue_size: 32", "timeout_action: DELAY", "what is late is never computed here"),
        ("preferred_batch_size: [ 2, 4 ]", "preserve_ordering: true", "answers leave when they are ready"),
        ("preferred_batch_size: [ 2, 4 ]", "priority_levels: 3", "is 0 with 3 priority_levels; expected 1 to 3"),
        ("preferred_batch_size: [ 2, 4 ]", "priority_levels: 9", "expected an integer from 0 to 4"),
        ("preferred_batch_size: [ 2, 4 ]", "priority_queue_policy { }", "ours share one"),
        ("max_batch_size: 8", "max_batch_size: 8 model_transaction_policy { decoupled: true }", "one answer here"),
        ("max_batch_size: 8", 'max_batch_size: 8 model_warmup { inputs { key: "x" value { input_data_file: "f" } } }',
         "unknown field `model_warmup.inputs.value.input_data_file`"),
        ("max_batch_size: 8", 'max_batch_size: 8 default_model_filename: "../x"', "without `/`"),
        ("-1, -1, 3", "-1, 0, 3", "has a 0"),
        ("-1, -1, 3", "-2", "expected an integer from -1"),
        ("dims: [ -1, -1, 3 ]", "", "`input.dims` is missing"),
        ('"labels.txt"', '"../labels.txt"', "expected a file name in the model's folder"),
        ('"nms"', '"topk"', 'expected "nms"'),
        ('"0.4"', '"1.5"', "expected a number from 0 to 1"),
        ('"0.4"', '"nan"', "expected a number from 0 to 1"),
        ('"starling.threads"', '"threads"', 'unknown parameter "threads"'),
        ('"starling.threads"', '"starling.postprocess"', "is given twice"),
        ('"starling.postprocess" value { string_value: "nms" }', '"starling.threads" value {string_value: "1"}',
         'needs "starling.postprocess"'),
        ("100, 4", "100, 5", "describe exactly these outputs"),
        ('name: "scores"', 'name: "boxes"', 'two outputs are called "boxes"'),
        ('"nanodet"', '"../nanodet"', "rename the model"),
        ("latest", "newest", "unknown field `version_policy.newest`"),
        ("max_batch_size: 8", "max_batch_size: 8 max_batch_size: 8", "given 2 times"),
        ('"2" } }', '"two" } }', "expected an integer from 1 to 256"),
        ("num_versions: 2", "num_versions: 2.5", "expected an integer"),
    ],
)  # fmt: skip
def test_wrong_values_and_contradictions_say_what_to_do(old: str, new: str, says: str) -> None:
    assert old in DETECTOR
    assert says in problem(DETECTOR.replace(old, new, 1))


SLO = 'parameters { key: "starling.slo_p99_ms" value { string_value: "40" } }\n'
PILOT = 'parameters { key: "starling.autopilot" value { string_value: "act" } }\n'


def test_an_objective_is_advised_upon_unless_told_otherwise() -> None:
    assert parse_config(ECHO).autopilot is Autopilot.OFF
    config = parse_config(ECHO + SLO)
    assert (config.slo_p99_ms, config.slo_miss_rate, config.autopilot) == (40.0, 0.01, Autopilot.ADVISE)
    assert parse_config(ECHO + SLO + PILOT).autopilot is Autopilot.ACT


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (PILOT, ':5: "starling.autopilot" needs an objective; add "starling.slo_p99_ms"'),
        (PILOT.replace("autopilot", "slo_miss_rate").replace("act", "0.1"), '"starling.slo_miss_rate" needs an'),
        (SLO + PILOT.replace('"act"', '"on"'), ':6: "starling.autopilot" is "on"; expected "off", "advise" or "act"'),
        (SLO.replace("40", "0"), '"starling.slo_p99_ms" is "0"; expected a number from 0.1 to 3600000'),
        (SLO + PILOT.replace("autopilot", "slo_miss_rate").replace("act", "2"), "expected a number from 0 to 1"),
        (
            SLO + 'parameters { key: "starling.discipline" value { string_value: "fifo" } }',
            '"starling.slo_p99_ms" has no meaning with "starling.discipline" "fifo"',
        ),
    ],
)
def test_an_objective_that_can_not_be_kept_is_refused(text: str, says: str) -> None:
    assert says in problem(ECHO + text)


def test_a_configuration_for_triton_means_the_same_here() -> None:
    config = parse_config(
        """
        platform: "onnxruntime_onnx"
        max_batch_size: 16
        input [ { name: "image" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ] } ]
        output [ { name: "logits" data_type: TYPE_FP32 dims: [ 1000 ] label_filename: "labels.txt" } ]
        version_policy { specific { versions: [ 1, 3 ] } }
        instance_group [ { name: "cpu" kind: KIND_AUTO } ]
        dynamic_batching {
          priority_levels: 2 default_priority_level: 2
          default_queue_policy { timeout_action: REJECT allow_timeout_override: true max_queue_size: 0 }
        }
        response_cache { enable: true }
        model_transaction_policy { decoupled: false }
        model_warmup [ { name: "w" batch_size: 1 inputs { key: "image"
          value { data_type: TYPE_FP32 dims: [ 3, 224, 224 ] zero_data: true } } } ]
        default_model_filename: "resnet.onnx"
        parameters { key: "intra_op_thread_count" value { string_value: "2" } }
        """,
        folder="resnet",
    )
    assert (config.name, config.backend, config.model_filename) == ("resnet", "openvino", "resnet.onnx")
    assert (config.version_numbers, config.inputs[0].format) == ((3, 1), "FORMAT_NCHW")
    assert (config.priority_levels, config.default_priority_level, config.default_class) == (2, 2, 2)
    assert (config.queue_max, config.response_cache_ms, config.threads) == (1 << 20, 10_000, 2)


def test_without_a_batch_dims_are_whole_shapes() -> None:
    config = parse_config(ECHO.replace("max_batch_size: 4", "max_batch_size: 0"))
    assert (config.batched, config.buckets) == (False, (1,))
    assert not parse_config(ECHO.replace("max_batch_size: 4", "")).batched
    unbatched = DETECTOR.replace("max_batch_size: 8", "max_batch_size: 0").replace("[ 2, 4 ]", "[ ]")
    assert "needs a batch" in problem(unbatched)


X, Y = TensorConfig("x", DataType.FP32, (-1, 3)), TensorConfig("y", DataType.FP32, (-1, 2))
FIXED = TensorConfig("x", DataType.FP32, (1, 3))


@pytest.mark.parametrize(
    ("text", "tensors", "largest", "dims"),
    [
        ("", (X, Y), 4, ((3,), (2,))),
        ("max_batch_size: 32", (X, Y), 32, ((3,), (2,))),
        ("max_batch_size: 0", (X, Y), 0, ((-1, 3), (-1, 2))),
        ("", (FIXED, Y), 0, ((1, 3), (-1, 2))),
        ('max_batch_size: 2 input { name: "x" data_type: TYPE_FP32 dims: 3 }', (X, Y), 2, ((3,), (2,))),
        ('input { name: "x" data_type: TYPE_FP32 dims: [ 1, 3 ] }', (FIXED, Y), 0, ((1, 3), (-1, 2))),
    ],
)
def test_what_is_left_out_comes_from_the_file(
    text: str, tensors: tuple[TensorConfig, TensorConfig], largest: int, dims: tuple[tuple[int, ...], ...]
) -> None:
    graph = Graph("model.onnx", tensors[:1], tensors[1:])
    config = parse_config(text, folder="m", graph=lambda _: graph)
    assert (config.name, config.backend, config.max_batch_size) == ("m", "openvino", largest)
    assert (config.inputs[0].dims, config.outputs[0].dims) == dims


def test_a_batch_that_the_file_has_not_is_refused() -> None:
    graph = Graph("model.onnx", (FIXED,), (Y,))
    with pytest.raises(InvalidConfig, match=r"not every tensor of model\.onnx begins with a free dimension"):
        parse_config("max_batch_size: 8", folder="m", graph=lambda _: graph)


def test_identity_must_answer_what_came_in() -> None:
    assert "answers each input as it came" in problem(ECHO.replace("dims: 64", "dims: 32", 1))


VOICE = """
name: "voice" backend: "openvino" max_batch_size: 8
input { name: "audio" data_type: TYPE_FP32 dims: 512 }
output { name: "speech" data_type: TYPE_FP32 dims: 1 }
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  oldest { max_candidate_sequences: 100 preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 200 }
  state [
    {
      input_name: "h" output_name: "hn" data_type: TYPE_FP32 dims: [ 2, 128 ]
      initial_state: { data_type: TYPE_FP32 dims: [ 2, 128 ] zero_data: true name: "silence" }
    },
    { input_name: "tail" output_name: "tail_out" data_type: TYPE_FP32 dims: 64 }
  ]
}
"""


def test_state_of_sequences_is_read_as_triton_writes_it() -> None:
    config = parse_config(VOICE)
    assert config.states == (
        StateConfig("h", "hn", DataType.FP32, (2, 128)),
        StateConfig("tail", "tail_out", DataType.FP32, (64,)),
    )
    assert (config.sequence_idle_us, config.sequences_max, config.queue_max) == (5_000_000, 100, 100)
    assert (config.buckets, config.batch_delay_us) == ((1, 4, 8), 200)
    direct = parse_config(
        VOICE.replace("oldest { max_candidate_sequences: 100 preferred_batch_size: [ 4 ]", "direct {")
    )
    assert (direct.sequences_max, direct.batch_delay_us) == (1024, 200)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("sequence_batching {", "dynamic_batching { } sequence_batching {", "expected one of them"),
        ("oldest {", "direct { } oldest {", "has both `oldest` and `direct`"),
        ("dims: 64", "dims: -1", "`sequence_batching.state.dims` is `-1`; expected an integer from 1"),
        ('output_name: "hn"', "", "`sequence_batching.state.output_name` is missing"),
        ('input_name: "h" ', 'input_name: "audio" ', '"audio" is both a state\'s input and another input'),
        ('"tail_out"', '"hn"', '"hn" is both a state\'s output and another output'),
        ("dims: [ 2, 128 ] zero", "dims: [ 256 ] zero", "another data_type or dims than its state"),
        ("zero_data: true", "zero_data: false", "only states of zeros begin a sequence"),
        ("zero_data: true", 'data_file: "x"', "unknown field `sequence_batching.state.initial_state.data_file`"),
        ("max_candidate_sequences: 100", "max_candidate_sequences: 0", "expected an integer from 1"),
        ("oldest {", "control_input { } oldest {", "unknown field `sequence_batching.control_input`"),
        ("\n}\n", '\n}\nparameters { key: "starling.response_cache_ms" value { string_value: "5" } }',
         "answers them by its state"),
    ],
)  # fmt: skip
def test_wrong_sequences_say_what_to_do(old: str, new: str, says: str) -> None:
    assert old in VOICE
    assert says in problem(VOICE.replace(old, new, 1))


def test_sequences_without_state_are_refused() -> None:
    assert "`sequence_batching.state` is missing" in problem(ECHO + "sequence_batching { }")


def test_name_must_equal_the_folder() -> None:
    with pytest.raises(InvalidConfig, match='`name` is "nanodet" but the folder is "other"'):
        parse_config(DETECTOR, folder="other")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name", "`name` has no value"),
        ("name:", "the file ends after `name:`"),
        ("name: }", "found `}` after `name:`"),
        ("input {", "the file ends inside a message; expected `}`"),
        ("dims: [ 1 2 ]", "found `2`; expected `,` or `]`"),
        ('name: "open', "unexpected character"),
        ("= 3", "unexpected character '='"),
        ("3: 4", "expected a field name"),
        ("a { " * 40, "nested deeper"),
    ],
)
def test_malformed_text_is_refused_with_its_line(text: str, says: str) -> None:
    assert says in problem("\n" + text)
    assert ":2: " in problem("\n" + text)


def test_unreadable_files_are_invalid_config(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    with pytest.raises(InvalidConfig, match="every model needs a readable config"):
        read_config(folder / "config.pbtxt")
    (folder / "config.pbtxt").write_bytes(b'name: "m"\n\xff')
    with pytest.raises(InvalidConfig, match=":2: byte 0xff is not UTF-8"):
        read_config(folder / "config.pbtxt")


def test_escapes_and_adjacent_strings() -> None:
    (field,) = parse_text(r"""a: "x\n\"\x41" 'b\101'""", "f").fields
    assert field.values == (Scalar("string", 'x\n"AbA', 1),)


@given(st.text())
def test_random_text_raises_nothing_but_invalid_config(text: str) -> None:
    with pytest.raises(InvalidConfig):
        parse_config(text)


@given(st.lists(st.sampled_from([*"{}[]<>:,", " ", "\n", "-1", "2.5", '"s"', "TYPE_FP32", *DETECTOR.split()])))
def test_random_tokens_raise_nothing_but_invalid_config(tokens: list[str]) -> None:
    with suppress(InvalidConfig):
        parse_config(" ".join(tokens))


@given(st.text())
def test_quoted_text_is_read_back(text: str) -> None:
    (field,) = parse_text(f"a: {quote(text)}", "f").fields
    assert isinstance(field.values[0], Scalar)
    assert field.values[0].text == text


NAMES = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12)
STATE_TYPES = [kind for kind in DataType if kind is not DataType.BYTES]
DIMS = st.lists(st.one_of(st.just(-1), st.integers(1, 2**31 - 1)), max_size=4).map(tuple)


def objectives() -> st.SearchStrategy[dict[str, object]]:
    return st.fixed_dictionaries(
        {
            "slo_p99_ms": st.floats(0.1, 3_600_000),
            "slo_miss_rate": st.floats(0, 1),
            "autopilot": st.sampled_from(Autopilot),
        }
    )


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    def tensors(labels: st.SearchStrategy[str]) -> tuple[TensorConfig, ...]:
        names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True))
        kinds = st.sampled_from(DataType)
        return tuple(TensorConfig(name, draw(kinds), draw(DIMS), draw(labels)) for name in names)

    most = draw(st.integers(0, 4096))
    numbers = draw(st.sampled_from([(), (7, 2)]))
    levels = draw(st.integers(0, 4))
    return ModelConfig(
        name=draw(NAMES),
        backend="openvino",
        max_batch_size=most,
        inputs=tensors(st.just("")),
        outputs=tensors(st.one_of(st.just(""), NAMES)),
        preferred_batch_sizes=tuple(draw(st.lists(st.integers(1, most), max_size=4, unique=True))) if most else (),
        priority_levels=levels,
        default_priority_level=min(levels, 1),
        model_filename=draw(st.sampled_from(["", "net.onnx"])),
        version_numbers=numbers,
        batch_delay_us=draw(st.integers(0, 10**6)),
        queue_max=draw(st.integers(1, 10**5)),
        default_timeout_us=draw(st.integers(0, 10**6)),
        instance_count=draw(st.integers(1, 64)),
        threads=draw(st.integers(1, 64)),
        queue_bytes_max=draw(st.integers(1 << 10, 1 << 40)),
        version_count=1 if numbers else draw(st.integers(0, 9)),
        **draw(st.just({}) | objectives()),
    )


@st.composite
def stateful_configs(draw: st.DrawFn) -> ModelConfig:
    config = draw(configs())
    taken = {one.name for one in (*config.inputs, *config.outputs)}
    names = draw(
        st.lists(st.text(min_size=1, max_size=8).filter(lambda name: name not in taken), min_size=1, unique=True)
    )
    dims = st.lists(st.integers(1, 2**31 - 1), max_size=4).map(tuple)
    sequences_max = draw(st.integers(1, 1 << 20))
    return replace(
        config,
        states=tuple(StateConfig(name, name, draw(st.sampled_from(STATE_TYPES)), draw(dims)) for name in names),
        sequence_idle_us=draw(st.integers(1, 3_600_000_000)),
        sequences_max=sequences_max,
        queue_max=sequences_max,
        default_timeout_us=0,
        priority_levels=0,
        default_priority_level=0,
    )


@given(configs() | stateful_configs())
def test_rendered_configuration_is_read_back(config: ModelConfig) -> None:
    assert parse_config(render_config(config), folder=config.name) == config


def test_rendered_detector_is_read_back() -> None:
    config = parse_config(DETECTOR)
    assert parse_config(render_config(config)) == config
