"""Recorded decoding steps. A tape stands in for a CUDA graph: it keeps every operation and does it again on replay."""

import weakref
from contextlib import contextmanager

import pytest
import torch
from devices import META, OneDevice, tensors, without_values
from small_networks import FAMILIES, OPTIONS, PROMPTS, load, trained_log_probs
from torch.utils._python_dispatch import TorchDispatchMode

from plaudit import cpu
from plaudit.sampling import decoders, in_process, recorded
from plaudit.sampling.decoders import SlotDecoder
from plaudit.sampling.in_process import draw, sample

PACKED = [family for family in FAMILIES if family != "mpt"]
TAPES = []


class Tape(TorchDispatchMode):
    """On replay every result is written where it was, as a graph's is; what Python knew while recording is fixed."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self.replays = 0
        TAPES.append(self)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def pool(self):
        return None

    def replay(self):
        self.replays += 1
        for function, args, kwargs, result in self.operations:
            for old, new in zip(tensors(result), tensors(function(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # else a view, or written in place
                    old.copy_(new)


class Waiting(TorchDispatchMode):
    """As PyTorch does where waiting for the device is an error."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("called a synchronizing CUDA operation")
        return function(*args, **(kwargs or {}))


class Streams:
    """Which is at work; as in PyTorch, a recording that fails leaves its own at work."""

    def __init__(self):
        self.now = "plain"

    @contextmanager
    def taping(self, tape, pool):
        self.now = "recording"
        try:
            with tape:
                yield
        except Exception:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
        self.now = "plain"


@pytest.fixture
def taped(monkeypatch):
    """As if the CPU could record, which it does at the second call; its kernels, which no tape sees, are off."""
    streams = Streams()
    monkeypatch.setenv("PLAUDIT_CPU_KERNELS", "off")
    monkeypatch.setattr(recorded, "records", lambda _: True)
    monkeypatch.setattr(recorded, "WORTHWHILE", 2)
    monkeypatch.setattr(recorded, "waiting_fails", Waiting)
    monkeypatch.setattr(recorded.Recorded, "works", True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", streams.taping)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams.now)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(streams, "now", stream))
    TAPES.clear()
    return streams


@pytest.mark.parametrize("family", PACKED)
def test_recorded_steps_draw_the_same_samples(family, tmp_path, taped, monkeypatch, capsys):
    """With rows that are filled again, left out and moved to the front, in one and in several blocks of columns."""
    network = load(family, tmp_path)
    with monkeypatch.context() as plainly:
        plainly.setattr(recorded, "records", lambda _: False)
        plain = sample(network, PROMPTS, **OPTIONS)
    monkeypatch.setattr(decoders, "SPARE_COLUMNS", 1)
    monkeypatch.setattr(in_process, "JOIN_FROM", 0.0)
    for rows, columns in ((2, 256), (5, 8), (21, 8)):
        monkeypatch.setattr(decoders, "COLUMNS_AT_ONCE", columns)
        made = len(TAPES)
        found = sample(network, PROMPTS, **OPTIONS, sequences_per_batch=rows)
        assert sum(tape.replays for tape in TAPES[made:]) > 3
        for group, others in zip(plain, found, strict=True):
            for one, other in zip(group, others, strict=True):
                assert (one.token_ids, one.finished) == (other.token_ids, other.finished)
                assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    assert "could not be recorded" not in capsys.readouterr().err


def test_trained_weights_count_and_a_nucleus_is_recorded_too(tmp_path, taped):
    network = load("llama", tmp_path)
    sample(network, PROMPTS, **OPTIONS)
    with torch.no_grad():
        for parameter in network.body.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    found = sample(network, PROMPTS, **OPTIONS)
    trained = trained_log_probs(network, found)
    for row, completion in enumerate(c for group in found for c in group):
        length = len(completion.token_ids)
        assert completion.log_probs == pytest.approx(trained[row, :length].tolist(), abs=1e-4)
    made = len(TAPES)
    narrow = sample(network, PROMPTS, **OPTIONS, top_p=0.5)
    assert sum(tape.replays for tape in TAPES[made:]) > 0
    assert narrow != found


@pytest.mark.parametrize("family", PACKED)
def test_a_recorded_step_asks_the_device_for_nothing(family):
    network = without_values(family, FAMILIES[family])
    tokens, starts, last = (torch.zeros(n, dtype=torch.long, device=META) for n in (3, 3, 1))
    with torch.no_grad(), cpu.packed_weights(network, 3) as products:
        decoder = SlotDecoder(network, products, 3, 4, 8)
        with OneDevice():
            (states,) = decoder._recorded_step(tokens, starts, last, 8)
            assert states.shape == (3, network.body.config.hidden_size)
            draw(network.head(states).float(), torch.zeros(3, device=META))
            with pytest.raises(RuntimeError):
                bool(states.sum() > 0)


def test_a_function_that_asks_is_never_recorded_and_that_is_said_once(taped, capsys):
    given = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]
    for _ in range(2):  # as the sampler makes one anew at each call
        function = recorded.Recorded(lambda x: (x * int(x.sum()),))
        assert [function(x)[0].tolist() for x in given * 2] == [[3.0, 6.0], [21.0, 28.0]] * 2
    assert capsys.readouterr().err.count("synchronizing") == 1
    assert TAPES == []


def test_a_recording_that_fails_leaves_the_stream_as_it_was(taped, capsys):
    def moody(x):
        if taped.now == "recording":
            raise RuntimeError("not permitted when stream is capturing")
        return (x + 1,)

    function = recorded.Recorded(moody)
    assert [function(torch.zeros(2))[0][0].item() for _ in range(4)] == [1.0] * 4
    assert taped.now == "plain"
    said = capsys.readouterr().err
    assert said.count("not permitted when stream is capturing") == 1
    assert "previous error" not in said


def test_a_recording_that_gives_other_numbers_is_not_used(taped, capsys):
    """What Python counts while recording stays what it was, so that this function cannot be replayed."""
    calls = []

    def counted(x):
        calls.append(1)
        return (x + len(calls),)

    function = recorded.Recorded(counted)
    found = [function(torch.zeros(2))[0][0].item() for _ in range(3)]
    assert found == [1.0, 2.0, 4.0]  # the third call was the recording
    assert "other numbers" in capsys.readouterr().err


def test_what_counts_as_other_numbers():
    torch.manual_seed(0)
    states = torch.randn(20, 64)
    states[:, 5] = 60  # one large dimension hides nothing
    turned = states.clone()
    turned[:2] = torch.randn(2, 64)
    tokens = torch.arange(48_000, 48_020)
    other = tokens.clone()
    other[:2] = 7
    unknown = torch.full((20, 64), torch.nan)
    assert not recorded._differ(states + 1e-3, states)
    assert not recorded._differ(turned, states)
    assert not recorded._differ(other, tokens)
    assert not recorded._differ(unknown, unknown)
    for wrong in (states + torch.randn_like(states), torch.zeros_like(states), unknown):
        assert recorded._differ(wrong, states)
    assert recorded._differ(tokens + 1, tokens)
    assert recorded._differ(tokens[:1] + 1, tokens[:1])
    assert recorded._differ(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -2.0]))


def test_shapes_and_numbers_have_recordings_of_their_own(taped):
    function = recorded.Recorded(lambda x, factor: (x * factor,))
    for _ in range(3):
        for size in (2, 3):
            for factor in (1, 5):
                x = torch.rand(size)
                torch.testing.assert_close(function(x, factor)[0], x * factor)
    assert len(function.recordings) == 4
    assert [tape.replays for tape in TAPES] == [2] * 4


def test_a_recording_keeps_no_decoder_alive(tmp_path, taped):
    network = load("llama", tmp_path)
    with torch.no_grad(), network.active(), cpu.packed_weights(network, 2) as products:
        decoder = SlotDecoder(network, products, 2, 3, 9)
        decoder.start([[1, 50, 60], [9]], [1, 1], torch.arange(2))
        for _ in range(3):
            decoder.step(torch.tensor([20, 21]), torch.ones(2, dtype=torch.bool))
        assert TAPES[0].replays == 2
        gone = weakref.ref(decoder)
        del decoder
        assert gone() is None
